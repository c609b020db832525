"""Gradients against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from graphc.errors import ModelError, UnsupportedError
from graphc.frontend import check, import_model
from graphc.ops import evaluate_graph

DOMAIN = "ai.onnx.preview.training"
RNG = np.random.default_rng(5)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def model(
    nodes: list[Any],
    shapes: dict[str, tuple[int, ...]],
    constants: dict[str, Any],
    *,
    dtype: int = TensorProto.DOUBLE,
    **attributes: Any,
) -> onnx.ModelProto:
    """`nodes` make `y` of the inputs; the outputs are y and its gradients with respect to all inputs."""
    xs = list(shapes)
    gradient = helper.make_node(
        "Gradient", xs, [f"d{x}" for x in xs], domain=DOMAIN, name="slope", **{"xs": xs, "y": "y", **attributes}
    )
    inputs = [helper.make_tensor_value_info(x, dtype, shape) for x, shape in shapes.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("y", *(f"d{x}" for x in xs))]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([*nodes, gradient], "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def finite_differences(graph: Any, data: list[Any], step: float = 1e-6) -> list[Any]:
    """Slopes of the sum of the first output, by central differences."""
    found = []
    for position, array in enumerate(data):
        slopes = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            sides = []
            for sign in (1, -1):
                moved = [x.copy() for x in data]
                moved[position][place] += sign * step
                sides.append(evaluate_graph(graph, moved)[0].sum())
            slopes[place] = (sides[0] - sides[1]) / (2 * step)
        found.append(slopes)
    return found


A, B = {"a": (2, 3)}, {"a": (2, 3), "b": (2, 3)}
AXES = {"k": np.array([1], np.int64)}
UNARY = [
    "Neg",
    "Exp",
    "Log",
    "Sqrt",
    "Reciprocal",
    "Sin",
    "Cos",
    "Tanh",
    "Sigmoid",
    "Relu",
    "Abs",
    "Identity",
    "Flatten",
]
CASES: dict[str, tuple[list[Any], dict[str, tuple[int, ...]], dict[str, Any]]] = {
    **{
        op: ([node(op, "a", "y")], A, {})
        for op in (
            "Neg",
            "Exp",
            "Log",
            "Sqrt",
            "Reciprocal",
            "Sin",
            "Cos",
            "Tanh",
            "Sigmoid",
            "Relu",
            "Abs",
            "Identity",
            "Flatten",
        )
    },
    **{op: ([node(op, "a b", "y")], B, {}) for op in ("Add", "Sub", "Mul", "Div", "Pow")},
    **{
        f"{op} broadcast": ([node(op, "a b", "y")], shapes, {})
        for op, shapes in (
            ("Add", {"a": (4, 1, 3), "b": (2, 1)}),
            ("Sub", {"a": (3,), "b": (2, 3)}),
            ("Mul", {"a": (), "b": (2, 3)}),
            ("Div", {"a": (1, 3), "b": (2, 1)}),
            ("Pow", {"a": (2, 3), "b": (1,)}),
        )
    },
    "Sum of three": ([node("Sum", "a b c", "y")], {"a": (2, 3), "b": (3,), "c": (1,)}, {}),
    "Mean of two": ([node("Mean", "a b", "y")], {"a": (2, 3), "b": (3,)}, {}),
    "MatMul": ([node("MatMul", "a b", "y")], {"a": (2, 3), "b": (3, 4)}, {}),
    "MatMul of batches": ([node("MatMul", "a b", "y")], {"a": (2, 1, 2, 3), "b": (4, 3, 2)}, {}),
    "MatMul of a row": ([node("MatMul", "a b", "y")], {"a": (3,), "b": (2, 3, 4)}, {}),
    "MatMul of a column": ([node("MatMul", "a b", "y")], {"a": (2, 4, 3), "b": (3,)}, {}),
    "MatMul of vectors": ([node("MatMul", "a b", "y")], {"a": (3,), "b": (3,)}, {}),
    "Gemm": ([node("Gemm", "a b c", "y", alpha=0.5, beta=2.0)], {"a": (2, 3), "b": (3, 4), "c": (4,)}, {}),
    "Gemm flipped": ([node("Gemm", "a b", "y", transA=1, transB=1)], {"a": (3, 2), "b": (4, 3)}, {}),
    "ReduceSum": ([node("ReduceSum", "a k", "s"), node("Mul", "s s", "y")], A, AXES),
    "ReduceSum dropped": ([node("ReduceSum", "a k", "s", keepdims=0), node("Mul", "s s", "y")], A, AXES),
    "ReduceMean": ([node("ReduceMean", "a k", "s", keepdims=0), node("Exp", "s", "y")], A, {"k": np.array([-2])}),
    "ReduceMean of all": ([node("ReduceMean", "a", "s"), node("Exp", "s", "y")], A, {}),
    "ReduceSum of none": ([node("ReduceSum", "a", "s", noop_with_empty_axes=1), node("Exp", "s", "y")], A, {}),
    "Reshape": ([node("Reshape", "a k", "r"), node("Mul", "r b", "y")], {"a": (2, 3), "b": (6,)}, {"k": np.array([6])}),
    "Transpose": (
        [node("Transpose", "a", "t", perm=[2, 0, 1]), node("Mul", "t b", "y")],
        {"a": (2, 3, 4), "b": (4, 2, 3)},
        {},
    ),
    "Squeeze": ([node("Squeeze", "a k", "s"), node("Exp", "s", "y")], {"a": (2, 1, 3)}, AXES),
    "a value used twice": ([node("Mul", "a a", "m"), node("Add", "m a", "y")], A, {}),
    "two ways": (
        [node("Sin", "a", "s"), node("Exp", "a", "e"), node("Mul", "s e", "m"), node("Div", "m s", "y")],
        A,
        {},
    ),
    "a layer": (
        [
            node("MatMul", "a b", "m"),
            node("Add", "m c", "h"),
            node("Tanh", "h", "t"),
            node("ReduceMean", "t", "y", keepdims=0),
        ],
        {"a": (2, 3), "b": (3, 4), "c": (4,)},
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_slopes(name: str) -> None:
    nodes, shapes, constants = CASES[name]
    graph = import_model(model(nodes, shapes, constants))
    data = [RNG.uniform(0.5, 1.5, shape) for shape in shapes.values()]
    _, *found = evaluate_graph(graph, data)
    for x, slope, wanted in zip(shapes, found, finite_differences(graph, data), strict=True):
        assert slope.shape == wanted.shape
        np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-6, err_msg=x)


def test_what_does_not_depend_has_gradient_zero() -> None:
    graph = import_model(model([node("Exp", "a", "y")], B, {}))
    _, slope, zero = evaluate_graph(graph, [np.ones((2, 3)), np.ones((2, 3))])
    assert np.allclose(slope, np.e) and not zero.any() and zero.shape == (2, 3)


def test_at_other_values_than_the_graphs_own() -> None:
    """The inputs of the node say where the slope is wanted; `zs` are held."""
    nodes = [node("Mul", "a b", "m"), node("Mul", "m a", "y")]
    infos = [helper.make_tensor_value_info(x, TensorProto.DOUBLE, (3,)) for x in ("a", "b", "p", "q")]
    gradient = helper.make_node("Gradient", ["p", "q"], ["d"], domain=DOMAIN, xs=["a"], zs=["b"], y="y")
    graph = helper.make_graph([*nodes, gradient], "g", infos, [onnx.ValueInfoProto(name=name) for name in ("y", "d")])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    made = import_model(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    a, b, p, q = (RNG.uniform(0.5, 1.5, 3) for _ in range(4))
    y, slope = evaluate_graph(made, [a, b, p, q])
    np.testing.assert_allclose(y, a * a * b)
    np.testing.assert_allclose(slope, 2 * p * q)


def test_it_may_stand_before_what_it_derives() -> None:
    made = model([node("Exp", "a", "y")], A, {})
    nodes = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(reversed(nodes))
    _, slope = evaluate_graph(import_model(made), [np.zeros((2, 3))])
    assert (slope == 1).all()


def test_it_compiles() -> None:
    nodes, shapes, constants = CASES["a layer"]
    made = model(nodes, shapes, constants, dtype=TensorProto.FLOAT)
    data = [RNG.uniform(0.5, 1.5, shape).astype(np.float32) for shape in shapes.values()]
    expected = evaluate_graph(import_model(made), data)
    with graphc.compile(made, require_compiled=True) as module:
        for wanted, found in zip(expected, module(data).values(), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "attributes", "error", "message"),
    [
        ([node("Erf", "a", "y")], {}, UnsupportedError, "Erf has no derivative here"),
        ([node("Exp", "a", "y")], {"y": "w"}, ModelError, "'w' is not produced"),
        ([node("Exp", "a", "y")], {"xs": ["a", "y"]}, ModelError, "2 values xs and 0 zs, and has 1 inputs"),
        ([node("Shape", "a", "y")], {}, ModelError, "not a tensor of floats"),
    ],
)
def test_what_it_refuses(nodes: list[Any], attributes: dict[str, Any], error: type[Exception], message: str) -> None:
    made = model(nodes, A, {}, **attributes)
    with pytest.raises(error, match=message):
        import_model(made)
    assert any(message.replace("\\", "") in problem.message for problem in check(made).errors)
