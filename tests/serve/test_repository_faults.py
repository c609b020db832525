"""What goes wrong around the repository: nothing is lost, nothing is answered wrongly, and the index says why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from graphc.serve import InferRequest, State, compiling
from tests.serve.conftest import Package, Repository, scale_model
from tests.serve.lively import factor, put, reasons, run, serving, states, until


def put_model(model: onnx.ModelProto, folder: Path, settings: str = "[compile]\ndims = {batch = 1}\n") -> None:
    folder.mkdir(parents=True)
    (folder.parent / "model.toml").write_text(settings)
    onnx.save(model, folder / "model.onnx")


def heavy_model() -> onnx.ModelProto:
    """A product with a megabyte of weights."""
    w = numpy_helper.from_array(np.ones((512, 512), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 512]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "heavy", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.slow
def test_a_disk_that_is_full_while_a_model_is_compiled(repository: Repository, tmp_path: Path) -> None:
    async def main() -> None:
        root, cache = repository(scale={1: 2.0}), tmp_path / "cache"
        put_model(heavy_model(), root / "heavy/1")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # The kernel refuses to write more, to the worker too: its objects are smaller than this, its package is not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, before[1]))
        try:
            async with serving(root, cache=cache, mode="explicit", models=("scale", "heavy")) as server:
                assert states(server)["heavy/1"] is State.UNAVAILABLE
                assert "cannot write" in reasons(server)["heavy/1"]
                assert await factor(server) == 2
                assert list((cache / "served").iterdir()) == [], "nothing half-written is left"
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
                await server.load("heavy")
                assert states(server)["heavy/1"] is State.READY
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    run(main)


def test_a_compile_that_is_killed(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = asyncio.create_subprocess_exec

    async def kill_it(*arguments: Any, **options: Any) -> Any:
        process = await start(*arguments, **options)
        asyncio.get_running_loop().call_later(0.3, process.kill)
        return process

    async def main() -> None:
        root = repository(scale={1: 2.0})
        put_model(scale_model(3.0), root / "raw/1")
        async with serving(root, cache=tmp_path / "cache", mode="explicit", models=("scale",)) as server:
            with monkeypatch.context() as patch:
                patch.setattr(compiling.asyncio, "create_subprocess_exec", kill_it)
                with pytest.raises(Exception, match=r"compiling raw/1 was killed by SIGKILL"):
                    await server.load("raw")
            assert await factor(server) == 2
            assert list((tmp_path / "cache/served").iterdir()) == []

    run(main)


def test_a_server_that_stops_while_it_compiles_leaves_no_process(repository: Repository, tmp_path: Path) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0})
        async with serving(root, cache=tmp_path / "cache") as server:
            put_model(scale_model(3.0), root / "raw/1")
            await until(lambda: bool(children()))
            (worker,) = children()
        await until(lambda: not Path(f"/proc/{worker}").exists())
        assert list((tmp_path / "cache").rglob("*.part")) == []
        assert server.live is False

    run(main)


def children() -> list[int]:
    """Compiles that this process has started; tests before this one may have left it other children."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            with contextlib.suppress(OSError):  # it has ended since
                if b"serve.compile_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda path: path.write_bytes(scale_model(3.0).SerializeToString()[:-20]), "not a valid ONNX model"),
        (lambda path: onnx.save(two_open_dimensions(), path), r"open dimensions a, b .*\[compile\] dims = \{a = 1"),
    ],
    ids=["truncated", "open dimensions"],
)
def test_a_model_that_does_not_compile_says_why(repository: Repository, tmp_path: Path, write: Any, why: str) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0})
        (root / "raw/1").mkdir(parents=True)
        write(root / "raw/1/model.onnx")
        async with serving(root, cache=tmp_path / "cache", mode="none") as server:
            assert states(server)["raw/1"] is State.UNAVAILABLE
            assert re.search(why, reasons(server)["raw/1"])
            assert "Traceback" not in reasons(server)["raw/1"]
            assert await factor(server) == 2

    run(main)


def two_open_dimensions() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "open", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_model_that_memory_does_not_suffice_for_is_refused_by_how_much(
    repository: Repository, tmp_path: Path
) -> None:
    onnx.save(heavy_model(), tmp_path / "heavy.onnx")
    heavy = tmp_path / "heavy.graphc"
    graphc.compile(tmp_path / "heavy.onnx", output=heavy, dims={"batch": 1}).close()
    x = np.ones((1, 512), np.float32)

    async def main() -> None:
        root = repository(scale={1: 2.0})
        put(heavy, root / "first/1")
        async with serving(root, memory_limit=1_600_000) as server:
            assert await factor(server) == 2
            put(heavy, root / "second/1")
            await until(lambda: states(server).get("second/1") is State.UNAVAILABLE)
            assert re.search(
                r"second/1 would need 1\.\d MB at least, and memory_limit is 1\.6 MB, of which 1\.\d MB are taken: "
                r"0\.\d MB too much",
                reasons(server)["second/1"],
            )
            shutil.rmtree(root / "first")
            await until(lambda: "first/1" not in states(server))
            # What lacks nothing any more is tried again after a while.
            server._catalog.models["second"].versions[1].retry_at = 0.0
            await until(lambda: states(server)["second/1"] is State.READY)
            response = await server.infer(InferRequest("second", {"x": x}))
            assert (response.outputs["y"] == 512).all()

    run(main)


def test_clocks_that_jump_change_nothing(
    repository: Repository, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        root = repository("slo_ms = 5000", scale={1: 2.0})
        async with serving(root) as server:
            for days in (1, -400, 30_000):
                shift = days * 86_400.0
                monkeypatch.setattr(time, "time", lambda shift=shift, now=time.monotonic: now() + shift)
                monkeypatch.setattr(time, "time_ns", lambda shift=shift, now=time.monotonic: int((now() + shift) * 1e9))
                assert await factor(server) in (2, 3, 4)
                put(package(2.0 if days > 1 else 3.0), root / "scale/1")
                # Files of the past and of the future are new files all the same.
                os.utime(root / "scale/1/model.graphc", (10**9 + shift, 10**9 + shift))
                seen = states(server)
                await asyncio.sleep(0.2)
                assert seen == states(server) == {"scale/1": State.READY}
            await until(lambda: server.statistics("scale")[0].success.ns < 10**10)
            assert await factor(server) == 2
            (counts,) = server.statistics("scale")
            assert counts.failures == {}
            assert 0 < counts.success.ns < 10 * 10**9

    run(main)


def test_signals_of_a_terminal_are_not_the_worker_s(repository: Repository, tmp_path: Path) -> None:
    async def main() -> None:
        root = repository(scale={1: 2.0})
        async with serving(root, cache=tmp_path / "cache"):
            put_model(scale_model(3.0), root / "raw/1")
            await until(lambda: bool(children()))
            (worker,) = children()
            assert os.getsid(worker) != os.getsid(0), "Ctrl-C reaches the server alone"
            os.kill(worker, signal.SIGKILL)

    run(main)
