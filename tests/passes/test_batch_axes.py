"""Rows that are said to be independent are: by NumPy, on random graphs; and what mixes them is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, event, given, reject, settings
from hypothesis import strategies as st

from graphc.errors import GraphcError
from graphc.frontend import bind_dims
from graphc.ir import Builder, Graph, TensorType, Value, dtypes, symbol
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_node
from graphc.passes.batch_axes import Proof, prove

Step = Callable[[Builder, Value], Value]

N = symbol("n")


def build(steps: list[Step], shape: tuple[Any, ...] = (N, 4, 6)) -> Graph:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, shape))], opset=23)
    builder = Builder(graph, infer=infer_node)
    value = graph.inputs[0]
    for step in steps:
        value = step(builder, value)
    graph.outputs = [value]
    return graph


def run(graph: Graph, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    bound = graph.clone()
    bind_dims(bound, {"n": x.shape[graph.inputs[0].tensor_type.shape.index(N)]})  # type: ignore[union-attr]
    (result,) = evaluate_graph(bound, [x])
    return np.asarray(result)


def check_by_numpy(graph: Graph, proof: Proof) -> None:
    """Each row alone, in a batch of three, and in a batch of three in another place: the same."""
    (axis,), (out,) = proof.inputs, proof.outputs
    shape = [3 if dim == N else dim for dim in graph.inputs[0].tensor_type.shape or ()]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    together = run(graph, x)
    turned = run(graph, np.roll(x, 1, axis))
    for row in range(3):
        alone = run(graph, np.take(x, [row], axis))
        np.testing.assert_allclose(alone, np.take(together, [row], out), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone, np.take(turned, [(row + 1) % 3], out), rtol=1e-5, atol=1e-6)


def op(name: str, *constants: Any, **attributes: Any) -> Step:
    """An operator of the value and constants."""

    def step(b: Builder, x: Value) -> Value:
        return b.op(name, x, *(None if c is None else b.constant(np.asarray(c)) for c in constants), **attributes)

    return step


def fp(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def by_shape(b: Builder, x: Value) -> Value:
    """Reshape to [n, -1] by a computed shape, as exporters write it."""
    count = b.op("Shape", x, start=0, end=1)
    return b.op("Reshape", x, b.op("Concat", count, b.constant(np.array([-1])), axis=0))


def over_heads(b: Builder, x: Value) -> Value:
    """[n, 4, 6] as [2n, 2, 6] and back: a row is two places."""
    halves = b.op("Relu", b.op("Reshape", x, b.constant(np.array([-1, 2, 6]))))
    return b.op("Reshape", halves, b.constant(np.array([-1, 4, 6])))


def ones_of_its_rows(b: Builder, x: Value) -> Value:
    shape = b.op("Concat", b.op("Shape", x, start=0, end=1), b.constant(np.array([1, 6])), axis=0)
    return b.op("Add", x, b.op("Expand", b.constant(np.ones((1, 1), np.float32)), shape))


def by_row_numbers(b: Builder, x: Value) -> Value:
    """Picks column 2 of each row by (row, column) pairs, as exported masks do."""
    count = b.op("Squeeze", b.op("Shape", x, start=0, end=1))
    rows = b.op("Range", b.constant(np.array(0)), count, b.constant(np.array(1)))
    rows = b.op("Unsqueeze", rows, b.constant(np.array([1])))
    columns = b.op("Expand", b.constant(np.array([[2]])), b.op("Shape", rows))
    return b.op("GatherND", x, b.op("Concat", rows, columns, axis=1))


APART: dict[str, list[Step]] = {
    "pointwise": [op("Relu"), op("Add", fp(6)), op("Mul", fp(1, 4, 6))],
    "matmul": [op("MatMul", fp(6, 5)), op("Softmax", axis=-1)],
    "normalized": [op("LayerNormalization", fp(4, 6), axis=1)],
    "reduced": [op("ReduceMean", [1], keepdims=0), op("ReduceMax", [-1], keepdims=1)],
    "transposed": [op("Transpose", perm=[1, 2, 0]), op("ReduceSum", [1], keepdims=0), op("Transpose", perm=[1, 0])],
    "reshaped": [op("Reshape", [0, 24]), op("Gemm", fp(24, 3), fp(3))],
    "by its shape": [by_shape],
    "flattened": [op("Flatten")],
    "over heads": [over_heads],
    "expanded": [ones_of_its_rows],
    "by row numbers": [by_row_numbers],
    "sliced": [op("Slice", [1], [3], [1]), op("Pad", [0, 0, 1, 0, 0, 1])],
    "sorted": [op("TopK", [2], axis=2)],
    "gathered": [op("Gather", [0, 2, 2], axis=1)],
    "cumulative": [op("CumSum", np.array(2))],
    "indexed": [op("ArgMax", axis=1, keepdims=0), lambda b, x: b.op("Gather", b.constant(fp(4, 2)), x)],
    "einsum": [lambda b, x: b.op("Einsum", x, b.constant(fp(4, 3)), equation="nab,ac->cnb")],
    "attention": [
        lambda b, x: b.op("MatMul", b.op("MatMul", x, b.op("Transpose", x, perm=[0, 2, 1])), x),
        op("Tile", [1, 2, 1]),
    ],
    "split": [lambda b, x: b.op("Split", x, outputs=2, num_outputs=2, axis=1)],
}


@pytest.mark.parametrize("name", APART)
def test_rows_that_stay_apart(name: str) -> None:
    graph = build(APART[name])
    proof = prove(graph.clone(), "n")
    assert proof, proof.reason
    check_by_numpy(graph, proof)


def scaled_by_count(b: Builder, x: Value) -> Value:
    count = b.op("Cast", b.op("Shape", x, start=0, end=1), to=dtypes.FLOAT32.onnx)
    return b.op("Div", x, count)


def plus_position(b: Builder, x: Value) -> Value:
    count = b.op("Squeeze", b.op("Shape", x, start=0, end=1))
    rows = b.op("Cast", b.op("Range", b.constant(np.array(0)), count, b.constant(np.array(1))), to=dtypes.FLOAT32.onnx)
    return b.op("Add", x, b.op("Unsqueeze", rows, b.constant(np.array([1, 2]))))


def reversed_rows(b: Builder, x: Value) -> Value:
    return op("Slice", [-1], [-(1 << 60)], [0], [-1])(b, x)


MIXED: dict[str, tuple[list[Step], str]] = {
    "mean over rows": ([op("ReduceMean", [0], keepdims=1), op("Add", fp(1, 4, 6))], "reduces over the rows"),
    "softmax over rows": ([op("Softmax", axis=0)], "works along the rows"),
    "rows summed by a product": (
        [op("Transpose", perm=[1, 2, 0]), lambda b, x: b.op("MatMul", x, b.op("Transpose", x, perm=[0, 2, 1]))],
        "sums over the rows",
    ),
    "rows in the channels": ([op("Transpose", perm=[1, 0, 2]), op("GlobalAveragePool")], "first axis"),
    "scaled by how many there are": ([scaled_by_count], "number of rows"),
    "by where a row stands": ([plus_position], "positions of rows"),
    "turned around": ([reversed_rows], "cuts along the rows"),
    "summed up": ([op("CumSum", np.array(0))], "sums over the rows"),
    "the first row": ([op("Slice", [0], [1], [0])], "cuts along the rows"),
    "rows put together": ([op("Transpose", perm=[1, 0, 2]), op("Reshape", [-1, 6])], "together"),
    "quantized by all": ([op("DynamicQuantizeLinear")], "reduces over the rows"),
    "random": ([lambda b, x: b.op("Add", x, b.op("RandomNormalLike", x))], "random"),
    "picked by another": ([lambda b, x: b.op("Gather", x, b.constant(np.array([0, 1])), axis=0)], "picks rows"),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_rows_is_found(name: str) -> None:
    steps, reason = MIXED[name]
    proof = prove(build(steps), "n")
    assert not proof
    assert reason in proof.reason


def test_an_input_without_rows_is_shared_by_all_and_so_refused() -> None:
    graph = build([op("Relu")])
    scale = graph.add_input("scale", TensorType(dtypes.FLOAT32, (1,)))
    builder = Builder(graph, infer=infer_node)
    graph.outputs = [builder.op("Mul", graph.outputs[0], scale)]
    assert "scale" in prove(graph, "n").reason


def test_an_output_that_is_no_batch_is_refused() -> None:
    graph = build([op("Relu")])
    builder = Builder(graph, infer=infer_node)
    graph.outputs = [*graph.outputs, builder.constant(fp(3))]
    assert "does not have n along one of its axes" in prove(graph, "n").reason


MENU: list[Step] = [
    op("Relu"),
    op("Softmax", axis=-1),
    op("Softmax", axis=0),
    op("Transpose", perm=[1, 0, 2]),
    op("Transpose", perm=[0, 2, 1]),
    op("Transpose", perm=[2, 1, 0]),
    op("ReduceMean", [0], keepdims=1),
    op("ReduceSum", [1], keepdims=1),
    op("Reshape", [0, -1, 2]),
    op("Reshape", [-1, 2, 2]),
    op("CumSum", np.array(1)),
    op("CumSum", np.array(0)),
    op("LayerNormalization", fp(1), axis=2),
    op("Slice", [0], [2], [1]),
    op("Gather", [0, 0], axis=1),
    op("Expand", [1, 1, 1]),
    by_shape,
    ones_of_its_rows,
    plus_position,
    scaled_by_count,
    over_heads,
    lambda b, x: b.op("Unsqueeze", x, b.constant(np.array([0]))),
    lambda b, x: b.op("Squeeze", x, b.constant(np.array([0]))),
    lambda b, x: b.op("Concat", x, x, axis=1),
    lambda b, x: b.op("Concat", x, x, axis=0),
    lambda b, x: b.op("Add", x, b.op("Neg", x)),
    lambda b, x: b.op("MatMul", x, b.op("Transpose", x, perm=[0, 2, 1])),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(MENU), min_size=1, max_size=5), st.sampled_from([(N, 4, 6), (4, N, 6), (2, 2, N)]))
def test_a_proof_is_never_wrong(steps: list[Step], shape: tuple[Any, ...]) -> None:
    try:
        graph = build(steps, shape)
        together = run(graph, np.zeros([3 if dim == N else dim for dim in shape], np.float32))
    except (GraphcError, ValueError):
        reject()
    assume(together.size)
    proof = prove(graph.clone(), "n")
    event("proved" if proof else "not proved")
    if proof:
        check_by_numpy(graph, proof)
