"""The same on a real GPU: `pytest -m gpu tests/runtime/cuda/test_gpu.py`, in a process without the fake driver."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from graphc.compiler import CompileOptions, compile_package
from graphc.errors import DeviceError, ExecutionError, GraphcError
from graphc.runtime import Executable, load
from graphc.runtime.cuda import DeviceArray, devices

pytestmark = pytest.mark.gpu

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
small (float[B, 64] x, int64[B] ids, float[B, 48] state) => (float[B, 48] y, float[B, 48] next) {
  m = MatMul(x, w)
  e = Gather(table, ids)
  a = Add(m, e)
  next = Add(a, state)
  y = Softmax <axis = -1> (next)
}"""
RNG = np.random.default_rng(0)
W = RNG.standard_normal((64, 48)).astype(np.float32) / 8
TABLE = RNG.standard_normal((10, 48)).astype(np.float32)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "libcuda.so" in (maps := Path("/proc/self/maps").read_text()) and "pytest-of" in maps:
        pytest.skip("this process has loaded the fake driver; run these tests alone")
    try:
        capability = devices()[0].capability
    except GraphcError as error:
        pytest.skip(f"needs a GPU: {error.message}")
    source = onnx.parser.parse_model(MODEL)
    source.graph.initializer.extend(
        [onnx.numpy_helper.from_array(W, "w"), onnx.numpy_helper.from_array(TABLE, "table")]
    )
    path = tmp_path_factory.mktemp("gpu") / "small.graphc"
    target, dims = f"cpu,cuda:sm_{capability}" if _has_tvm() else f"cuda:sm_{capability}", {"B": (3, 32)}
    compile_package(source, path, target=target, dims=dims, options=CompileOptions())
    return path


def _has_tvm() -> bool:
    return importlib.util.find_spec("tvm") is not None


@pytest.fixture
def model(package: Path) -> Iterator[Executable]:
    with load(package, device="cuda") as loaded:
        yield loaded


def feed_of(rows: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x, state = (rng.standard_normal((rows, extent)).astype(np.float32) for extent in (64, 48))
    return {"x": x, "ids": rng.integers(0, 10, rows), "state": state}


def check(outputs: dict[str, Any], feed: dict[str, Any]) -> None:
    following = feed["x"].astype(np.float64) @ W + TABLE[feed["ids"]] + feed["state"]
    exponents = np.exp(following - following.max(-1, keepdims=True))
    np.testing.assert_allclose(np.asarray(outputs["next"]), following, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        np.asarray(outputs["y"]), exponents / exponents.sum(-1, keepdims=True), rtol=1e-4, atol=1e-5
    )


def test_eager_captured_and_replayed(model: Executable) -> None:
    for seed in range(6):
        for rows in (3, 32):
            check(model(feed_of(rows, seed)), feed_of(rows, seed))


def test_many_threads(model: Executable) -> None:
    with ThreadPoolExecutor(8) as pool:
        feeds = [feed_of(3 if seed % 2 else 32, seed) for seed in range(200)]
        for outputs, feed in zip(pool.map(model, feeds), feeds, strict=True):
            check(outputs, feed)


def test_outputs_stay_and_come_back(model: Executable) -> None:
    feed = feed_of(32)
    for _ in range(4):
        outputs = model(feed, device_outputs=True)
        assert isinstance(outputs["y"], DeviceArray)
        check(outputs, feed)
        again = model({**feed, "state": outputs["next"]})
        check(again, {**feed, "state": outputs["next"].numpy()})


def test_arrays_of_pytorch(model: Executable) -> None:
    torch = pytest.importorskip("torch")
    feed = feed_of(32)
    tensors = {name: torch.from_numpy(array).cuda() for name, array in feed.items()}
    side = torch.cuda.Stream()
    for _ in range(4):
        outputs = model(tensors, device_outputs=True)
        check({name: torch.from_dlpack(array).cpu().numpy() for name, array in outputs.items()}, feed)
        with torch.cuda.stream(side):
            late = {name: tensor + 0 for name, tensor in tensors.items()}
            check(model(late), feed)
        out = {"y": torch.empty(32, 48, device="cuda"), "next": torch.empty(32, 48, device="cuda")}
        model(tensors, out=out)
        check({name: tensor.cpu().numpy() for name, tensor in out.items()}, feed)


def test_states(model: Executable) -> None:
    bound, feed = model.bind_state({"state": "next"}, {"state": np.zeros((3, 48), np.float32)}), feed_of(3)
    expected = np.zeros((3, 48), np.float32)
    for _ in range(8):
        outputs = bound({"x": feed["x"], "ids": feed["ids"]})
        check({**outputs, "next": bound.state["state"]}, {**feed, "state": expected})
        expected = bound.state["state"].numpy()


def test_bad_indices_are_errors(model: Executable) -> None:
    feed = feed_of(3)
    for _ in range(4):
        with pytest.raises(ExecutionError, match="failed with status"):
            model({**feed, "ids": np.array([0, 10, 3])})
        check(model(feed), feed)


def test_profile_and_walk(model: Executable) -> None:
    feed = feed_of(32)
    profile = model.profile(feed, runs=10)
    assert all(step.nanoseconds > 0 for step in profile.steps)
    assert sum(step.nanoseconds for step in profile.steps) < profile.nanoseconds
    assert len(list(model.walk(feed))) == len(profile.steps)


def test_memory_is_given_back(package: Path) -> None:
    with load(package, device="cuda") as first:
        first(feed_of(3))
        device = devices()[0]
        before = device.free_memory
        for _ in range(3):
            with load(package, device="cuda") as model:
                for seed in range(300):
                    model(feed_of(32, seed % 4))
        assert device.free_memory >= before


def test_a_fork_is_refused(model: Executable) -> None:
    model(feed_of(3))
    if not (child := os.fork()):
        try:
            model(feed_of(3))
        except DeviceError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
