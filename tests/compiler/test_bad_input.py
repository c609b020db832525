"""Bad models end in a typed error that names what is wrong, at once, with nothing written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphc.compiler import CompileOptions, compile_package
from graphc.errors import GraphcError, ModelError, TypeInferenceError, UnsupportedError
from graphc.frontend.source import ModelSource
from tests.compiler.agreement import assert_agrees
from tests.compiler.test_driver import normal, perceptron
from tests.frontend.models import chain, info, model

HUGE = 2**40
SECONDS = 2.0
"""What the project promises for a bad model. TVM's import, the one slow part, is taken beforehand."""

X = info("x", shape=[2, 4])


def node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), name=attributes.pop("name", "culprit"), **attributes)


def one(op: str, *inputs: str, opset: int = 17, weights: dict[str, Any] | None = None, **attributes: Any) -> Any:
    """A model of one node, called culprit, after an innocent one."""
    nodes = [node("Relu", ["x"], ["r"], name="innocent"), node(op, inputs, **attributes)]
    initializers = {key: np.asarray(value) for key, value in (weights or {}).items()}
    return model(nodes, [X], ["y"], initializers=initializers, opset=opset)


@pytest.fixture(scope="module", autouse=True)
def _tvm_is_imported() -> None:
    import graphc.backends.tvm.backend  # noqa: F401


def refused(source: ModelSource, folder: Path, **options: Any) -> GraphcError:
    """The error of a compile, after a look at the clock and at what it left behind."""
    output, cache = folder / "out.graphc", folder / "cache"
    before = sorted(folder.rglob("*"))
    started = time.perf_counter()
    with pytest.raises(GraphcError) as raised:
        compile_package(source, output, options=CompileOptions(cache=cache, **options))
    # Processor time of others is not ours: this is a bound against work that should not be there, not a measurement.
    assert time.perf_counter() - started < SECONDS
    assert sorted(folder.rglob("*")) == before, "something was written"
    assert "Traceback" not in str(raised.value)
    return raised.value


# --- Files ------------------------------------------------------------------------------------------------------------

WHOLE = perceptron().SerializeToString()
FILES: dict[str, bytes] = {
    "empty": b"",
    "a third": WHOLE[: len(WHOLE) // 3],
    "all but a byte": WHOLE[:-1],
    "text": b"name: model\nlayers: 3\n",
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 4000, np.uint8)),
    "zeros": bytes(4000),
    "an array": b"\x93NUMPY\x01\x00v\x00" + bytes(100),
    "a tensor": onnx.numpy_helper.from_array(np.ones(4, np.float32), "t").SerializeToString(),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_model(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(FILES[what])
    assert isinstance(refused(path, tmp_path), ModelError)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    assert "nowhere.onnx" in refused(tmp_path / "nowhere.onnx", tmp_path).message
    assert isinstance(refused(tmp_path, tmp_path), ModelError)


# --- Graphs -----------------------------------------------------------------------------------------------------------


def cyclic() -> onnx.ModelProto:
    return model([node("Add", ["x", "b"], ["y"]), node("Relu", ["y"], ["b"], name="back")], [X], ["y"])


def duplicated() -> onnx.ModelProto:
    return model([node("Relu", ["x"], name="first"), node("Neg", ["x"])], [X], ["y"])


def dangling_in_a_branch() -> onnx.ModelProto:
    branch = helper.make_graph([node("Neg", ["nothing"], ["b"])], "b", [], [onnx.ValueInfoProto(name="b")])
    nodes = [node("If", ["c"], name="choice", then_branch=branch, else_branch=branch)]
    return model(nodes, [info("c", shape=[], elem=TensorProto.BOOL)], ["y"])


GRAPHS: dict[str, tuple[Callable[[], Any], str]] = {
    "cyclic": (cyclic, "culprit"),
    "reads itself": (lambda: one("Add", "x", "y"), "culprit"),
    "dangling": (lambda: one("Add", "r", "missing"), "culprit"),
    "dangling in a branch": (dangling_in_a_branch, "culprit"),
    "made twice": (duplicated, "culprit"),
    "unknown operator": (lambda: one("Rellu", "r"), "culprit"),
    "unknown domain": (lambda: one("Relu", "r", domain="nowhere"), "culprit"),
    "no such operator yet": (lambda: one("Gelu", "r", opset=17), "culprit"),
    "mismatched addition": (lambda: one("Add", "r", "w", weights={"w": np.ones(3, np.float32)}), "culprit"),
    "mismatched product": (lambda: one("MatMul", "r", "w", weights={"w": np.ones((3, 2), np.float32)}), "culprit"),
    "mismatched dtypes": (lambda: one("Add", "r", "w", weights={"w": np.ones(4, np.float64)}), "culprit"),
    "mismatched concat": (
        lambda: one("Concat", "r", "w", weights={"w": np.ones((3, 3), np.float32)}, axis=0),
        "culprit",
    ),
    "a dtype that it does not take": (lambda: one("Sqrt", "w", weights={"w": np.ones(4, np.int64)}), "culprit"),
    "too few inputs": (lambda: one("Add", "r"), "culprit"),
    "too many inputs": (lambda: one("Relu", "r", "r"), "culprit"),
    "too many outputs": (lambda: one("Relu", "r", outputs=["y", "z"]), "culprit"),
    "an unknown attribute": (lambda: one("Relu", "r", slope=2.0), "culprit"),
    "an attribute of another type": (lambda: one("Softmax", "r", axis="last"), "culprit"),
    "a missing attribute": (lambda: one("Cast", "r"), "culprit"),
    "an axis out of range": (lambda: one("Softmax", "r", axis=5), "culprit"),
    "an axis far out of range": (lambda: one("Concat", "r", "r", axis=-(2**62)), "culprit"),
    "an axis twice": (lambda: one("Squeeze", "r", "a", weights={"a": np.array([0, 0])}), "culprit"),
    "a permutation that is none": (lambda: one("Transpose", "r", perm=[0, 0]), "culprit"),
    "a permutation of another rank": (lambda: one("Transpose", "r", perm=[0, 2, 1]), "culprit"),
    "an unknown data type": (lambda: one("Cast", "r", to=999), "culprit"),
    "an unknown mode": (
        lambda: one("Pad", "r", "p", mode="wobble", weights={"p": np.array([0, 0, 1, 1])}),
        "culprit",
    ),
    "an unknown direction": (
        lambda: one("DepthToSpace", "w", weights={"w": np.ones((1, 4, 2, 2), np.float32)}, blocksize=2, mode="ZZZ"),
        "culprit",
    ),
    "a block of nothing": (
        lambda: one("DepthToSpace", "w", weights={"w": np.ones((1, 4, 2, 2), np.float32)}, blocksize=0),
        "culprit",
    ),
    "a convolution of another rank": (
        lambda: one("Conv", "r", "w", weights={"w": np.ones((4, 4, 3, 3), np.float32)}),
        "culprit",
    ),
    "groups that do not divide": (lambda: convolution(group=3), "culprit"),
    "no groups": (lambda: convolution(group=0), "culprit"),
    "negative strides": (lambda: convolution(strides=[-1, 1]), "culprit"),
    "strides of nothing": (lambda: convolution(strides=[0, 0]), "culprit"),
    "dilations of nothing": (lambda: convolution(dilations=[0, 1]), "culprit"),
    "negative pads": (lambda: convolution(pads=[-9, 0, 0, 0]), "culprit"),
    "too few pads": (lambda: convolution(pads=[1, 1]), "culprit"),
    "a kernel larger than the picture": (lambda: convolution(size=2), "culprit"),
    "an unknown padding": (lambda: convolution(auto_pad="SOMEHOW"), "culprit"),
    "a reshape that does not fit": (lambda: one("Reshape", "r", "s", weights={"s": np.array([3, 3])}), "culprit"),
    "a reshape to less than nothing": (lambda: one("Reshape", "r", "s", weights={"s": np.array([-2, 4])}), "culprit"),
    "two unknown extents": (lambda: one("Reshape", "r", "s", weights={"s": np.array([-1, -1])}), "culprit"),
    "a split that does not add up": (
        lambda: one("Split", "r", "s", outputs=["y", "z"], axis=1, weights={"s": np.array([3, 3])}),
        "culprit",
    ),
    "a negative split": (
        lambda: one("Split", "r", "s", outputs=["y", "z"], axis=1, weights={"s": np.array([-1, 5])}),
        "culprit",
    ),
    "a slice that stands still": (
        lambda: one("Slice", "r", "z", "o", "z", "z", weights={"z": np.array([0]), "o": np.array([1])}),
        "culprit",
    ),
    "an expansion that does not fit": (lambda: one("Expand", "r", "s", weights={"s": np.array([3, 4])}), "culprit"),
    "a negative expansion": (lambda: one("Expand", "r", "s", weights={"s": np.array([-3, 4])}), "culprit"),
    "negative repeats": (lambda: one("Tile", "r", "s", weights={"s": np.array([-1, 1])}), "culprit"),
    "a window of nothing": (lambda: pooling(kernel_shape=[0, 0]), "culprit"),
    "a range that never ends": (
        lambda: one("Range", "a", "b", "c", weights={"a": np.array(0), "b": np.array(9), "c": np.array(0)}),
        "culprit",
    ),
}


def convolution(size: int = 6, **attributes: Any) -> onnx.ModelProto:
    weights = {"w": np.ones((4, 4, 3, 3), np.float32)}
    return model(
        [node("Conv", ["x", "w"], **attributes)], [info("x", shape=[1, 4, size, size])], ["y"], initializers=weights
    )


def pooling(**attributes: Any) -> onnx.ModelProto:
    return model([node("MaxPool", ["x"], **attributes)], [info("x", shape=[1, 4, 6, 6])], ["y"])


@pytest.mark.parametrize("what", GRAPHS)
def test_graphs_that_mean_nothing_name_the_node(what: str, tmp_path: Path) -> None:
    make, blamed = GRAPHS[what]
    error = refused(make(), tmp_path)
    assert isinstance(error, ModelError | UnsupportedError)
    assert blamed in str(error), str(error)


def test_operator_sets_of_the_future(tmp_path: Path) -> None:
    assert "99" in refused(chain(opset=99), tmp_path).message
    assert "opset 0" in refused(chain(opset=0), tmp_path).message


@pytest.mark.parametrize("shape", [[2**62], [2**31, 2**31], [2**20, 2**20, 4], [2**63 - 1, 0, 2]])
def test_inputs_with_impossible_shapes(shape: list[int], tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"])], [info("x", shape=shape)], ["y"])
    assert "x" in str(refused(proto, tmp_path))


# --- External data ----------------------------------------------------------------------------------------------------


def with_external(location: str, offset: int = 0, length: int = 16) -> onnx.ModelProto:
    proto = chain()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)
    return proto


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../secret", "", ".", "link", "missing", "x\0y", "\\\\host\\share"]
)
def test_external_data_does_not_leave_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "model.onnx").write_bytes(with_external(location).SerializeToString())
    error = refused(folder / "model.onnx", tmp_path)
    assert isinstance(error, ModelError) and "'w'" in str(error)


@pytest.mark.parametrize(("offset", "length"), [(60, 16), (-1, 16), (2**62, 16), (0, 2**62), (0, 8)])
def test_external_data_that_is_not_all_there(offset: int, length: int, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(64))
    (tmp_path / "model.onnx").write_bytes(with_external("data", offset, length).SerializeToString())
    assert "'w'" in str(refused(tmp_path / "model.onnx", tmp_path))


# --- Too large --------------------------------------------------------------------------------------------------------


def huge_initializer() -> onnx.ModelProto:
    proto = chain()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("dims")
    tensor.dims.extend([2**31, 2**31])
    return proto


def huge_constant_of_shape() -> onnx.ModelProto:
    """Memory asked of the compile itself: a constant that folding would make."""
    nodes = [node("ConstantOfShape", ["s"], ["c"]), node("Relu", ["c"], name="after")]
    return model(nodes, [X], ["y"], initializers={"s": np.array([HUGE])})


def huge_chain() -> onnx.ModelProto:
    nodes = [node("Tile", ["x", "s"], ["t"]), node("ReduceSum", ["t"], name="after", keepdims=0)]
    return model(nodes, [X], ["y"], initializers={"s": np.array([HUGE, 1])})


TOO_LARGE: dict[str, tuple[Callable[[], Any], str]] = {
    "an initializer": (huge_initializer, "w"),
    "constant of shape": (huge_constant_of_shape, "culprit"),
    "tile": (huge_chain, "culprit"),
    "expand": (lambda: one("Expand", "r", "s", weights={"s": np.array([HUGE, 2, 4])}), "culprit"),
    "pad": (lambda: one("Pad", "r", "s", weights={"s": np.array([0, 0, HUGE, 0])}), "culprit"),
    "product of two": (lambda: one("Expand", "r", "s", weights={"s": np.array([2**61, 2, 4])}), "culprit"),
    "range": (
        lambda: one("Range", "a", "b", "c", weights={"a": np.array(0), "b": np.array(HUGE), "c": np.array(1)}),
        "culprit",
    ),
    "resize": (
        lambda: one(
            "Resize",
            "w",
            "",
            "s",
            weights={"w": np.ones((1, 1, 4, 4), np.float32), "s": np.array([1, 1, 2e6, 2e6], np.float32)},
        ),
        "culprit",
    ),
    "one hot": (
        lambda: one(
            "OneHot",
            "i",
            "d",
            "v",
            weights={"i": np.array([1]), "d": np.array(HUGE), "v": np.array([0, 1], np.float32)},
        ),
        "culprit",
    ),
    "a convolution's padding": (lambda: convolution(pads=[0, 0, 2**31, 2**31]), "culprit"),
}


@pytest.mark.parametrize("what", TOO_LARGE)
@pytest.mark.parametrize("level", ["O0", "O2"])
def test_what_no_memory_holds_is_refused_and_not_tried(what: str, level: str, tmp_path: Path) -> None:
    make, blamed = TOO_LARGE[what]
    assert blamed in str(refused(make(), tmp_path, level=level))


def test_inference_errors_are_their_own_kind(tmp_path: Path) -> None:
    assert isinstance(refused(GRAPHS["mismatched addition"][0](), tmp_path), TypeInferenceError)


def test_what_looks_bad_and_is_not() -> None:
    """Edges on the right side of every check above."""
    assert_agrees(convolution(pads=[2, 2, 2, 2], strides=[3, 3]), {"x": normal(1, 4, 6, 6)})
    assert_agrees(one("Reshape", "r", "s", weights={"s": np.array([0, -1])}), {"x": normal(2, 4)})
    assert_agrees(one("Gather", "r", "i", weights={"i": np.array(-2)}), {"x": normal(2, 4)})
    assert_agrees(one("Tile", "r", "s", weights={"s": np.array([1, 3])}), {"x": normal(2, 4)})
    assert_agrees(
        one("Slice", "r", "a", "b", weights={"a": np.array([-(2**62)]), "b": np.array([2**62])}), {"x": normal(2, 4)}
    )
