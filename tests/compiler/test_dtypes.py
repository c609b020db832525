"""Every element type through whole packages: in, as weights, through kernels, and out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import graphc
from graphc.ir import DType, dtypes
from graphc.ops.conversion import convert
from tests.frontend.models import info, model, run_ort
from tests.ops.test_conversion import bits

HELD = [d for d in dtypes.ALL if d.kind != "string"]
NUMBERS = [d for d in HELD if d.kind != "complex"]
NEWEST = {"opset": 28, "ir_version": 14}
RNG = np.random.default_rng(0)


def some(dtype: DType, *shape: int) -> Any:
    """Small numbers of a type."""
    if dtype.kind == "complex":
        return (RNG.integers(-9, 9, shape) + 1j * RNG.integers(-9, 9, shape)).astype(dtype.numpy)
    return convert(RNG.integers(0, 4, shape), dtype)


def packed(proto: Any, folder: Path) -> graphc.Executable:
    """The model as a package that was written and read back; no step runs on the host."""
    with graphc.compile(proto, require_compiled=True, verify=True, output=folder / "model.graphc"):
        pass
    return graphc.load(folder / "model.graphc")


@pytest.mark.parametrize("dtype", HELD, ids=str)
def test_in_as_a_weight_and_out(dtype: DType, tmp_path: Path) -> None:
    x, weight = some(dtype, 5, 7), some(dtype, 2, 7)
    nodes = [
        helper.make_node("Concat", ["x", "w"], ["joined"], axis=0),
        helper.make_node("Transpose", ["joined"], ["turned"], perm=[1, 0]),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    proto = model(nodes, [info("x", x)], ["turned", "same"], initializers={"w": weight}, **NEWEST)
    with packed(proto, tmp_path) as module:
        found = module([x])
    for array, want in zip(found.values(), (np.concatenate([x, weight]).T, x), strict=True):
        assert array.dtype == dtype.numpy
        np.testing.assert_array_equal(bits(array), bits(want))


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_arithmetic_between_casts(dtype: DType, tmp_path: Path) -> None:
    x = some(dtype, 6, 9)
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=dtypes.FLOAT32.onnx),
        helper.make_node("Mul", ["wide", "half"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["y"], to=dtype.onnx),
    ]
    proto = model(nodes, [info("x", x)], ["y"], initializers={"half": np.float32(0.5)}, **NEWEST)
    with packed(proto, tmp_path) as module:
        (found,) = module([x]).values()
    want = convert(x.astype(np.float32) * np.float32(0.5), dtype, saturate=True, rounding="up")
    np.testing.assert_array_equal(bits(found), bits(want))


@pytest.mark.parametrize("left", ["uint8", "int8"])
@pytest.mark.parametrize("columns", [False, True])
def test_a_quantized_layer_is_what_onnx_runtime_makes_of_it(left: str, columns: bool) -> None:
    kind = np.dtype(left)
    x = RNG.integers(np.iinfo(kind).min, np.iinfo(kind).max, (33, 70), kind, endpoint=True)
    per = (40,) if columns else ()
    weights = {
        "xs": np.float32(0.02),
        "xz": np.array(5, kind),
        "w": RNG.integers(-128, 128, (70, 40)).astype(np.int8),
        "ws": RNG.uniform(0.01, 0.02, per).astype(np.float32),
        "wz": np.zeros(per, np.int8),
        "ys": np.float32(0.9),
        "yz": np.array(3, kind),
    }
    node = helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])
    proto = model(
        [node],
        [info("x", x)],
        [info("y", shape=[33, 40], elem=dtypes.from_name(left).onnx)],
        initializers=weights,
        opset=21,
        ir_version=10,
    )
    with graphc.compile(proto, require_compiled=True) as module:
        (found,) = module([x]).values()
    np.testing.assert_array_equal(found, run_ort(proto, {"x": x})[0])


@pytest.mark.parametrize(("kernel", "strides"), [(1, 1), (3, 1), (3, 2)])
def test_a_quantized_convolution_is_what_onnx_runtime_makes_of_it(kernel: int, strides: int) -> None:
    x = RNG.integers(0, 256, (2, 20, 13, 13)).astype(np.uint8)
    weights = {
        "xs": np.float32(0.02),
        "xz": np.array(120, np.uint8),
        "w": RNG.integers(-128, 128, (24, 20, kernel, kernel)).astype(np.int8),
        "ws": RNG.uniform(0.01, 0.02, 24).astype(np.float32),
        "wz": np.zeros(24, np.int8),
        "ys": np.float32(2.0),
        "yz": np.array(100, np.uint8),
        "b": RNG.integers(-900, 900, 24).astype(np.int32),
    }
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    node = helper.make_node("QLinearConv", inputs, ["y"], pads=[kernel // 2] * 4, strides=[strides] * 2)
    proto = model([node], [info("x", x)], ["y"], initializers=weights, opset=21, ir_version=10)
    with graphc.compile(proto, require_compiled=True) as module:
        (found,) = module([x]).values()
    np.testing.assert_array_equal(found, run_ort(proto, {"x": x})[0])


@pytest.mark.parametrize("dtype", [dtypes.FLOAT16, dtypes.BFLOAT16], ids=str)
def test_a_half_width_network(dtype: DType, tmp_path: Path) -> None:
    """Convolutions in float32, a product in half width, casts at the borders; half-width in and out."""
    x = RNG.standard_normal((1, 4, 12, 12)).astype(dtype.numpy)
    weights = {
        "w": (RNG.standard_normal((8, 4, 3, 3)) / 6).astype(dtype.numpy),
        "head": (RNG.standard_normal((8, 5)) / 3).astype(dtype.numpy),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["image"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["image"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["row"]),
        helper.make_node("MatMul", ["row", "head"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"]),
    ]
    types = {"opset": 22, "ir_version": 10}
    wide = model(
        nodes,
        [info("x", shape=x.shape)],
        ["y"],
        initializers={name: w.astype(np.float32) for name, w in weights.items()},
        **types,
    )
    want = run_ort(wide, {"x": x.astype(np.float32)})[0]
    proto = model(nodes, [info("x", x)], ["y"], initializers=weights, **types)
    with packed(proto, tmp_path) as module:
        (found,) = module([x]).values()
    assert found.dtype == dtype.numpy
    np.testing.assert_allclose(found.astype(np.float32), want, atol=2e-3 if dtype == dtypes.FLOAT16 else 1e-2)
