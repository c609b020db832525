"""Pointwise operators: NumPy meaning and scalar form against ONNX Runtime, row by row of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes, symbol
from graphc.ops import express, infer_node
from graphc.ops.base import REGISTRY, Trait
from graphc.ops.render_numpy import evaluate_expression
from tests.ops.differential import case, check
from tests.ops.oracles import broadcastable, numbers, outside, seeds, whole_range

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int32", "int64", "uint8", "uint32")
NUMBERS = (*FLOATS, "int32", "int64")


@dataclass
class Row:
    """How an operator is tried.

    Args:
        count: Number of inputs, or the least and largest number.
        kinds: Dtypes of all inputs.
        attributes: Strategies of attributes.
        special: Whether NaN, infinities and ties are tried: where their result is defined and agreed on.
        rtol: Relative tolerance in float32.
    """

    count: int | tuple[int, int]
    kinds: tuple[str, ...] = FLOATS
    attributes: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    special: bool = False
    rtol: float = 2e-6


slopes = st.floats(0.125, 2.0, width=32)
signs = st.integers(0, 1)

ROWS: dict[str, Row] = {
    **{name: Row(1, special=True) for name in ("Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Exp", "Log")},
    **{name: Row(1) for name in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Tanh")},
    **{name: Row(1, ("float32",), rtol=1e-5) for name in ("Asinh", "Acosh", "Atanh")},
    **{
        name: Row(1, ("float32",), rtol=1e-5)
        for name in ("Sigmoid", "Erf", "Softplus", "Softsign", "Mish", "HardSwish")
    },
    "Abs": Row(1, (*FLOATS, *INTEGERS), special=True),
    "Neg": Row(1, (*FLOATS, "int8", "int32", "int64"), special=True),
    "Sign": Row(1, (*FLOATS, *INTEGERS)),
    "Relu": Row(1, (*FLOATS, "int8", "int32"), special=True),
    "Not": Row(1, ("bool",)),
    "BitwiseNot": Row(1, INTEGERS),
    "Identity": Row(1, (*FLOATS, *INTEGERS, "bool"), special=True),
    "IsNaN": Row(1, special=True),
    "IsInf": Row(1, attributes={"detect_negative": signs, "detect_positive": signs}, special=True),
    "LeakyRelu": Row(1, attributes={"alpha": slopes}, special=True),
    "ThresholdedRelu": Row(1, ("float32",), {"alpha": slopes}),
    "Elu": Row(1, attributes={"alpha": slopes}, rtol=1e-5),
    "Celu": Row(1, ("float32",), {"alpha": slopes}, rtol=1e-5),
    "Selu": Row(1, ("float32",), {"alpha": slopes, "gamma": slopes}, rtol=1e-5),
    "HardSigmoid": Row(1, ("float32",), {"alpha": slopes, "beta": slopes}, rtol=1e-5),
    "Shrink": Row(1, NUMBERS, {"bias": slopes, "lambd": slopes}),
    "Gelu": Row(1, ("float32",), {"approximate": st.sampled_from(("none", "tanh"))}, rtol=1e-5),
    "Swish": Row(1, ("float32",), {"alpha": slopes}, rtol=1e-5),
    "PRelu": Row(2, special=True),
    **{name: Row(2, (*NUMBERS, "int8", "uint8"), special=True) for name in ("Add", "Sub", "Mul")},
    **{name: Row(2, (*NUMBERS, "int8", "uint32"), special=True) for name in ("Greater", "Less")},
    **{name: Row(2, (*NUMBERS, "int8", "uint32"), special=True) for name in ("GreaterOrEqual", "LessOrEqual")},
    "Equal": Row(2, (*NUMBERS, "bool"), special=True),
    **{name: Row(2, ("bool",)) for name in ("And", "Or", "Xor")},
    **{name: Row(2, INTEGERS) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    **{name: Row((1, 4), (*FLOATS, "int32", "uint32"), special=True) for name in ("Min", "Max")},
    "Sum": Row((1, 4), ("float32", "float64")),
    "Mean": Row((1, 4), ("float32",)),
}
OWN_TESTS = {"Div", "Mod", "Pow", "BitShift", "Clip", "Where", "Cast", "CastLike"}
ELSEWHERE = {"SwiGLU"}
"""Tried beside the family that they stand in."""


def test_every_pointwise_operator_is_tried() -> None:
    registered = {
        name
        for (domain, name), versions in REGISTRY.names().items()
        if domain == "" and any(operator.has(Trait.POINTWISE) and operator.scalar for operator in versions)
    }
    assert registered - ELSEWHERE == set(ROWS) | OWN_TESTS


@pytest.mark.parametrize("name", ROWS)
@given(data=st.data(), seed=seeds)
@settings(max_examples=12)
def test_meaning_and_form(name: str, data: st.DataObject, seed: int) -> None:
    row = ROWS[name]
    count = row.count if isinstance(row.count, int) else data.draw(st.integers(*row.count))
    # PRelu's slope broadcasts to the data, not the other way.
    given_shapes = data.draw(broadcastable(count))
    if name == "PRelu":
        given_shapes = (np.broadcast_shapes(*given_shapes), given_shapes[1])
    kind = data.draw(st.sampled_from(row.kinds))
    attributes = {key: data.draw(strategy) for key, strategy in row.attributes.items()}
    arrays = [numbers(seed + i, shape, kind, special=row.special) for i, shape in enumerate(given_shapes)]
    check(case(name, arrays, **attributes), outside, rtol=row.rtol, atol=1e-6)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Sigmoid", "Gelu", "Exp", "Max", "Sum", "Softplus"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@given(seed=seeds)
@settings(max_examples=4)
def test_narrow_floats_round_once(name: str, kind: str, seed: int) -> None:
    count = 2 if name in ("Add", "Sub", "Mul", "Max", "Sum") else 1
    arrays = [numbers(seed + i, (3, 4), kind) for i in range(count)]
    wide = case(name, [array.astype(np.float32) for array in arrays]).evaluate()
    check(case(name, arrays), [wide[0].astype(arrays[0].dtype)], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Abs", "Neg"])
@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64"])
@given(seed=seeds)
@settings(max_examples=5)
def test_integers_wrap_around(name: str, kind: str, seed: int) -> None:
    count = 1 if name in ("Abs", "Neg") else 2
    arrays = [whole_range(seed + i, (6,), kind) for i in range(count)]
    modulus = 1 << (arrays[0].dtype.itemsize * 8)
    exact = {
        "Add": lambda a, b: a + b,
        "Sub": lambda a, b: a - b,
        "Mul": lambda a, b: a * b,
        "Abs": abs,
        "Neg": lambda a: -a,
    }[name]
    wanted = [exact(*(int(e) for e in elements)) for elements in zip(*(a.tolist() for a in arrays), strict=True)]
    signed = [(value + modulus // 2) % modulus - modulus // 2 for value in wanted]
    check(case(name, arrays), [np.array(signed, arrays[0].dtype)])


@given(broadcastable(2), st.sampled_from(("float32", "float64", "int8", "int32", "int64", "uint8")), seeds)
@settings(max_examples=40)
def test_div(given_shapes: tuple[tuple[int, ...], ...], kind: str, seed: int) -> None:
    x, y = (numbers(seed + i, shape, kind) for i, shape in enumerate(given_shapes))
    # Integers by zero have no meaning that implementations share.
    y = np.where(y == 0, y.dtype.type(3), y)
    check(case("Div", [x, y]), outside)


@given(broadcastable(2), st.sampled_from(("float32", "int8", "int32", "int64", "uint8")), signs, seeds)
@settings(max_examples=40)
def test_mod(given_shapes: tuple[tuple[int, ...], ...], kind: str, fmod: int, seed: int) -> None:
    x, y = (numbers(seed + i, shape, kind) for i, shape in enumerate(given_shapes))
    y = np.where(y == 0, y.dtype.type(3), y)
    check(case("Mod", [x, y], fmod=1 if kind == "float32" else fmod), outside, atol=1e-5)


@pytest.mark.parametrize("name", ["Div", "Mod"])
def test_integers_divided_by_zero_are_zero(name: str) -> None:
    x, y = np.array([7, -7, 0], np.int32), np.zeros(3, np.int32)
    check(case(name, [x, y]), [np.zeros(3, np.int32)])


@given(broadcastable(2), st.sampled_from(("float32", "float64", "int32", "int64")), st.sampled_from(NUMBERS), seeds)
@settings(max_examples=40)
def test_pow(given_shapes: tuple[tuple[int, ...], ...], base: str, exponent: str, seed: int) -> None:
    x, y = numbers(seed, given_shapes[0], base), np.asarray(np.abs(numbers(seed + 1, given_shapes[1], exponent)))
    x = np.asarray(np.abs(x)) if exponent in FLOATS else x
    check(case("Pow", [x, y]), outside, rtol=1e-4)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("kind", ["uint8", "uint32", "uint64"])
@given(seed=seeds)
@settings(max_examples=5)
def test_bit_shift(direction: str, kind: str, seed: int) -> None:
    x = whole_range(seed, (7,), kind)
    y = np.random.default_rng(seed).integers(0, x.dtype.itemsize * 8 + 2, (7,)).astype(x.dtype)
    mask = (1 << (x.dtype.itemsize * 8)) - 1
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    wanted = [(a << b) & mask if direction == "LEFT" else a >> b for a, b in pairs]
    check(case("BitShift", [x, y], direction=direction), [np.array(wanted, x.dtype)])


@given(
    st.lists(st.integers(1, 4), max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
    st.sampled_from(("float32", "int8", "int64")),
    seeds,
)
@settings(max_examples=30)
def test_clip(shape: tuple[int, ...], has_low: bool, has_high: bool, kind: str, seed: int) -> None:
    # Without a bound, ONNX Runtime takes the largest finite number for it.
    x = numbers(seed, shape, kind, special=has_low and has_high)
    low = np.array(-1, x.dtype) if has_low else None
    high = np.array(2, x.dtype) if has_high else None
    check(case("Clip", [x, low, high]), outside)


@given(broadcastable(3), st.sampled_from(("float32", "int64", "bool", "uint8")), seeds)
@settings(max_examples=30)
def test_where(given_shapes: tuple[tuple[int, ...], ...], kind: str, seed: int) -> None:
    condition = numbers(seed, given_shapes[0], "bool")
    branches = [numbers(seed + i, shape, kind, special=True) for i, shape in enumerate(given_shapes[1:])]
    check(case("Where", [condition, *branches]), lambda subject: [np.where(*subject.arrays)])


PLAIN = ("float32", "float64", "float16", "bfloat16", "int8", "int32", "int64", "uint8", "uint16", "bool")


@pytest.mark.parametrize("target", PLAIN)
@given(source=st.sampled_from(PLAIN), seed=seeds)
@settings(max_examples=10)
def test_cast(target: str, source: str, seed: int) -> None:
    # Negative numbers into unsigned integers are left to the implementation.
    data = numbers(seed, (3, 4), source, scale=5.0)
    data = np.abs(data.astype(np.float32)).astype(data.dtype) if target.startswith("uint") else data
    check(case("Cast", [data], to=dtypes.from_name(target).onnx), outside, rtol=1e-6)
    example = np.zeros((2,), dtypes.from_name(target).numpy)
    check(case("CastLike", [data, example]), outside, rtol=1e-6)


def test_casts_to_text_are_evaluated() -> None:
    subject = case("Cast", [np.float32([0.0, 1.0, -2.0, 3.5, 5.0])], to=dtypes.STRING.onnx)
    check(subject, [subject.reference()[0].astype(object)], expression=False)
    assert subject.express() is None


def test_dropout_passes_its_input() -> None:
    x = numbers(0, (3, 4), "float32")
    check(case("Dropout", [x], outputs=2), [x, np.ones((3, 4), np.bool_)])
    check(case("Dropout", [x, np.array(0.5, np.float32), np.array(False)], constants=[2]), [x])
    check(case("Dropout", [x, np.array(0, np.float32), np.array(True)], constants=[1, 2]), [x])
    training = case("Dropout", [x, np.array(0.5, np.float32), np.array(True)], constants=[2])
    training.infer()
    assert training.express() is None


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5}])
def test_defaults_are_the_schemas(attributes: dict[str, float]) -> None:
    x = numbers(3, (2, 5), "float32")
    for name in ("LeakyRelu", "Elu", "Celu", "Selu", "HardSigmoid", "ThresholdedRelu"):
        check(case(name, [x], **attributes), outside, rtol=1e-5)


def test_symbolic_extents_broadcast() -> None:
    n = symbol("n")
    graph = Graph(
        "g", [("x", TensorType(dtypes.FLOAT32, (n, 1, 4))), ("y", TensorType(dtypes.FLOAT32, (3, 1)))], opset=24
    )
    builder = Builder(graph, infer=infer_node)
    value = builder.op("Add", *graph.inputs)
    assert value.tensor_type.dims == (n, 3, 4)
    assert value.producer is not None
    expressions = express(value.producer)
    assert expressions is not None
    x, y = numbers(0, (2, 1, 4), "float32"), numbers(1, (3, 1), "float32")
    np.testing.assert_array_equal(evaluate_expression(expressions[0], [x, y], {"n": 2}), x + y)


def test_unknown_rank_keeps_the_dtype() -> None:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, None)), ("y", TensorType(dtypes.FLOAT32, (3,)))], opset=24)
    value = Builder(graph, infer=infer_node).op("Less", *graph.inputs)
    assert value.type == TensorType(dtypes.BOOL, None)


@pytest.mark.parametrize(
    ("name", "left", "right", "message"),
    [
        ("Add", ("float32", (2,)), ("float32", (3,)), "do not broadcast"),
        ("Add", ("float32", (2,)), ("int32", (2,)), "input 1 is int32, but input 0 is float32"),
        ("And", ("float32", (2,)), ("float32", (2,)), "does not take float32"),
        ("BitShift", ("float32", (2,)), ("float32", (2,)), "does not take float32"),
    ],
)
def test_misfits_are_named(name: str, left: Any, right: Any, message: str) -> None:
    graph = Graph("g", opset=24)
    values = [
        graph.add_input(f"x{i}", TensorType(dtypes.from_name(kind), shape))
        for i, (kind, shape) in enumerate((left, right))
    ]
    with pytest.raises(TypeInferenceError, match=message) as caught:
        Builder(graph, infer=infer_node).op(name, *values, name="culprit")
    assert caught.value.nodes == ("culprit",)
