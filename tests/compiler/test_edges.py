"""Models at the edges: outputs of every origin, ranks and extents of nothing, every dtype, what the host must do."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphc
from graphc.errors import ExecutionError
from tests.compiler.agreement import assert_agrees, assert_close
from tests.frontend.models import Array, info, model, run_ort

RNG = np.random.default_rng(0)
Node = onnx.NodeProto


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Node:
    return helper.make_node(op, inputs, outputs, name=attributes.pop("name", f"{op}_{outputs[0]}"), **attributes)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


W = np.arange(12, dtype=np.float32).reshape(3, 4)
SHAPES = {"flat": np.array([-1], np.int64), "wide": np.array([2, 6], np.int64)}
X = info("x", shape=[3, 4])

OUTPUTS: dict[str, tuple[list[Node], list[str]]] = {
    "an input": ([node("Relu", ["x"], ["y"])], ["x", "y"]),
    "only an input": ([], ["x"]),
    "an initializer": ([node("Relu", ["x"], ["y"])], ["w", "y"]),
    "only an initializer": ([], ["w"]),
    "a copy of an input": ([node("Identity", ["x"], ["y"])], ["y"]),
    "two copies of an input": ([node("Identity", ["x"], ["y"]), node("Identity", ["x"], ["z"])], ["y", "z"]),
    "a view of an input": ([node("Reshape", ["x", "flat"], ["y"])], ["y"]),
    "a view of an initializer": ([node("Reshape", ["w", "wide"], ["y"]), node("Relu", ["x"], ["z"])], ["y", "z"]),
    "a value and its view": ([node("Relu", ["x"], ["y"]), node("Reshape", ["y", "flat"], ["z"])], ["z", "y"]),
    "two views of one value": (
        [node("Relu", ["x"], ["r"]), node("Reshape", ["r", "flat"], ["y"]), node("Reshape", ["r", "wide"], ["z"])],
        ["y", "z"],
    ),
    "a value that is read again": ([node("Exp", ["x"], ["y"]), node("Neg", ["y"], ["z"])], ["y", "z"]),
    "a view that is read again": (
        [node("Exp", ["x"], ["e"]), node("Reshape", ["e", "flat"], ["y"]), node("Neg", ["y"], ["z"])],
        ["y", "z"],
    ),
    "equal values under two names": ([node("Exp", ["x"], ["y"]), node("Exp", ["x"], ["z"])], ["y", "z"]),
    "constants that fold": ([node("Neg", ["w"], ["n"]), node("Neg", ["n"], ["y"])], ["y", "n"]),
    "a view of a view": (
        [
            node("Reshape", ["x", "wide"], ["v"]),
            node("Unsqueeze", ["v", "axis"], ["u"]),
            node("Identity", ["u"], ["y"]),
        ],
        ["y"],
    ),
}


@pytest.mark.parametrize("level", ["O0", "O2"])
@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_may_be(what: str, level: str) -> None:
    nodes, outputs = OUTPUTS[what]
    initializers: dict[str, Array] = {"w": W, **SHAPES, "axis": np.array([1], np.int64)}
    proto = model(nodes, [X], outputs, initializers=initializers)
    feeds = {"x": normal(3, 4)}
    module = assert_agrees(proto, feeds, level=level)
    before = feeds["x"].copy()
    found = module(feeds)
    kept = {name: array.copy() for name, array in found.items()}
    for array in found.values():
        assert not np.shares_memory(array, feeds["x"])
        array.fill(np.float32(7))
    np.testing.assert_array_equal(feeds["x"], before)
    for name, array in module(feeds).items():
        np.testing.assert_array_equal(array, kept[name], f"{name} was changed by writing to the last call's answer")


def test_inputs_may_be_unused() -> None:
    proto = model([node("Relu", ["x"], ["y"])], [info("a", shape=[2]), X, info("b", shape=["n"])], ["y"])
    assert_agrees(proto, {"a": normal(2), "x": normal(3, 4), "b": normal(5)}, dims={"n": 5})


def test_a_model_may_have_no_inputs() -> None:
    module = assert_agrees(model([node("Neg", ["w"], ["y"])], [], ["y"], initializers={"w": W}), {})
    assert module.variants[0].steps == ()


RANK_0: list[tuple[str, list[str], Any]] = [
    ("Add", ["x", "x"], {}),
    ("Exp", ["x"], {}),
    ("Unsqueeze", ["x", "axis"], {}),
    ("Expand", ["x", "shape"], {}),
    ("ReduceSum", ["x"], {}),
    ("Softplus", ["x"], {}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), RANK_0, ids=lambda case: case if isinstance(case, str) else "")
def test_scalars(op: str, inputs: list[str], attributes: Any) -> None:
    initializers = {"axis": np.array([0], np.int64), "shape": np.array([2, 3], np.int64)}
    nodes = [node(op, inputs, ["m"], **attributes), node("Mul", ["m", "x"], ["y"])]
    proto = model(nodes, [info("x", shape=[])], ["y", "m"], initializers=initializers)
    assert_agrees(proto, {"x": np.array(0.75, np.float32)})


EMPTY: dict[str, tuple[list[Node], dict[str, Array]]] = {
    "pointwise": ([node("Add", ["x", "x"], ["m"]), node("Exp", ["m"], ["y"])], {}),
    "broadcast": ([node("Add", ["x", "w"], ["y"])], {"w": np.ones((1, 4), np.float32)}),
    "sum": ([node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], {"axes": np.array([0], np.int64)}),
    "product": ([node("ReduceProd", ["x"], ["y"], keepdims=0, axes=[0])], {}),
    "concat": ([node("Concat", ["x", "w"], ["y"], axis=0)], {"w": W}),
    "transpose": ([node("Transpose", ["x"], ["y"])], {}),
    "reshape": ([node("Reshape", ["x", "s"], ["y"], allowzero=1)], {"s": np.array([4, 0, 2], np.int64)}),
    "matmul": ([node("MatMul", ["t", "x"], ["y"])], {"t": np.ones((2, 0), np.float32)}),
    "matmul of no rows": ([node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((4, 5), np.float32)}),
    "softmax": ([node("Softmax", ["x"], ["y"], axis=1)], {}),
    "gather": ([node("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array([1, 2], np.int64)}),
    "slice": (
        [node("Slice", ["x", "b", "e", "a"], ["y"])],
        {"b": np.array([1], np.int64), "e": np.array([3], np.int64), "a": np.array([1], np.int64)},
    ),
    "layer norm": ([node("LayerNormalization", ["x", "g"], ["y"])], {"g": np.ones(4, np.float32)}),
    "pad": ([node("Pad", ["x", "p"], ["y"])], {"p": np.array([1, 0, 1, 0], np.int64)}),
}


@pytest.mark.parametrize("what", EMPTY)
def test_tensors_without_elements(what: str) -> None:
    nodes, initializers = EMPTY[what]
    proto = model(nodes, [info("x", shape=[0, 4])], ["y"], initializers=initializers)
    feeds = {"x": np.zeros((0, 4), np.float32)}
    if what in ("matmul", "pad", "product"):
        # ONNX Runtime refuses some of these; what they mean is plain.
        expected = {"matmul": np.zeros((2, 4)), "pad": np.zeros((2, 4)), "product": np.ones(4)}[what]
        assert_close("y", expected.astype(np.float32), graphc.compile(proto, verify=True)(feeds)["y"])
    else:
        assert_agrees(proto, feeds)


NUMBERS = ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def some(dtype: str, *shape: int) -> Array:
    """Values that every dtype holds, extremes of integers among them."""
    values = RNG.integers(0, 100, shape)
    array = values.astype(dtype)
    if array.dtype.kind in "iu":
        array.flat[0], array.flat[-1] = np.iinfo(dtype).min, np.iinfo(dtype).max
    return array


@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_dtype_computes(dtype: str) -> None:
    x, w = some(dtype, 5, 21), some(dtype, 21)
    nodes = [
        node("Add", ["x", "w"], ["s"]),
        node("Mul", ["s", "x"], ["p"]),
        node("Transpose", ["p"], ["t"]),
        node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
        node("Max", ["x", "w"], ["m"]),
    ]
    proto = model(nodes, [info("x", x)], ["y", "m"], initializers={"w": w}, opset=21)
    if dtype in ("int16", "uint16", "uint8", "int8"):
        # No arithmetic of these in ONNX Runtime; NumPy's wraps as ONNX's does.
        module = graphc.compile(proto, verify=True)
        found = module({"x": x})
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(found["y"], ((x + w) * x).T.astype(np.float32))
        np.testing.assert_array_equal(found["m"], np.maximum(x, w))
    else:
        assert_agrees(proto, {"x": x}, tolerance=1e-3 if dtype == "float16" else 1e-6)


def test_bfloat16_computes_in_float32_and_rounds_to_even() -> None:
    x = normal(7, 9).astype(ml_dtypes.bfloat16)
    proto = model([node("Add", ["x", "x"], ["s"]), node("Mul", ["s", "x"], ["y"])], [info("x", x)], ["y"], opset=21)
    expected = ((x + x) * x).astype(np.float32)
    found = graphc.compile(proto, verify=True)({"x": x})["y"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2**-7)


def test_booleans() -> None:
    a, b = RNG.integers(0, 2, (2, 3, 70)).astype(bool)
    nodes = [
        node("And", ["a", "b"], ["c"]),
        node("Xor", ["c", "b"], ["d"]),
        node("Not", ["d"], ["y"]),
        node("Where", ["y", "one", "zero"], ["z"]),
        node("Cast", ["d"], ["i"], to=TensorProto.INT64),
    ]
    initializers = {"one": np.array(1.5, np.float32), "zero": np.array(-0.0, np.float32)}
    proto = model(nodes, [info("a", a), info("b", b)], ["y", "z", "i"], initializers=initializers)
    assert_agrees(proto, {"a": a, "b": b})


def odd_memory(array: Array) -> dict[str, Array]:
    """The same values in other memory orders."""
    padded = np.zeros((array.shape[0] * 2, array.shape[1] + 3), array.dtype)
    padded[::2, : array.shape[1]] = array
    shifted = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return {
        "big-endian": array.astype(array.dtype.newbyteorder(">")),
        "column-major": np.asfortranarray(array),
        "strided": padded[::2, : array.shape[1]],
        "reversed": array[::-1].copy()[::-1],
        "unaligned": shifted,
    }


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_inputs_in_any_memory_order(dtype: str) -> None:
    x = some(dtype, 3, 4)
    module = graphc.compile(model([node("Neg", ["x"], ["n"]), node("Add", ["n", "n"], ["y"])], [info("x", x)], ["y"]))
    expected = module({"x": x})["y"]
    for what, other in odd_memory(x).items():
        np.testing.assert_array_equal(module({"x": other})["y"], expected, what)


@pytest.mark.parametrize("index", [-4, 3, 2**40, -(2**63)])
@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND"])
def test_an_index_outside_is_an_error_that_names_the_node(op: str, index: int) -> None:
    shape = {"Gather": [2], "GatherElements": [2, 4], "GatherND": [2, 1]}[op]
    proto = model(
        [node("Relu", ["x"], ["r"]), node(op, ["r", "i"], ["g"], name="lookup"), node("Neg", ["g"], ["y"])],
        [X, info("i", shape=shape, elem=TensorProto.INT64)],
        ["y"],
    )
    module = graphc.compile(proto, verify=True)
    x, good = normal(3, 4), np.zeros(shape, np.int64)
    good.flat[0], good.flat[-1] = 2, -3
    for _ in range(2):
        assert_close("y", run_ort(proto, {"x": x, "i": good})[0], module({"x": x, "i": good})["y"])
        bad = good.copy()
        bad.flat[-1] = index
        with pytest.raises(ExecutionError, match="lookup"):
            module({"x": x, "i": bad})


@pytest.mark.parametrize("number", [3, -4, 2**40])
def test_a_constant_index_outside_is_an_error_of_its_step(number: int) -> None:
    """Not of the compile: the node may stand in a branch that is never taken."""
    nodes = [node("Gather", ["x", "i"], ["g"], name="lookup"), node("Neg", ["g"], ["y"])]
    module = graphc.compile(model(nodes, [X], ["y"], initializers={"i": np.array(number)}), verify=True)
    with pytest.raises(ExecutionError, match="lookup"):
        module({"x": normal(3, 4)})


def test_host_steps_between_kernels() -> None:
    """A result whose shape only the data tells feeds what is compiled nowhere, and kernels run before and after."""
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("NonZero", ["r"], ["n"]),
        node("Transpose", ["n"], ["t"], perm=[1, 0]),
        node("GatherND", ["r", "t"], ["g"]),
        node("ReduceSum", ["g"], ["s"], keepdims=0),
        node("Mul", ["r", "s"], ["m"]),
        node("Softmax", ["m"], ["y"]),
    ]
    proto = model(nodes, [X], ["y", "g", "n"])
    module = assert_agrees(proto, {"x": normal(3, 4)})
    kinds = [type(step).__name__ for step in module.variants[0].steps]
    assert kinds[0] == "KernelStep" and "HostStep" in kinds and kinds[-1] == "KernelStep"
    for _ in range(3):
        x = normal(3, 4)
        for name, expected in zip(["y", "g", "n"], run_ort(proto, {"x": x}), strict=True):
            assert_close(name, expected, module({"x": x})[name])


def test_control_flow_runs_beside_kernels() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        return helper.make_graph([node(op, ["e"], [name])], name, [], [onnx.ValueInfoProto(name=name)])

    nodes = [
        node("Exp", ["x"], ["e"]),
        node("If", ["c"], ["b"], then_branch=branch("p", "Neg"), else_branch=branch("q", "Sqrt")),
        node("Add", ["b", "e"], ["y"]),
    ]
    proto = model(nodes, [X, info("c", shape=[], elem=TensorProto.BOOL)], ["y"])
    for chosen in (True, False):
        assert_agrees(proto, {"x": normal(3, 4), "c": np.array(chosen)})


def test_strings() -> None:
    words = np.array([["a", "längeres Wort"], ["", "b"]], object)
    text = info("t", shape=[2, 2], elem=TensorProto.STRING)
    proto = model(
        [node("Identity", ["t"], ["y"]), node("Reshape", ["t", "flat"], ["z"]), node("Relu", ["x"], ["r"])],
        [text, X],
        ["y", "z", "r"],
        initializers={"flat": SHAPES["flat"]},
    )
    assert_agrees(proto, {"t": words, "x": normal(3, 4)})


def test_constants_of_strings() -> None:
    nodes = [
        node("StringConcat", ["t", "suffix"], ["y"]),
        node("Identity", ["suffix"], ["z"]),
        node("Equal", ["t", "suffix"], ["e"]),
    ]
    proto = model(
        nodes,
        [info("t", shape=[2], elem=TensorProto.STRING)],
        ["y", "z", "e", "suffix"],
        initializers={"suffix": np.array(["x", "yü"], object)},
        opset=20,
    )
    assert_agrees(proto, {"t": np.array(["x", ""], object)})


def test_sequences() -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("SequenceConstruct", ["r", "x"], ["s"]),
        node("SequenceAt", ["s", "one"], ["a"]),
        node("ConcatFromSequence", ["s"], ["c"], axis=0),
        node("Neg", ["c"], ["n"]),
    ]
    proto = model(nodes, [X], ["n", "a", "s"], initializers={"one": np.array(1, np.int64)})
    assert_agrees(proto, {"x": normal(3, 4)})


def test_optional_outputs_left_out() -> None:
    nodes = [node("TopK", ["x", "k"], ["v", "i"], axis=1), node("Dropout", ["x"], ["d", ""])]
    proto = model(nodes, [X], ["i", "d"], initializers={"k": np.array([2], np.int64)})
    assert_agrees(proto, {"x": normal(3, 4)})


def test_a_function_of_the_model_compiles() -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Twice", ["x"], ["y"], domain="mine", name="call")
    assert_agrees(model([call], [X], ["y"], functions=[function], domains={"mine": 1}), {"x": normal(3, 4)})


def test_a_value_of_many_readers_and_long_life() -> None:
    """The first value outlives ninety others: nothing may be written over it."""
    nodes = [node("Exp", ["x"], ["first"])]
    last = "first"
    for index in range(30):
        nodes += [
            node("MatMul", [last, "m"], [f"a{index}"]),
            node("Softmax", [f"a{index}"], [f"b{index}"]),
            node("Transpose", [f"b{index}"], [f"c{index}"]),
        ]
        last = f"c{index}"
    nodes.append(node("Add", [last, "first"], ["y"]))
    proto = model(nodes, [info("x", shape=[8, 8])], ["y"], initializers={"m": normal(8, 8)})
    module = assert_agrees(proto, {"x": normal(8, 8)})
    variant = module.variants[0]
    assert variant.arena_size == variant.lower_bound <= 4 * 8 * 8 * 4
