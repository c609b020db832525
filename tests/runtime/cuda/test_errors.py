"""What goes wrong says what, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import DeviceError, ExecutionError, OptionError, PackageError, ToolchainError
from graphc.package import CudaKernel, CudaObject, KernelStep, Launch, Location, TensorSpec, WeightsBuilder
from graphc.package.cuda import Integer, Pointer
from graphc.runtime import load
from graphc.runtime.cuda import devices, driver
from tests.runtime.cuda.conftest import MB, Build, Fake, affine_of, affine_parts, cubin, cubin_name, launch, x_of

F32 = TensorSpec("x", "float32", (4,)), TensorSpec("y", "float32", (4,))


def test_no_gpu(affine: Path, fake: Fake) -> None:
    fake.reset([])
    for device in (None, "cuda", "cuda:0"):
        with pytest.raises(DeviceError, match=r"finds no GPU.*CUDA_ERROR_NO_DEVICE.*; the package has code for sm_80"):
            load(affine, device=device)
    with pytest.raises(DeviceError, match="finds no GPU"):
        devices()


def test_no_such_gpu(affine: Path, fake: Fake) -> None:
    with pytest.raises(DeviceError, match="no cuda:3; the GPUs here are cuda:0; the package has code for sm_80"):
        load(affine, device="cuda:3")
    for bad in ("gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"):
        with pytest.raises(OptionError, match="unknown device"):
            load(affine, device=bad)


def test_an_old_driver(affine: Path, fake: Fake) -> None:
    fake.driver(12020)
    with pytest.raises(DeviceError, match=r"is of CUDA 12\.2; graphc needs 12\.4 or newer"):
        load(affine)


def test_a_driver_without_a_function(affine: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise RuntimeError('Function "cuDeviceGetCount" not found')

    driver.initialize()
    monkeypatch.setattr(driver._api, "cuDeviceGetCount", missing)
    with pytest.raises(DeviceError, match="the CUDA driver here has no cuDeviceGetCount"):
        load(affine)


def test_no_cuda_bindings(affine: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_api", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(ToolchainError, match="needs cuda-bindings") as caught:
        load(affine)
    assert "graphc[cuda]" in str(caught.value)


def test_no_driver(affine: Path) -> None:
    """In a process of its own: one that has loaded a driver keeps it."""
    script = f"""
import graphc, sys
try:
    graphc.load({str(affine)!r})
except graphc.errors.DeviceError as error:
    sys.exit("libcuda.so.1 is not found" not in error.message or "sm_80" not in error.message)
"""
    if "libcuda.so.1" in subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("this machine has a driver")
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_another_architecture(build: Build, fake: Fake) -> None:
    inputs, outputs, steps, weights = affine_parts()
    path = build(inputs, outputs, steps, arena_size=4096, weights=weights, archs=(86, 90))
    message = r"(?s)code for sm_86, sm_90; cuda:0 is Fake GPU 0 \(sm_80\).*--target cuda:sm_80"
    with pytest.raises(PackageError, match=message):
        load(path)
    fake.reset([80, 89, 90])
    contexts = fake.calls("cuDevicePrimaryCtxRetain")
    load(path).close()
    assert fake.calls("cuDevicePrimaryCtxRetain") == contexts + 2, "none on the GPUs after the one that is taken"
    for device, isa, name in ((None, "sm_86", "cuda:1"), ("cuda:2", "sm_90", "cuda:2"), ("cuda", "sm_86", "cuda:1")):
        with load(path, device=device) as model:
            assert (model.isa, model.device) == (isa, name)
            np.testing.assert_array_equal(model([x_of()])["y"], affine_of(x_of()))
    with load(path, isa="sm_90") as model:
        assert model.device == "cuda:2"


def test_weights_that_do_not_fit(build: Build, fake: Fake) -> None:
    weights = WeightsBuilder(256)
    place = weights.add(np.ones(3 * MB // 4, np.float32))
    step = KernelStep("add", (Location("input"), place, Location("output")), (4,))
    path = build([F32[0]], [F32[1]], [step], weights=weights)
    fake.reset(memory=2 * MB)
    with pytest.raises(
        ExecutionError, match=r"weights of 'model' needs 3\.1 MB on cuda:0 .*, which has 2\.1 MB of 2\.1 MB left"
    ):
        load(path)
    assert fake.used() == 0


@pytest.mark.parametrize("function", ["cuMemAlloc", "cuMemHostAlloc"])
def test_memory_that_ends_anywhere_leaves_nothing(affine: Path, fake: Fake, function: str) -> None:
    """Whichever allocation fails once is tried again; whichever fails twice is an error that says what was needed."""
    failures = 0
    for nth in range(1, 9):
        for twice in (False, True):
            fake.reset()
            fake.fail(function, 2, nth, again=twice)
            model = None
            try:
                model = load(affine)
                np.testing.assert_array_equal(model([x_of()])["y"], affine_of(x_of()))
            except ExecutionError as error:
                assert twice and " MB on cuda:0 (Fake GPU 0), which has " in error.message
                failures += 1
            finally:
                if model is not None:
                    model.close()
                del model
            assert fake.used() == 0 and not fake.live.get("pinned") and not fake.live.get("stream")
    assert failures >= 2


def test_what_is_idle_makes_room(build: Build, fake: Fake) -> None:
    inputs, outputs, steps, weights = affine_parts()
    first = build(inputs, outputs, steps, arena_size=30 * MB, weights=weights, name="first")
    second = build(inputs, outputs, steps, arena_size=40 * MB, weights=weights, name="second")
    with load(first) as one, load(second) as two:
        for _ in range(3):
            np.testing.assert_array_equal(one([x_of()])["y"], affine_of(x_of()))
            np.testing.assert_array_equal(two([x_of()])["y"], affine_of(x_of()))
            assert one.memory == 0
        fake.limit(20 * MB)
        two.trim()
        with pytest.raises(ExecutionError, match=r"a call of 'second' \(its intermediate values\) needs 41\.9 MB"):
            two([x_of()])


def test_calls_wait_for_each_other_where_memory_is_short(build: Build, fake: Fake) -> None:
    inputs, outputs, steps, weights = affine_parts()
    path = build(inputs, outputs, steps, arena_size=25 * MB, weights=weights)
    with load(path) as model, ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)

        def run(number: int) -> Any:
            if number < 8:
                barrier.wait()
            return model([x_of(number)])["y"]

        for number, answer in enumerate(pool.map(run, range(40))):
            np.testing.assert_array_equal(answer, affine_of(x_of(number)))
        assert model.memory <= 50 * MB


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("cuLaunchKernel", 0),
        ("cuLaunchKernel", 1),
        ("cuStreamBeginCapture", 1),
        ("cuGraphLaunch", 1),
        ("cuGraphLaunch", 2),
    ],
)
def test_a_call_that_fails_is_the_only_one(affine: Path, fake: Fake, function: str, call: int) -> None:
    with load(affine) as model:
        for number in range(4):
            if number == call:
                fake.fail(function, 1, 3 if function == "cuLaunchKernel" else 1)
                with pytest.raises(ExecutionError, match=f"{function}: CUDA_ERROR_INVALID_VALUE"):
                    model([x_of(number)])
            np.testing.assert_array_equal(model([x_of(number)])["y"], affine_of(x_of(number)))


def test_a_kernel_that_crashes(build: Build, fake: Fake) -> None:
    path = build([], [], [KernelStep("crash", (), ())])
    with load(path) as model:
        for _ in range(2):
            with pytest.raises(ExecutionError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS.*can use it no more"):
                model([])
        fake.recover()


def test_bad_indices_name_their_step(build: Build, fake: Fake) -> None:
    inputs = [TensorSpec("t", "float32", (5,)), TensorSpec("i", "int64", (4,))]
    steps = [
        KernelStep("scale", (Location("input"), Location("arena")), (5,)),
        KernelStep("gather", (Location("arena"), Location("input", 1), Location("output")), (4, 5), "gather", ("G_7",)),
    ]
    table = np.arange(5, dtype=np.float32)
    with load(build(inputs, [F32[1]], steps, arena_size=256)) as model:
        for _ in range(3):
            indices = np.array([4, 0, 2, 2])
            np.testing.assert_array_equal(model([table, indices])["y"], 2 * table[indices])
            with pytest.raises(ExecutionError, match=r"step 1 \(gather\) failed with status 3") as caught:
                model([table, np.array([0, 1, 5, 0])])
            assert caught.value.nodes == ("G_7",)


def test_functions_that_are_not_what_the_package_says(build: Build, fake: Fake) -> None:
    p = [Pointer(0), Pointer(1)]
    wrong = {
        "narrow": launch("scale", *p, Integer("d0", 8), Integer(2)),
        "few": launch("scale", *p, Integer("d0")),
        "many": launch("scale", *p, Integer("d0"), Integer(2), Integer(2)),
        "greedy": launch("scale", *p, Integer("d0"), Integer(2), shared=200_000),
        "absent": launch("no_such", *p),
    }
    messages = {"greedy": "needs 200000 bytes of shared memory; Fake GPU 0 has 166912", "absent": "NOT_FOUND"}
    for symbol, found in wrong.items():
        extra = {symbol: CudaObject(CudaKernel((found,)), {cubin_name(cubin()): cubin()})}
        step = KernelStep(symbol, (Location("input"), Location("output")), (4,))
        message = messages.get(symbol, "takes parameters of")
        path = build([F32[0]], [F32[1]], [step], extra=extra, name=symbol)
        with load(path) as model, pytest.raises((PackageError, ExecutionError), match=message):
            model([np.zeros(4, np.float32)])


def test_code_that_is_no_cubin(build: Build, fake: Fake) -> None:
    data = b"not a cubin"
    found = Launch(cubin_name(data), "scale", (1, 1, 1), 32, ())
    extra = {"odd": CudaObject(CudaKernel((found,)), {cubin_name(data): data})}
    with pytest.raises(PackageError, match="the GPU does not run this code"):
        load(build([F32[0]], [F32[1]], [], extra=extra))


def test_a_cubin_under_the_name_of_another(build: Build, fake: Fake) -> None:
    """Packages that have one cubin share what is loaded of it."""
    name = cubin_name(b"another")
    found = Launch(name, "scale", (1, 1, 1), 32, ())
    extra = {"odd": CudaObject(CudaKernel((found,)), {name: cubin()})}
    with pytest.raises(PackageError, match=rf"cuda/sm_80/{name}\.cubin is another cubin"):
        load(build([F32[0]], [F32[1]], [], extra=extra))


def test_a_closed_model(affine: Path, fake: Fake) -> None:
    model = load(affine)
    model([x_of()])
    model.close()
    assert fake.used() == 0
    with pytest.raises(ExecutionError, match="the model is closed"):
        model([x_of()])


def test_a_forked_process_is_refused(affine: Path, libcuda: Path) -> None:
    """In a process of its own, whose child must neither call the driver nor hang."""
    script = f"""
import ctypes, os, sys
fake = ctypes.CDLL({str(libcuda)!r}, ctypes.RTLD_GLOBAL)
fake.fake_reset(1, (ctypes.c_int * 1)(80), (ctypes.c_size_t * 1)(1 << 26))
fake.fake_violations.restype = ctypes.c_char_p
import numpy as np, graphc
from graphc.errors import DeviceError
model = graphc.load({str(affine)!r})
x = np.zeros((4, 64), np.float32)
for _ in range(3):
    model([x])
y = model([x], device_outputs=True)["y"]
child = os.fork()
if not child:
    refused = 0
    for attempt in (lambda: model([x]), lambda: graphc.load({str(affine)!r}), lambda: y.numpy()):
        try:
            attempt()
        except DeviceError as error:
            refused += "does not survive" in error.message
    model.close()
    del y, model
    os._exit(0 if refused == 3 and not fake.fake_violations() else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
model([x])
model.close()
del y
sys.exit(status or bool(fake.fake_violations()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
