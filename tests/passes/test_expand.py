"""Expansion of operators that stand for several others."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import Builder, Graph, TensorType, dtypes
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
