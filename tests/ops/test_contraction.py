"""Contractions against ONNX Runtime and NumPy on random shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes, symbol
from graphc.ops.contraction import parse_equation
from graphc.ops.inference import infer_node
from tests.ops.differential import Case, case, check

extents = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def floats(seed: int, *shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def integers(seed: int, *shape: int, dtype: Any) -> np.ndarray[Any, Any]:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


@st.composite
def matmul_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    batch = draw(st.lists(extents, max_size=2))
    k = draw(extents)
    shapes = []
    for side in range(2):
        own = [draw(st.sampled_from((1, extent))) for extent in batch[draw(st.integers(0, len(batch))) :]]
        vector = not own and draw(st.booleans())
        other = draw(extents)
        shapes.append((k,) if vector else (*own, other, k) if side == 0 else (*own, k, other))
    return shapes[0], shapes[1]


@given(matmul_shapes(), seeds)
@settings(max_examples=40)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    a, b = shapes
    check(case("MatMul", [floats(seed, *a), floats(seed + 1, *b)]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32", "uint64"])
def test_matmul_of_other_dtypes(dtype: str) -> None:
    # Whole numbers are exact in every dtype, whatever the order of the sum.
    kind = dtypes.from_name(dtype).numpy
    random = np.random.default_rng(0)
    a, b = random.integers(0, 9, (2, 3, 4)), random.integers(0, 9, (2, 4, 2))
    check(case("MatMul", [a.astype(kind), b.astype(kind)]), [np.matmul(a, b).astype(kind)])


@given(
    st.tuples(extents, extents, extents), st.booleans(), st.booleans(), st.sampled_from([None, 0, 1, 2, 3, 4]), seeds
)
@settings(max_examples=40)
def test_gemm(mkn: tuple[int, int, int], turn_a: bool, turn_b: bool, addend: int | None, seed: int) -> None:
    m, k, n = mkn
    c = None if addend is None else [(), (n,), (1, n), (m, 1), (m, n)][addend]
    arrays = [floats(seed, *((k, m) if turn_a else (m, k))), floats(seed + 1, *((n, k) if turn_b else (k, n)))]
    if c is not None:
        arrays.append(floats(seed + 2, *c))
    check(case("Gemm", arrays, transA=int(turn_a), transB=int(turn_b), alpha=0.5, beta=1.5))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("bhid,bhjd->bhij", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (4, 5)]),
        ("...ij,jk->i...k", [(5, 2, 3, 4), (4, 5)]),
        ("ii->i", [(3, 3)]),
        ("ii", [(3, 3)]),
        ("ij->ji", [(2, 3)]),
        ("i,j,k->kji", [(2,), (3,), (4,)]),
        ("b i d , b j d -> b i j", [(2, 3, 4), (1, 5, 4)]),
        ("ij->", [(2, 3)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    arrays = [floats(i, *shape) for i, shape in enumerate(shapes)]
    plain = equation.replace(" ", "")
    check(case("Einsum", arrays, equation=equation), [np.asarray(np.einsum(plain, *arrays))])


@pytest.mark.parametrize("equation", ["ij,jk->iz", "ij->ii", "ijk,k->i", "i1->i", "ij"])
def test_malformed_einsum_is_refused(equation: str) -> None:
    with pytest.raises(ValueError, match="equation"):
        parse_equation(equation, [2, 2])


@given(matmul_shapes(), st.sampled_from(["none", "scalar", "vector"]), st.booleans(), seeds)
@settings(max_examples=40)
def test_matmul_integer(shapes: tuple[tuple[int, ...], tuple[int, ...]], zero: str, signed: bool, seed: int) -> None:
    a, b = shapes
    right = np.int8 if signed else np.uint8
    arrays = [integers(seed, *a, dtype=np.uint8), integers(seed + 1, *b, dtype=right)]
    if zero == "scalar":
        arrays += [integers(seed, dtype=np.uint8), integers(seed, dtype=right)]
    elif zero == "vector" and len(b) == 2 and len(a) > 1:
        arrays += [integers(seed, dtype=np.uint8), integers(seed, b[-1], dtype=right)]
    check(case("MatMulInteger", arrays))


def test_matmul_integer_with_a_zero_point_per_row() -> None:
    a, b = integers(0, 2, 3, dtype=np.uint8), integers(1, 3, 4, dtype=np.uint8)
    zero = integers(2, 2, dtype=np.uint8)
    check(case("MatMulInteger", [a, b, zero]), [(a.astype(np.int32) - zero[:, None]) @ b.astype(np.int32)])


def test_det() -> None:
    check(case("Det", [floats(0, 2, 3, 3)]), expression=False)


def test_symbolic_extents_pass_through() -> None:
    graph = Graph("g", [("a", TensorType(dtypes.FLOAT32, (symbol("n"), 12, symbol("s"), 64)))], opset=20)
    graph.add_input("b", TensorType(dtypes.FLOAT32, (64, 32)))
    made = Builder(graph).op("MatMul", *graph.inputs).producer
    assert made is not None
    assert infer_node(made) == [TensorType(dtypes.FLOAT32, (symbol("n"), 12, symbol("s"), 32))]


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (case("MatMul", [floats(0, 2, 3), floats(0, 4, 5)]), "inner extents differ"),
        (case("MatMul", [floats(0, 2, 2, 3), floats(0, 4, 3, 5)]), "do not broadcast"),
        (case("MatMul", [floats(0, 2, 3), floats(0, 3, 5, dtype=np.float64)]), "dtypes"),
        (case("Gemm", [floats(0, 2, 3), floats(0, 3, 5), floats(0, 3)]), "does not broadcast"),
        (case("Gemm", [floats(0, 2, 3, 1), floats(0, 3, 5)]), "must be matrices"),
        (case("Einsum", [floats(0, 2, 3), floats(0, 4, 5)], equation="ij,jk->ik"), "label 'j'"),
        (case("Det", [floats(0, 2, 3)]), "square"),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_node(subject: Case, text: str) -> None:
    subject.node.name = "culprit"
    with pytest.raises(TypeInferenceError, match=text) as caught:
        subject.infer()
    assert caught.value.nodes == ("culprit",)
