"""Half-width computation: what is narrowed, what stays in float32, and how near the results stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, target

from graphc.errors import OptionError
from graphc.ir import Builder, DType, Graph, TensorType, dtypes
from graphc.ir.verify import verify
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_node
from graphc.passes import PassContext, PassManager, run_passes
from graphc.passes.precision import HALVES, Precision, narrow_borders
from graphc.target import Verdict, accepted, refused
from graphc.testing.oracle import TOLERANCE, calm_inputs, compare_arrays
from graphc.testing.random_graphs import graphs

RNG = np.random.default_rng(0)
F32 = dtypes.FLOAT32
OPERATORS = (
    *("MatMul", "Gemm", "Conv", "Gather", "Add", "Mul", "Sub", "Relu", "Tanh", "Where", "Clip", "Concat", "Transpose"),
    *("Reshape", "Slice", "Split", "Pad", "MaxPool", "Softmax", "LayerNormalization", "ReduceMean", "Exp", "Div"),
)


def builder(*shapes: tuple[int, ...], dtype: DType = F32) -> Builder:
    """A builder of a graph with inputs of these shapes."""
    graph = Graph("g", [(f"x{i}", TensorType(dtype, shape)) for i, shape in enumerate(shapes)], opset=23)
    return Builder(graph, infer=infer_node)


def weights(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def types(graph: Graph) -> dict[str, str]:
    """The element type that each operator's first output has."""
    return {n.op_type: str(n.output.tensor_type.dtype) for n in graph.nodes if n.op_type not in ("Constant", "Cast")}


def casts(graph: Graph) -> int:
    return sum(node.op_type == "Cast" for node in graph.nodes)


def block() -> Graph:
    """A layer of a transformer in small, without its attention."""
    b = builder((4, 16))
    x = b.graph.inputs[0]
    h = b.op("LayerNormalization", x, b.constant(np.ones(16, np.float32)))
    h = b.op("Gelu", b.op("Add", b.op("MatMul", h, b.constant(weights(16, 32))), b.constant(weights(32))))
    h = b.op("Add", b.op("MatMul", h, b.constant(weights(32, 16))), x)
    b.graph.outputs = [b.op("Softmax", h, axis=-1), h]
    return b.graph


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(8, operators=OPERATORS))
@pytest.mark.parametrize("to", HALVES)
def test_random_graphs_stay_near_and_keep_their_borders(to: str, graph: Graph) -> None:
    borders = [(value.name, value.type) for value in (*graph.inputs, *graph.outputs)]
    inputs = calm_inputs(graph, 0)
    assert inputs is not None
    before = evaluate_graph(graph.clone(), inputs)
    target(float(run_passes(graph, f"precision{{to={to}}},dce").changes))
    verify(graph)
    assert [(value.name, value.type) for value in (*graph.inputs, *graph.outputs)] == borders
    for value, want, found in zip(graph.outputs, before, evaluate_graph(graph, inputs), strict=True):
        if want.dtype == np.float32 and np.isfinite(want).all():
            compare_arrays(value.name, want, found, 2 * TOLERANCE[str(HALVES[to])])


@pytest.mark.parametrize("to", HALVES)
def test_products_are_narrowed_and_sums_of_rows_are_not(to: str) -> None:
    graph, half = block(), str(HALVES[to])
    x = RNG.standard_normal((4, 16)).astype(np.float32)
    before = evaluate_graph(graph.clone(), [x])
    assert run_passes(graph, f"precision{{to={to}}},dce").changes > 0
    verify(graph)
    assert types(graph) == {
        **{"LayerNormalization": "float32", "MatMul": half, "Add": half, "Gelu": half, "Softmax": "float32"},
    }
    # The normalized rows and the input on their way in, the sum on its way out: once for both of its readers.
    assert casts(graph) == 3
    kept = [n.output.tensor_type for n in graph.nodes if n.op_type == "Constant"]
    assert sorted(str(kind.dtype) for kind in kept) == sorted([half] * 3 + ["float32"])
    for want, found in zip(before, evaluate_graph(graph, [x]), strict=True):
        compare_arrays("output", want, found, TOLERANCE[half] / 2)


def test_without_a_precision_nothing_changes() -> None:
    graph = block()
    text = str(graph)
    for options in ({}, {"precision": "fp32"}, {"precision": "tf32"}):
        context = PassContext(options=dict(options))
        assert PassManager("precision").run(graph, context).changes == 0
    assert str(graph) == text
    assert PassManager("precision").run(graph, PassContext(options={"precision": "bf16"})).changes > 0


@pytest.mark.parametrize(
    ("value", "to", "narrowed"),
    [
        (-3.4e38, "fp16", False),
        (-3.4e38, "bf16", False),
        (1e5, "fp16", False),
        (1e5, "bf16", True),
        (-np.inf, "fp16", True),
        (1e-12, "fp16", False),
        (1e-12, "bf16", True),
        (0.0, "fp16", True),
        (65504.0, "fp16", True),
    ],
)
def test_constants_out_of_range_keep_their_readers_in_float32(value: float, to: str, narrowed: bool) -> None:
    b = builder((4, 8), (8, 8))
    product = b.op("MatMul", *b.graph.inputs)
    masked = b.op("Add", product, b.constant(np.float32(value)))
    b.graph.outputs = [b.op("Softmax", b.op("Relu", masked), axis=-1)]
    run_passes(b.graph, f"precision{{to={to}}},dce")
    half = str(HALVES[to])
    want = half if narrowed else "float32"
    assert types(b.graph) == {"MatMul": half, "Add": want, "Relu": want, "Softmax": "float32"}


def test_large_weights_and_what_counts_or_grows_stay_in_float32() -> None:
    b = builder((4, 8))
    x = b.graph.inputs[0]
    large = b.op("MatMul", x, b.constant(np.full((8, 8), 1e6, np.float32)))
    grown = b.op("Gemm", b.op("Exp", x), b.constant(weights(8, 8)))
    positions = b.op("Cast", b.constant(np.arange(32).reshape(4, 8)), to=F32.onnx)
    counted = b.op(
        "Mul",
        b.op("Conv", b.op("Reshape", x, b.constant(np.array([1, 4, 8]))), b.constant(weights(4, 4, 1))),
        positions,
    )
    b.graph.outputs = [large, grown, counted]
    run_passes(b.graph, "precision{to=fp16},dce")
    assert types(b.graph) == {
        **{"MatMul": "float32", "Exp": "float32", "Gemm": "float32", "Reshape": "float16", "Conv": "float16"},
        "Mul": "float32",
    }


def test_what_the_backend_has_no_kernel_for_stays() -> None:
    class NoHalfGelu:
        def supports(self, node: object) -> Verdict:
            half = node.output.tensor_type.dtype == dtypes.FLOAT16  # type: ignore[attr-defined]
            return refused("no half-width Gelu here") if node.op_type == "Gelu" and half else accepted()  # type: ignore[attr-defined]

    graph = block()
    context = PassContext(options={"precision": "fp16"}, capability=NoHalfGelu())
    PassManager("precision,dce", verify=True).run(graph, context)
    assert types(graph)["Gelu"] == "float32" and types(graph)["MatMul"] == "float16"
    assert any("no half-width Gelu here" in refusal.reason for refusal in context.refusals)


@pytest.mark.parametrize("limit", range(6))
def test_any_number_of_changes_leaves_a_valid_graph(limit: int) -> None:
    graph = block()
    context = PassContext(options={"precision": "fp16"}, limit=limit)
    PassManager("precision", verify=True).run(graph, context)
    assert context.applied == min(limit, 5)


def test_a_model_with_half_width_borders_has_no_casts_to_spare() -> None:
    graph = block()
    x = RNG.standard_normal((4, 16)).astype(np.float16)
    want = evaluate_graph(graph.clone(), [x.astype(np.float32)])
    names = [value.name for value in (*graph.inputs, *graph.outputs)]
    narrow_borders(graph, dtypes.FLOAT16)
    verify(graph)
    assert [value.name for value in (*graph.inputs, *graph.outputs)] == names
    assert {str(value.tensor_type.dtype) for value in (*graph.inputs, *graph.outputs)} == {"float16"}
    run_passes(graph, "precision{to=fp16},dce")
    verify(graph)
    # Into and out of the normalization, into and out of the softmax; the residual is the input itself.
    assert casts(graph) == 4
    for expected, found in zip(want, evaluate_graph(graph, [x]), strict=True):
        assert found.dtype == np.float16
        compare_arrays("output", expected, found.astype(np.float32), 1e-2)
    before = str(graph)
    narrow_borders(graph, dtypes.FLOAT16)
    assert str(graph) == before


def test_an_input_that_is_an_output_keeps_its_name() -> None:
    b = builder((4,))
    x = b.graph.inputs[0]
    b.graph.outputs = [x, b.op("Relu", x)]
    names = [value.name for value in b.graph.outputs]
    narrow_borders(b.graph, dtypes.FLOAT16)
    verify(b.graph)
    assert [value.name for value in b.graph.outputs] == names
    assert [str(value.tensor_type.dtype) for value in b.graph.outputs] == ["float16"] * 2


def test_a_constant_that_is_shared_brings_nothing_half_width() -> None:
    b = builder((4, 8), (8, 8))
    shared = b.constant(np.float32(0.5))
    product = b.op("Mul", b.op("MatMul", *b.graph.inputs), shared)
    probabilities = b.op("Mul", b.op("Softmax", b.graph.inputs[1]), shared)
    b.graph.outputs = [product, probabilities]
    run_passes(b.graph, "precision{to=fp16},dce")
    halves = [n.input(0).producer.op_type for n in b.graph.nodes if n.op_type == "Mul" and n.input(1) is not shared]
    assert halves == ["MatMul"]


def test_what_is_foreseen_is_what_happens() -> None:
    graph = block()
    b = Builder(graph, infer=infer_node)
    late = b.op("Relu", b.op("Exp", graph.outputs[0]))
    graph.outputs = [*graph.outputs, late]
    context, before = PassContext(options={"precision": "fp16"}), str(graph)
    told = [(finding.node.op_type, finding.done) for finding in Precision().explain(graph, context)]
    assert str(graph) == before and ("Relu", False) in told
    Precision().run(graph, context)
    assert sum(done for _, done in told) == context.applied


def test_a_type_that_there_is_not_is_refused() -> None:
    with pytest.raises(OptionError, match="no type 'fp8'; known: fp16, bf16"):
        Precision(to="fp8")


def test_casts_stand_before_views() -> None:
    b = builder((2, 3, 8))
    rows = b.op("Softmax", b.graph.inputs[0], axis=-1)
    flat = b.op("Reshape", b.op("Unsqueeze", rows, b.constant(np.array([0]))), b.constant(np.array([6, 8])))
    b.graph.outputs = [b.op("Gemm", flat, b.constant(weights(8, 4))), b.op("Gemm", flat, b.constant(weights(8, 5)))]
    run_passes(b.graph, "precision{to=fp16},dce")
    verify(b.graph)
    (cast,) = (node for node in b.graph.nodes if node.op_type == "Cast" and node.inputs[0].tensor_type.dtype == F32)
    assert cast.inputs[0].producer.op_type == "Softmax" and types(b.graph)["Reshape"] == "float16"
    assert sum(node.op_type == "Reshape" for node in b.graph.nodes) == 1, "shared by both products"


def test_loops_are_narrowed_inside() -> None:
    b = builder((4, 4))
    x = b.graph.inputs[0]
    body = Graph("body", [("i", TensorType(dtypes.INT64, ())), ("go", TensorType(dtypes.BOOL, ())), ("s", x.type)])
    body.opset = b.graph.opset
    inner = Builder(body, infer=infer_node)
    stepped = inner.op("Relu", inner.op("MatMul", body.inputs[2], x))
    body.outputs = [inner.op("Identity", body.inputs[1]), stepped]
    looped = b.op("Loop", b.constant(np.int64(2)), b.constant(True), x, body=body, types=[x.type])
    b.graph.outputs = [looped]
    data = (RNG.standard_normal((4, 4)) / 4).astype(np.float32)
    (want,) = evaluate_graph(b.graph.clone(), [data])
    run_passes(b.graph, "precision{to=fp16},dce")
    verify(b.graph)
    assert types(body)["MatMul"] == "float16" and body.outputs[1].tensor_type.dtype == F32
    compare_arrays("looped", want, evaluate_graph(b.graph, [data])[0], 1e-2)


def test_a_value_is_rounded_where_it_is_made_and_not_behind_a_view() -> None:
    b = builder((2, 4, 16))
    h = b.op("LayerNormalization", b.graph.inputs[0], b.constant(np.ones(16, np.float32)))
    h = b.op("Reshape", h, b.constant(np.array([8, 16])))
    b.graph.outputs = [b.op("MatMul", h, b.constant(weights(16, 32)))]
    run_passes(b.graph, "precision{to=fp16},dce")
    verify(b.graph)
    order = [node.op_type for node in b.graph.nodes if node.op_type != "Constant"]
    assert order == ["LayerNormalization", "Cast", "Reshape", "MatMul", "Cast"]
