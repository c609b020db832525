"""Chains of operators written as one tensor expression mean what the operators mean one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphc.backends.regions import Expander
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ops import evaluate_expression, evaluate_graph, infer_node
from graphc.ops.expr import TensorExpr
from tests.ops.oracles import numbers, seeds

KINDS = ("relu", "gelu", "add", "softmax", "mean", "transpose", "reshape", "pad", "slice", "concat", "gather", "norm")


def grow(b: Builder, kind: str, value: Value, seed: int) -> Value:
    """One more operator after `value`."""
    shape = value.tensor_type.static_shape
    axis = seed % len(shape)
    match kind:
        case "gelu":
            return b.op("Gelu", value)
        case "add":
            row = np.linspace(-1, 1, shape[-1], dtype=np.float32)
            return b.op("Add", value, b.constant(row))
        case "softmax":
            return b.op("Softmax", value, axis=axis)
        case "mean":
            return b.op("ReduceMean", value, b.constant(np.array([axis])))
        case "transpose":
            return b.op("Transpose", value, perm=np.roll(range(len(shape)), 1).tolist())
        case "reshape":
            return b.op("Reshape", value, b.constant(np.array([-1, shape[-1]] if seed % 2 else [shape[0], -1, 1])))
        case "pad":
            amounts = np.zeros(2 * len(shape), np.int64)
            amounts[axis] = 1
            return b.op("Pad", value, b.constant(amounts), mode="constant" if seed % 2 else "edge")
        case "slice":
            return b.op("Slice", value, *(b.constant(np.array([n])) for n in (-1, -9, axis, -1)))
        case "concat":
            return b.op("Concat", value, value, axis=axis)
        case "gather":
            return b.op("Gather", value, b.constant(np.array([0, -1])), axis=axis)
        case "norm":
            return b.op("LayerNormalization", value, b.constant(np.ones(shape[-1], np.float32)))
    return b.op("Relu", value)


def fuse(graph: Graph, value: Value, arrays: list[Any]) -> TensorExpr | None:
    """One expression over graph inputs and constants; None where a computed index meets arithmetic on indices."""
    leaves = {}
    for node in graph.nodes:
        if node.op_type == "Constant" and node.output.tensor_type.numel != 1:
            leaves[node.output] = len(arrays)
            assert node.output.constant is not None
            arrays.append(node.output.constant.array())
    try:
        return Expander(graph, leaves).output(value)
    except BackendError as refusal:
        assert "computes with an index that is data" in refusal.message
        return None


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=3).map(tuple),
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 11)), min_size=2, max_size=4),
    seeds,
)
@settings(max_examples=80)
def test_one_expression_for_a_chain(shape: tuple[int, ...], program: list[tuple[str, int]], seed: int) -> None:
    # Each softmax or norm of another triples the reductions, and an array of the oracle has at most 64 axes.
    assume(sum(kind in ("softmax", "norm") for kind, _ in program) < 4)
    assume(sum(kind == "softmax" for kind, _ in program) < 3)
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, shape))], opset=24)
    b = Builder(graph, infer=infer_node)
    value = graph.inputs[0]
    for kind, choice in program:
        value = grow(b, kind, value, choice)
    graph.outputs = [value]
    x = numbers(seed, shape, "float32")
    arrays = [x]
    fused = fuse(graph, value, arrays)
    if fused is not None:
        wanted = evaluate_graph(graph, [x])[0]
        np.testing.assert_allclose(evaluate_expression(fused, arrays), wanted, rtol=2e-4, atol=2e-4)
