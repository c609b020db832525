"""Reloads without end: nothing is lost, and nothing stays behind."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import statistics
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from graphc.package import Package, WeightsBuilder, write_package
from graphc.serve import InferRequest
from tests.serve.lively import run, serving

SIZE = 512
X = np.ones((1, SIZE), np.float32)


@pytest.fixture(scope="module")
def megabyte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a product with a matrix of a megabyte."""
    folder = tmp_path_factory.mktemp("megabyte")
    w = numpy_helper.from_array(np.ones((SIZE, SIZE), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, SIZE]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "heavy", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    graphc.compile(folder / "model.onnx", output=folder / "model.graphc").close()
    return folder / "model.graphc"


class _Same(WeightsBuilder):
    """The weights of a package as they are."""

    def __init__(self, package: Package) -> None:
        super().__init__()
        self._package = package
        self.size = package.manifest.weights_size

    def chunks(self) -> list[bytes]:
        return [self._package.read("weights.safetensors")]


def put_another(source: Path, path: Path, number: int) -> None:
    """A package with code of its own, so that it shares nothing with the one before."""
    package = Package(source)
    files = {code.member: package.code(isa) + number.to_bytes(4, "big") for isa, code in package.manifest.code.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = dataclasses.replace(package.manifest, hashes={})
    write_package(path, manifest, files=files, weights=_Same(package))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def reload(root: Path, source: Path, count: int) -> list[int]:
    """Reloads a model that is asked all along; answers the memory after each."""
    memory: list[int] = []
    path = root / "heavy/1/model.graphc"

    async def main() -> None:
        put_another(source, path, 0)
        async with serving(root, mode="explicit", models=("heavy",)) as server:
            done = asyncio.Event()

            async def ask() -> int:
                asked = 0
                while not done.is_set():
                    response = await server.infer(InferRequest("heavy", {"x": X}))
                    assert (response.outputs["y"] == SIZE).all()
                    asked += 1
                    await asyncio.sleep(0.002)
                return asked

            asking = [asyncio.create_task(ask()) for _ in range(2)]
            for number in range(1, count + 1):
                put_another(source, path, number)
                await server.load("heavy")
                if number % 10 == 0:
                    gc.collect()
                memory.append(resident())
            done.set()
            asked = sum(await asyncio.gather(*asking))
            (counts,) = server.statistics("heavy")
            assert (counts.success.count, counts.fail.count) == (asked, 0)
            assert asked > count

    run(main)
    return memory


def test_a_few_reloads_leave_nothing_behind(tmp_path: Path, megabyte: Path) -> None:
    memory = reload(tmp_path / "models", megabyte, 20)
    # Each brings a megabyte of weights; what two of them hold may stay with the allocator.
    assert memory[-1] - memory[4] < 3 * 4 * SIZE * SIZE


@pytest.mark.slow
def test_two_hundred_reloads_leave_nothing_behind(tmp_path: Path, megabyte: Path) -> None:
    memory = reload(tmp_path / "models", megabyte, 200)[50:]
    pairs = [(memory[j] - memory[i]) / (j - i) for i in range(len(memory)) for j in range(i + 1, len(memory))]
    assert statistics.median(pairs) < 4096, "no page a reload"
