"""FlexAttention compiles with its subgraphs in their places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.ir import Builder, Graph, Value
from tests.compiler.compiled import check_compiled
from tests.ops.differential import case
from tests.ops.oracles import numbers


def body(change: Any) -> Graph:
    """A subgraph of one input and one output."""
    graph = Graph("change", opset=24)
    graph.outputs = [change(Builder(graph), graph.add_input("s", None))]
    return graph


def causal(b: Builder, s: Value) -> Value:
    keys, queries = (
        b.op("Range", b.constant(np.int64(0)), b.op("Gather", b.op("Shape", s), b.constant(np.int64(axis))), one(b))
        for axis in (3, 2)
    )
    allowed = b.op("LessOrEqual", keys, b.op("Unsqueeze", queries, b.constant(np.array([1]))))
    return b.op("Where", allowed, s, b.op("CastLike", b.constant(np.float32(-np.inf)), s))


def one(b: Builder) -> Value:
    return b.constant(np.int64(1))


def capped(b: Builder, s: Value) -> Value:
    limit = b.op("CastLike", b.constant(np.float32(2)), s)
    return b.op("Mul", b.op("Tanh", b.op("Div", s, limit)), limit)


def halved(b: Builder, s: Value) -> Value:
    return b.op("Mul", s, b.op("CastLike", b.constant(np.float32(0.5)), s))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(
    "changes", [{}, {"score_mod": causal}, {"score_mod": capped, "prob_mod": halved}], ids=["plain", "causal", "both"]
)
def test_heads_and_subgraphs(dtype: str, kv_heads: int, changes: dict[str, Any]) -> None:
    arrays = [numbers(i, shape, dtype) for i, shape in enumerate([(2, 4, 5, 8), *[(2, kv_heads, 7, 8)] * 2])]
    bodies = {name: body(change) for name, change in changes.items()}
    subject = case("FlexAttention", arrays, domain="ai.onnx.preview", scale=0.375, **bodies)
    check_compiled(subject, targets=["cpu"], tolerance=4e-3 if dtype == "float16" else None)


def test_values_of_the_graph_around_it() -> None:
    arrays = [numbers(i, (1, 2, 4, 8), "float32") for i in range(3)]
    subject = case("FlexAttention", arrays, domain="ai.onnx.preview")
    graph = subject.node.graph
    assert graph is not None
    q = graph.inputs[0]
    subject.node.attributes["score_mod"] = body(lambda b, s: b.op("Add", s, b.op("ReduceMax", q, keepdims=0)))
    scores = arrays[0] @ arrays[1].swapaxes(2, 3) / np.sqrt(np.float32(8)) + arrays[0].max()
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ arrays[2]
    check_compiled(subject, expected=[expected])
