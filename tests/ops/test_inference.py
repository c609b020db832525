"""Type inference over whole graphs: shape arithmetic, symbols, declared types, unknowns and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graphc.errors import TypeInferenceError, UnsupportedError
from graphc.ir import Builder, Graph, TensorType, Value, dtypes, symbol
from graphc.ir.symbolic import substitute
from graphc.ops import infer_graph, infer_node
from graphc.ops.base import UNKNOWN_PREFIX
from graphc.ops.inference import Inference
from graphc.ops.protobuf import node_proto

FLOAT = dtypes.FLOAT32


def graph_of(*shapes: Any) -> tuple[Graph, Builder]:
    graph = Graph("g", [(f"x{i}", TensorType(FLOAT, shape)) for i, shape in enumerate(shapes)], opset=24)
    return graph, Builder(graph)


def dims(value: Value) -> tuple[Any, ...]:
    return value.tensor_type.dims


def test_shape_arithmetic_is_followed() -> None:
    n, h = symbol("n"), symbol("h")
    graph, b = graph_of((n, 3, h, 8))
    x = graph.inputs[0]
    shape = b.op("Shape", x)
    batch = b.op("Gather", shape, b.constant(np.array(0)), axis=0)
    height = b.op("Gather", shape, b.constant(np.array([2])), axis=0)
    doubled = b.op("Mul", height, b.constant(np.array([2])))
    halved = b.op("Div", b.op("Add", doubled, b.constant(np.array([1]))), b.constant(np.array([2])))
    column = b.op("Unsqueeze", batch, b.constant(np.array([0])))
    target = b.op("Concat", column, b.constant(np.array([3])), halved, b.constant(np.array([-1])), axis=0)
    graph.outputs = [b.op("Reshape", x, target), b.op("Slice", x, *map(b.constant, ([0], [-1], [2])))]
    infer_graph(graph, strict=True)
    assert dims(graph.outputs[0]) == (n, 3, h, 8)
    assert dims(graph.outputs[1]) == (n, 3, h - 1, 8)


def test_float_arithmetic_on_shapes_is_followed() -> None:
    """As old exporters write an upsampling by a factor that is not whole."""
    graph, b = graph_of((1, 1, 6, 10))
    x = graph.inputs[0]
    shape = b.op("Shape", x, start=2)
    wide = b.op("Cast", shape, to=dtypes.FLOAT32.onnx)
    scaled = b.op("Floor", b.op("Mul", wide, b.constant(np.float32(1.25))))
    sizes = b.op("Concat", b.constant(np.array([1, 1])), b.op("Cast", scaled, to=dtypes.INT64.onnx), axis=0)
    graph.outputs = [b.op("Resize", x, None, None, sizes)]
    infer_graph(graph, strict=True)
    assert dims(graph.outputs[0]) == (1, 1, 7, 12)


def test_a_pattern_of_exporters_for_expand() -> None:
    """`Where(shape == -1, ones, shape)`: which entries are -1 is known although the rest is symbolic."""
    n = symbol("n")
    graph, b = graph_of((n, 1))
    x = graph.inputs[0]
    shape = b.op("Concat", b.op("Shape", x, end=1), b.constant(np.array([-1])), axis=0)
    ones = b.op("ConstantOfShape", b.constant(np.array([2])), value=one())
    target = b.op("Where", b.op("Equal", shape, b.constant(np.array(-1))), ones, shape)
    graph.outputs = [b.op("Expand", x, target)]
    infer_graph(graph, strict=True)
    assert dims(graph.outputs[0]) == (n, 1)


def one() -> Any:
    from graphc.ir import Tensor

    return Tensor.of(np.array([1]))


def test_extents_that_the_data_tells_become_symbols() -> None:
    graph, b = graph_of((4, 5))
    found = b.op("NonZero", graph.inputs[0], outputs=["a.b"])
    again = b.op("NonZero", graph.inputs[0], outputs=["a_b"])
    graph.outputs = [b.op("Transpose", found), again]
    infer_graph(graph, strict=True)
    first, second = dims(graph.outputs[0])[0], dims(again)[1]
    assert str(first).startswith(UNKNOWN_PREFIX) and first != second
    infer_graph(graph, strict=True)
    assert dims(graph.outputs[0])[0] == first, "the same graph gets the same names"


def test_declared_extents_win_only_where_the_data_tells() -> None:
    n = symbol("n")
    graph, b = graph_of((n, 4))
    x = graph.inputs[0]
    kept = b.op("Relu", x)
    kept.type = TensorType(FLOAT, (1, 4))
    counted = b.op("NonZero", x)
    counted.type = TensorType(dtypes.INT64, (2, symbol("count")))
    infer_graph(graph)
    assert dims(kept) == (n, 4), "a declaration left over from an export at batch 1"
    assert dims(counted) == (2, symbol("count"))


def test_bounds_of_symbols_decide_clamps() -> None:
    """A table of 512 positions cut to a sequence that is never longer."""
    n = symbol("n")
    graph, b = graph_of((1, n), (1, 512))
    length = b.op("Shape", graph.inputs[0], start=1)
    cut = b.op("Slice", graph.inputs[1], b.constant(np.array([0])), length, b.constant(np.array([1])))
    infer_graph(graph)
    assert str(dims(cut)[1]) == "min(512, n)"
    graph.bounds["n"] = (1, 512)
    infer_graph(graph)
    assert dims(cut) == (1, n)


def test_layouts_are_kept() -> None:
    from graphc.ir import blocked

    graph, b = graph_of((1, 16, 4, 4))
    value = b.op("Relu", graph.inputs[0])
    value.type = TensorType(FLOAT, (1, 16, 4, 4), blocked(1, 8))
    infer_graph(graph)
    assert value.tensor_type.layout == blocked(1, 8)


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        (TensorType(dtypes.INT32, (2, 3)), "the dtypes differ"),
        (TensorType(FLOAT, (2, 3, 1)), "the ranks differ"),
        (TensorType(FLOAT, (2, 4)), "the extents of axis 1 differ"),
    ],
)
def test_a_contradicted_output_is_an_error(declared: TensorType, problem: str) -> None:
    graph, b = graph_of((2, 3))
    value = b.op("Relu", graph.inputs[0], name="culprit")
    value.type = declared
    graph.outputs = [value]
    with pytest.raises(TypeInferenceError, match=problem) as caught:
        infer_graph(graph)
    assert caught.value.nodes == ("culprit",)
    graph.outputs = [graph.inputs[0]]
    infer_graph(graph)
    assert value.type == TensorType(FLOAT, (2, 3)), "inside the graph, inference has the last word"


def test_unknown_operators_leave_types_open() -> None:
    graph, b = graph_of((2, 3))
    strange = b.op("Frobnicate", graph.inputs[0], name="strange")
    after = b.op("Relu", strange)
    beside = b.op("Relu", graph.inputs[0])
    infer_graph(graph)
    assert strange.type is None and after.type is None and beside.type == graph.inputs[0].type
    with pytest.raises(UnsupportedError, match="Frobnicate") as caught:
        infer_graph(graph, strict=True)
    assert caught.value.nodes == ("strange",)


def test_unknown_ranks_are_probed() -> None:
    graph, b = graph_of(None)
    x = graph.inputs[0]
    pooled = b.op("GlobalAveragePool", x)
    deep = b.op("DepthToSpace", x, blocksize=2)
    gathered = b.op("Gather", x, b.constant(np.array([0])), axis=0)
    infer_graph(graph)
    assert pooled.type == TensorType(FLOAT, None)
    assert deep.tensor_type.rank == 4, "it takes nothing but images"
    assert gathered.tensor_type.dtype == FLOAT


def test_errors_name_the_model_s_nodes() -> None:
    graph, b = graph_of((2, 3), (4, 5))
    b.origins = ("encoder/add",)
    b.op("Add", *graph.inputs)
    with pytest.raises(TypeInferenceError, match="do not broadcast") as caught:
        infer_graph(graph)
    assert caught.value.nodes == ("encoder/add",)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Softmax", {"axis": "last"}),
        ("Transpose", {"perm": 3}),
        ("Cast", {"to": 99}),
        ("Cast", {}),
        ("Flatten", {"axis": 9}),
        ("Concat", {"axis": -9}),
        ("Split", {"axis": 7}),
        ("DepthToSpace", {"blocksize": 0}),
        ("LayerNormalization", {}),
    ],
)
def test_broken_attributes_are_typed_errors(op: str, attributes: dict[str, Any]) -> None:
    graph, b = graph_of((2, 4, 4, 4))
    b.op(op, graph.inputs[0], name="culprit", **attributes)
    with pytest.raises(TypeInferenceError) as caught:
        infer_graph(graph)
    assert caught.value.nodes == ("culprit",)


def test_too_many_outputs() -> None:
    graph, b = graph_of((2, 3))
    b.op("Relu", graph.inputs[0], outputs=2)
    with pytest.raises(TypeInferenceError, match="has 2 outputs"):
        infer_graph(graph)


def test_enormous_tensors_are_only_described() -> None:
    graph, b = graph_of((1 << 31, 1 << 31))
    value = b.op("Tile", graph.inputs[0], b.constant(np.array([4, 1])))
    filled = b.op("ConstantOfShape", b.constant(np.array([1 << 40, 1 << 22])))
    infer_graph(graph, strict=True)
    assert value.tensor_type.numel == 1 << 64
    assert filled.tensor_type.numel == 1 << 62


def test_long_chains_of_shape_arithmetic() -> None:
    graph = Graph("g", [("x", TensorType(FLOAT, (symbol("n"),)))], opset=24)
    b = Builder(graph)
    value = b.op("Shape", graph.inputs[0])
    one = b.constant(np.array([1]))
    for _ in range(3000):
        value = b.op("Add", value, one)
    graph.outputs = [b.op("ConstantOfShape", value)]
    infer_graph(graph, strict=True)
    assert dims(graph.outputs[0]) == (symbol("n") + 3000,)


def test_one_node_looks_through_constants() -> None:
    graph, b = graph_of((2, 6))
    b.infer = infer_node
    target = b.op("Concat", b.constant(np.array([3])), b.constant(np.array([-1])), axis=0)
    assert dims(b.op("Reshape", graph.inputs[0], target)) == (3, 4)


def test_branches_are_inferred() -> None:
    graph = Graph("g", [("c", TensorType(dtypes.BOOL, ())), ("x", TensorType(FLOAT, (2, 3)))], opset=24)
    branches = []
    for name in ("then", "else"):
        branch = Graph(name, opset=24)
        inner = Builder(branch)
        branch.outputs = [inner.op("Relu" if name == "then" else "Neg", graph.inputs[1], outputs=[f"{name}_out"])]
        branches.append(branch)
    value = Builder(graph).op("If", graph.inputs[0], then_branch=branches[0], else_branch=branches[1])
    graph.outputs = [value]
    infer_graph(graph, strict=True)
    assert value.type == branches[0].outputs[0].type == TensorType(FLOAT, (2, 3))


def test_a_run_can_be_fed_node_by_node() -> None:
    graph, b = graph_of((2, 3))
    inference = Inference()
    b.op("Relu", graph.inputs[0])
    for node in graph.nodes:
        inference.visit(node)
    assert next(graph.nodes).output.type == TensorType(FLOAT, (2, 3))


# Chains of movements with symbolic extents: bound afterwards, they say what onnx's own inference says of bound shapes.

steps = st.sampled_from(("transpose", "reshape", "slice", "concat", "reduce", "tile", "pad", "unsqueeze", "split"))


def grow(b: Builder, step: str, value: Value, seed: int) -> Value:
    rank = len(dims(value))
    axis = seed % rank
    match step:
        case "transpose":
            return b.op("Transpose", value, perm=np.roll(range(rank), seed % 3).tolist())
        case "reshape" if 0 not in dims(value)[:-1]:
            return b.op("Reshape", value, b.constant(np.array([0] * (rank - 1) + [-1])))
        case "slice":
            return b.op("Slice", value, *map(b.constant, ([seed % 2], [2**31 - 1], [axis], [1 + seed % 2])))
        case "concat":
            return b.op("Concat", value, value, axis=axis)
        case "reduce" if rank > 1:
            return b.op("ReduceSum", value, b.constant(np.array([axis])), keepdims=seed % 2)
        case "tile":
            return b.op("Tile", value, b.constant(np.array([1 + (i == axis) for i in range(rank)])))
        case "pad":
            return b.op("Pad", value, b.constant(np.array([seed % 3] * (2 * rank))))
        case "unsqueeze" if rank < 5:
            return b.op("Unsqueeze", value, b.constant(np.array([axis])))
        case "split":
            return b.op("Split", value, outputs=2, axis=axis, num_outputs=2)
    return value


@given(st.lists(st.tuples(steps, st.integers(0, 11)), min_size=1, max_size=6), st.integers(6, 9), st.integers(6, 9))
@settings(max_examples=60)
def test_bound_symbols_agree_with_onnx(program: list[tuple[str, int]], n: int, m: int) -> None:
    graph = Graph("g", [("x", TensorType(FLOAT, (symbol("n"), 8, symbol("m"))))], opset=24)
    b = Builder(graph, infer=infer_node)
    value = graph.inputs[0]
    for step, seed in program:
        value = grow(b, step, value, seed)
    found = tuple(substitute(extent, {"n": n, "m": m}) for extent in dims(value))
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (n, 8, m))]
    outputs = [helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, None)]
    nodes = [node_proto(node) for node in graph.nodes]
    if not nodes:
        return
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 24)]
    )
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    theirs = inferred.graph.output[0].type.tensor_type.shape.dim
    assert len(theirs) == len(found)
    for extent, dim in zip(found, theirs, strict=True):
        if dim.HasField("dim_value"):
            assert extent == dim.dim_value


@pytest.mark.parametrize(
    "op",
    [
        *("Add", "Where", "PRelu", "Reshape", "Expand", "Tile", "Pad", "Slice", "Gather", "GatherElements", "GatherND"),
        *("ScatterND", "ScatterElements", "Compress", "OneHot", "Unsqueeze", "CumSum", "ReverseSequence", "Range"),
        *("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"),
        *("BatchNormalization", "Resize", "Pow", "Mod", "CastLike"),
    ],
)
def test_missing_inputs_are_typed_errors(op: str) -> None:
    graph, b = graph_of((2, 4, 4, 4))
    b.op(op, graph.inputs[0], name="culprit")
    with pytest.raises(TypeInferenceError) as caught:
        infer_graph(graph)
    assert caught.value.nodes == ("culprit",)


@pytest.mark.parametrize("op", ["Concat", "Sum", "Relu", "Identity", "Shape", "Transpose", "Softmax", "ReduceSum"])
def test_no_inputs_at_all(op: str) -> None:
    graph, b = graph_of()
    b.op(op, name="culprit")
    with pytest.raises(TypeInferenceError) as caught:
        infer_graph(graph)
    assert caught.value.nodes == ("culprit",)
