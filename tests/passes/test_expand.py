"""Expansion of operators that stand for several others."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import Builder, Graph, Node, TensorType, dtypes
from graphc.ir.verify import verify
from graphc.ops import infer_graph
from graphc.ops.evaluate import evaluate_graph
from graphc.passes import PassContext
from graphc.passes.expand import Expand

X = np.random.default_rng(0).standard_normal((2, 4, 8)).astype(np.float32)


def _graph(op_type: str, domain: str, *extra: np.ndarray, **attributes: object) -> Graph:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, X.shape))], opset=23)
    b = Builder(graph)
    constants = [b.constant(value) for value in extra]
    y = b.op(op_type, graph.inputs[0], *constants, domain=domain, outputs=["y"], **attributes)
    graph.outputs = [y]
    infer_graph(graph)
    return graph


@pytest.mark.parametrize("op_type", ["Gelu", "FastGelu", "QuickGelu"])
def test_operators_of_other_domains_become_standard_ones(op_type: str) -> None:
    graph = _graph(op_type, "com.microsoft")
    (before,) = evaluate_graph(graph, [X])
    assert Expand().run(graph, PassContext()) == 1
    verify(graph)
    assert {node.domain for node in graph.nodes} == {""}
    assert graph.outputs[0].name == "y"
    np.testing.assert_allclose(evaluate_graph(graph, [X])[0], before, rtol=1e-5, atol=1e-6)


def test_what_the_target_compiles_stays() -> None:
    class All:
        def supports(self, node: object) -> bool:
            return True

    graph = _graph("LayerNormalization", "", np.ones(8, np.float32), np.zeros(8, np.float32), axis=-1)
    assert Expand().run(graph, PassContext(capability=All())) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"left_window_size": 1}])
@pytest.mark.parametrize("packed", [False, True])
def test_a_cache_is_joined_where_attention_compiles_without_one(packed: bool, attributes: dict[str, int]) -> None:
    class Joined:
        def supports(self, node: Node) -> bool:
            return node.is_op("Attention") and node.input(4) is None

    generator = np.random.default_rng(0)
    shapes = [(2, 3, 8), (2, 3, 4), (2, 3, 4)] if packed else [(2, 2, 3, 4), (2, 1, 3, 4), (2, 1, 3, 4)]
    arrays = [generator.standard_normal(shape).astype(np.float32) for shape in [*shapes, (2, 1, 5, 4), (2, 1, 5, 4)]]
    graph = Graph("g", opset=24)
    q, k, v, *past = (graph.add_input(f"x{i}", TensorType(dtypes.FLOAT32, a.shape)) for i, a in enumerate(arrays))
    heads = {"q_num_heads": 2, "kv_num_heads": 1} if packed else {}
    made = Builder(graph).op("Attention", q, k, v, None, *past, outputs=3, **heads, **attributes).producer
    assert made is not None
    graph.outputs = list(made.outputs)
    infer_graph(graph)
    before = evaluate_graph(graph, arrays)
    Expand().run(graph, PassContext(capability=Joined()))  # type: ignore[arg-type]
    verify(graph)
    assert [node.op_type for node in graph.nodes].count("Concat") == 2
    assert [node.op_type for node in graph.nodes].count("Attention") == 1
    for left, right in zip(evaluate_graph(graph, arrays), before, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
