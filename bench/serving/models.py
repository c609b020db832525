"""Models to serve: one that takes next to no time, one that takes about as long as it is asked to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import graphc

if TYPE_CHECKING:
    import onnx

CHANNELS, SIDE = 64, 28


def scale(folder: Path, factor: float, batches: tuple[int, ...] = (1, 2, 4, 8, 16)) -> Path:
    """The package of y = factor · x + 1, for x of batch × 16: its answers tell which version gave them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16]) for name in "xy")
    constants = [
        numpy_helper.from_array(np.array([value], np.float32), name) for name, value in (("a", factor), ("b", 1.0))
    ]
    nodes = [helper.make_node("Mul", ["x", "a"], ["ax"]), helper.make_node("Add", ["ax", "b"], ["y"])]
    graph = helper.make_graph(nodes, "scale", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / f"scale-{factor}.onnx")
    path = folder / f"scale-{factor}.graphc"
    graphc.compile(folder / f"scale-{factor}.onnx", output=path, dims={"batch": list(batches)})
    return path


def lasting(folder: Path, seconds: float) -> tuple[Path, float]:
    """A package whose call takes about so long on one thread, and how long it takes."""
    trial, count = _measured(folder, 4), 4
    for _ in range(3):
        wanted = max(1, round(count * seconds / trial[1]))
        if wanted == count:
            break
        trial, count = _measured(folder, wanted), wanted
    return trial


def _measured(folder: Path, layers: int) -> tuple[Path, float]:
    import onnx

    onnx.save(_convolutions(layers), folder / "lasting.onnx")
    path = folder / "lasting.graphc"
    with graphc.compile(folder / "lasting.onnx", output=path, threads=1) as model:
        x = {"x": np.ones((1, CHANNELS, SIDE, SIDE), np.float32)}
        times = []
        for _ in range(30):
            start = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - start)
    return path, min(times)


def _convolutions(layers: int) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS, 1, 1])
    weights, nodes, name = [], [], "x"
    for layer in range(layers):
        w = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32) * np.float32((2 / 9 / CHANNELS) ** 0.5)
        weights.append(numpy_helper.from_array(w, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name = f"r{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    graph = helper.make_graph(nodes, "lasting", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def place(repository: Path, name: str, version: int, package: Path) -> None:
    """Puts a package into a repository as an operator would: whole, or not there."""
    folder = repository / name
    folder.mkdir(parents=True, exist_ok=True)
    coming = folder / f".{version}"
    coming.mkdir()
    (coming / "model.graphc").write_bytes(package.read_bytes())
    coming.rename(folder / str(version))
