"""Fusion: what becomes one kernel, and that it still computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.errors import ParseError
from graphc.ir import GRAPHC_DOMAIN, Builder, Graph, Node, TensorType, Value, dtypes
from graphc.ir.verify import verify
from graphc.ops import infer_graph
from graphc.ops.evaluate import evaluate_graph
from graphc.passes import PassContext
from graphc.passes.fuse import Fuse, dissolve
from graphc.target import Verdict, refused
from graphc.testing import check_pass

RNG = np.random.default_rng(0)


def _graph(**inputs: tuple[int, ...]) -> tuple[Graph, Builder]:
    graph = Graph("g", [(name, TensorType(dtypes.FLOAT32, shape)) for name, shape in inputs.items()], opset=23)
    return graph, Builder(graph)


def _fuse(graph: Graph, **options: Any) -> list[list[str]]:
    """Operators of each region after fusing, constants left out; checks that the meaning stayed."""
    infer_graph(graph)
    verify(graph)
    arrays = [_data(value.tensor_type) for value in graph.inputs]
    before = evaluate_graph(graph, arrays)
    Fuse(**options).run(graph, PassContext())
    verify(graph)
    for found, wanted in zip(evaluate_graph(graph, arrays), before, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    return [_operators(node) for node in graph.nodes if node.is_op("Region", GRAPHC_DOMAIN)]


def _data(kind: TensorType) -> Any:
    return np.asarray(RNG.standard_normal(kind.static_shape)).astype(kind.dtype.numpy)


def _operators(region: Node) -> list[str]:
    return [node.op_type for node in region.graph_attribute("body").nodes if node.op_type != "Constant"]


def _weight(b: Builder, *shape: int) -> Value:
    return b.constant(RNG.standard_normal(shape).astype(np.float32))


def test_a_matmul_takes_its_bias_activation_and_residual() -> None:
    graph, b = _graph(x=(4, 8), r=(4, 16))
    x, r = graph.inputs
    y = b.op("MatMul", x, _weight(b, 8, 16))
    y = b.op("Add", b.op("Relu", b.op("Add", y, _weight(b, 16))), r)
    graph.outputs = [y]
    assert _fuse(graph) == [["MatMul", "Add", "Relu", "Add"]]


def test_an_epilogue_may_fork_if_it_joins_again() -> None:
    graph, b = _graph(x=(4, 8))
    y = b.op("MatMul", graph.inputs[0], _weight(b, 8, 16))
    graph.outputs = [b.op("Mul", y, b.op("Sigmoid", y))]
    assert _fuse(graph) == [["MatMul", "Sigmoid", "Mul"]]


def test_an_epilogue_ends_where_its_result_is_read_twice() -> None:
    graph, b = _graph(x=(4, 8))
    y = b.op("Relu", b.op("MatMul", graph.inputs[0], _weight(b, 8, 16)))
    graph.outputs = [b.op("MatMul", y, _weight(b, 16, 3)), b.op("MatMul", y, _weight(b, 16, 5))]
    assert _fuse(graph) == [["MatMul", "Relu"]]


def test_a_matmul_does_not_take_what_needs_it_twice_over_another_matmul() -> None:
    graph, b = _graph(x=(4, 8))
    y = b.op("MatMul", graph.inputs[0], _weight(b, 8, 8))
    z = b.op("MatMul", y, _weight(b, 8, 8))
    graph.outputs = [b.op("Add", y, z)]
    assert _fuse(graph) == [["MatMul", "Add"]], "the first matmul may not wait for the second, which reads it"


def test_a_row_kernel_takes_the_sum_before_a_norm_and_returns_it_too() -> None:
    graph, b = _graph(x=(4, 8), r=(4, 8))
    total = b.op("Add", *graph.inputs)
    norm = b.op("LayerNormalization", total, _weight(b, 8), _weight(b, 8), axis=-1)
    graph.outputs = [norm, b.op("MatMul", total, _weight(b, 8, 8))]
    assert _fuse(graph) == [["Add", "LayerNormalization"]]
    (region,) = [node for node in graph.nodes if node.op_type == "Region"]
    assert len(region.outputs) == 2


def test_pointwise_and_movement_become_one_nest() -> None:
    graph, b = _graph(x=(4, 8))
    y = b.op("Transpose", b.op("Exp", graph.inputs[0]), perm=[1, 0])
    graph.outputs = [b.op("Tanh", y)]
    assert _fuse(graph) == [["Exp", "Transpose", "Tanh"]]


def test_a_costly_producer_is_not_computed_again_for_every_copy() -> None:
    graph, b = _graph(x=(1, 8), y=(64, 8))
    x, y = graph.inputs
    graph.outputs = [b.op("Add", b.op("Exp", x), y)]
    assert _fuse(graph) == []


def _branch(b: Builder, read: Value) -> Value:
    """An If of which one branch computes a hyperbolic tangent of `read`."""
    bodies = {}
    for name, op_type in (("then", "Tanh"), ("else", "Identity")):
        bodies[f"{name}_branch"] = body = b.graph.nested(name)
        body.outputs = [Builder(body).op(op_type, read)]
    return b.op("If", b.graph.add_input("condition", TensorType(dtypes.BOOL, ())), **bodies)


def test_what_a_branch_computes_is_in_no_region_around_it() -> None:
    graph, b = _graph(x=(4, 8))
    product = b.op("MatMul", graph.inputs[0], _weight(b, 8, 8))
    graph.outputs = [_branch(b, product)]
    assert _fuse(graph) == []


def test_what_needs_a_branch_that_needs_the_region_is_not_in_it() -> None:
    graph, b = _graph(x=(4, 8))
    product = b.op("MatMul", graph.inputs[0], _weight(b, 8, 8))
    graph.outputs = [b.op("Add", product, _branch(b, product))]
    assert _fuse(graph) == []


def test_a_sum_that_a_branch_reads_is_no_second_result_of_the_norm_after_it() -> None:
    graph, b = _graph(x=(4, 8), r=(4, 8))
    total = b.op("Add", *graph.inputs)
    scale = b.op("Mul", _branch(b, total), _weight(b, 8))
    graph.outputs = [b.op("LayerNormalization", b.op("Mul", total, scale), _weight(b, 8))]
    assert _fuse(graph) == [["Mul", "Mul", "LayerNormalization"]]


def test_limits() -> None:
    graph, b = _graph(x=(4, 8))
    value = graph.inputs[0]
    for _ in range(10):
        value = b.op("Tanh", value)
    graph.outputs = [value]
    regions = _fuse(graph, max_nodes=4)
    assert max(map(len, regions)) == 4
    assert sum(map(len, regions)) >= 8


def test_regions_keep_the_origins_of_their_nodes() -> None:
    graph, b = _graph(x=(4, 8))
    b.origins = ("first",)
    y = b.op("Exp", graph.inputs[0])
    b.origins = ("second",)
    graph.outputs = [b.op("Tanh", y)]
    _fuse(graph)
    assert [node.origins for node in graph.nodes if node.op_type == "Region"] == [("first", "second")]


def test_a_host_step_is_never_fused() -> None:
    graph, b = _graph(x=(4, 8))
    graph.outputs = [b.op("Tanh", b.op("Exp", graph.inputs[0]))]
    infer_graph(graph)

    class Nothing:
        def supports(self, node: Node) -> Verdict:
            return refused("it is Tuesday")

    context = PassContext(capability=Nothing())
    (finding,) = Fuse().explain(graph, context)
    assert finding.text == "%exp of Exp is stored: Exp runs on the host: it is Tuesday"
    assert Fuse().run(graph, context) == 0


def test_what_is_in_one_region_and_why_the_rest_is_not_is_told() -> None:
    graph, b = _graph(x=(4, 8), r=(16,))
    y = b.op("Relu", b.op("MatMul", graph.inputs[0], _weight(b, 8, 16), outputs=["product"]), outputs=["relu"])
    total = b.op("ReduceSum", y, b.constant([1]), keepdims=0, outputs=["total"])
    graph.outputs = [b.op("Add", b.op("Transpose", y), b.op("Exp", total, outputs=["exp"])), y]
    infer_graph(graph)
    before = str(graph)
    told = [(finding.node.op_type, finding.text) for finding in Fuse().explain(graph, PassContext()) if finding.done]
    assert told == [
        ("MatMul", "one region of MatMul: MatMul, Relu"),
        ("ReduceSum", "one region of ReduceSum: ReduceSum, Exp"),
        ("Add", "one region of Add: Transpose, Add"),
    ]
    apart = {finding.text for finding in Fuse().explain(graph, PassContext()) if not finding.done}
    assert apart == {
        "%relu of Relu is stored: ReduceSum is not pointwise, and only pointwise operators follow in registers; "
        "%relu is an output of the graph",
        "%relu of Relu is stored: Transpose is not pointwise, and only pointwise operators follow in registers; "
        "%relu is an output of the graph",
        "%exp of Exp is stored: Add makes float32[16x4], another shape than the region's; "
        "Exp makes 4 elements, and would be computed for each of the region's 64",
    }
    assert str(graph) == before


def test_limits_are_among_the_reasons() -> None:
    graph, b = _graph(x=(4, 8))
    y = graph.inputs[0]
    for _ in range(4):
        y = b.op("Exp", b.op("Neg", y))
    graph.outputs = [y]
    infer_graph(graph)
    reasons = [finding.text for finding in Fuse(max_nodes=4).explain(graph, PassContext()) if not finding.done]
    assert len(reasons) == 1 and reasons[0].endswith("the region would have 5 nodes; max_nodes is 4")


def test_random_graphs_keep_their_meaning() -> None:
    assert check_pass("fuse", examples=100, max_nodes=14) > 0


@pytest.mark.slow
def test_many_random_graphs_keep_their_meaning() -> None:
    assert check_pass("fold,simplify,layout{block=4},fuse,order", examples=1000, max_nodes=18, seed=None) > 0


def test_unknown_options_are_errors() -> None:
    from graphc.passes import parse_pipeline

    with pytest.raises(ParseError, match="has no option 'most'"):
        parse_pipeline("fuse{most=3}")


def test_a_dissolved_region_leaves_its_nodes() -> None:
    graph, b = _graph(x=(4, 8))
    graph.outputs = [b.op("Tanh", b.op("Exp", graph.inputs[0]), outputs=["y"])]
    before = str(graph)
    assert _fuse(graph) == [["Exp", "Tanh"]]
    (region,) = [node for node in graph.nodes if node.op_type == "Region"]
    dissolve(graph, region)
    verify(graph)
    assert [node.op_type for node in graph.nodes] == ["Exp", "Tanh"]
    assert graph.outputs[0].name == "y"
    assert str(graph).count("Tanh") == before.count("Tanh")


def test_products_take_the_movement_around_them_where_their_kernels_can() -> None:
    def build() -> Graph:
        graph, b = _graph(x=(2, 3, 8), y=(2, 5, 8), r=(2, 3, 5))
        x, y, r = graph.inputs
        turned = b.op("Transpose", b.op("Cast", b.op("Cast", y, to=10), to=1), perm=[0, 2, 1])
        product = b.op("Reshape", b.op("MatMul", x, turned), b.constant(np.array([6, 5])))
        rest = b.op("Reshape", r, b.constant(np.array([6, 5])))
        graph.outputs = [b.op("Reshape", b.op("Relu", b.op("Add", product, rest)), b.constant(np.array([30])))]
        return graph

    # The last reshape costs nothing outside.
    taken = ["Cast", "Cast", "Transpose", "MatMul", "Reshape", "Add", "Relu"]
    graph = build()
    (region,) = (operators for operators in _fuse(graph, moves=True) if "MatMul" in operators)
    assert region == taken
    assert not any("MatMul" in operators for operators in _fuse(build()))


def test_a_transposition_that_scatters_both_axes_is_a_kernel_of_its_own() -> None:
    graph, b = _graph(x=(4, 6, 8))
    graph.outputs = [b.op("MatMul", b.op("Transpose", graph.inputs[0], perm=[2, 0, 1]), _weight(b, 6, 5))]
    assert _fuse(graph, moves=True) == []


def test_why_a_product_reads_an_operand_from_memory() -> None:
    graph, b = _graph(x=(4, 8), y=(4, 4))
    x, y = graph.inputs
    turned = b.op("Transpose", x, perm=[1, 0])
    graph.outputs = [b.op("MatMul", turned, b.op("Exp", y)), b.op("Relu", turned)]
    infer_graph(graph)
    reasons = [finding.text for finding in Fuse(moves=True).explain(graph, PassContext())]
    assert any("is also read by" in reason for reason in reasons)
    assert any("Exp is not movement or a conversion" in reason for reason in reasons)
