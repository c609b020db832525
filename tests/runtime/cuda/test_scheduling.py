"""The scheduler on GPUs: several calls in flight, batches, several GPUs, and what each may hold."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import DeviceError, OptionError
from graphc.package import (
    BatchAxes,
    Code,
    KernelStep,
    Location,
    Manifest,
    SymbolRange,
    TensorSpec,
    Variant,
    WeightsBuilder,
    cuda_members,
    write_package,
)
from graphc.runtime import Latency, Scheduler, load
from tests.runtime.cuda.conftest import Fake, affine_of, kernels, x_of

ROWS = (1, 2, 4)
SECONDS = Latency(0.001, 0.001)


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """y = 2 (2 x), row by row of 64, for batches of 1, 2 and 4."""

    def variant(rows: int) -> Variant:
        steps = (
            KernelStep("scale", (Location("input"), Location("arena", 0, 0)), (64 * rows,)),
            KernelStep("scale", (Location("arena", 0, 0), Location("output")), (64 * rows,)),
        )
        return Variant("sm_80", {"batch": rows}, ((rows, 64),), ((rows, 64),), 256 * rows, steps)

    x, y = (TensorSpec(name, "float32", ("batch", 64)) for name in "xy")
    code = {"sm_80": Code("cuda/sm_80/kernels.json", "cuda", ("sm_80",))}
    symbols, batch = {"batch": SymbolRange()}, BatchAxes("batch", (0,), (0,))
    manifest = Manifest("doubling", (x,), (y,), tuple(map(variant, ROWS)), code, symbols=symbols, batch=batch)
    path = tmp_path / "doubling.graphc"
    write_package(path, manifest, files=cuda_members("sm_80", kernels()), weights=WeightsBuilder(256))
    return path


def known(model: Any, name: str) -> dict[str, Any]:
    """Latencies as if measured."""
    return {name: {variant.inputs: SECONDS for variant in model.variants}}


@pytest.mark.parametrize("devices", [["cuda"], ["cuda:0", "cuda:0", "cuda:0"], ["cuda:0", "cuda:1", "cuda:0"]])
def test_requests_of_many_threads_share_batches_on_gpus(doubling: Path, fake: Fake, devices: list[str]) -> None:
    fake.reset([80, 80])
    wrong: list[int] = []

    def ask(scheduler: Scheduler, seed: int) -> None:
        rng = np.random.default_rng(seed)
        inputs = [rng.standard_normal((1 + number % 2, 64)).astype(np.float32) for number in range(20)]
        futures = [scheduler.submit([x]) for x in inputs]
        for x, future in zip(inputs, futures, strict=True):
            if not np.array_equal(future.result(20)["y"], 4 * x):
                wrong.append(seed)

    with load(doubling) as model, Scheduler(model, devices=devices, calibration=known(model, "doubling")) as scheduler:
        assert [device.gpu for device in scheduler.devices] == [name if ":" in name else "cuda:0" for name in devices]
        threads = [threading.Thread(target=ask, args=(scheduler, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        counts = scheduler.statistics()
        assert counts.answered == counts.accepted == 80
        assert counts.rows == 4 * 30
        assert sum(counts.batches.values()) < 80, "some shared a call"
        assert fake.used(0) > 0
        assert (fake.used(1) > 0) == ("cuda:1" in devices), "each GPU has the model that runs there"
    del scheduler, threads


def test_several_calls_are_in_flight_on_one_gpu(affine: Path, fake: Fake) -> None:
    """Two batches meet in the model: neither is run after the other."""
    with load(affine) as model:
        both = threading.Barrier(2, timeout=20)
        call = type(model).__call__

        class Meeting(type(model)):  # type: ignore[misc]
            def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
                both.wait()
                return call(self, *arguments, **options)

        model.__class__ = Meeting
        with Scheduler(model, devices=["cuda:0", "cuda:0"], calibration=known(model, "model")) as scheduler:
            futures = [scheduler.submit([x_of(number)]) for number in range(2)]
            for number, future in enumerate(futures):
                np.testing.assert_array_equal(future.result(20)["y"], affine_of(x_of(number)))
        assert model.memory in (4096, 2 * 4096), "an arena for each that was on the GPU at once"
        del scheduler, futures, future


def test_a_limit_of_memory_is_that_of_each_gpu(affine: Path, fake: Fake) -> None:
    fake.reset([80, 80])
    with load(affine) as model:
        weights, arena = model.manifest.weights_size, 4096

        def running(limit: int) -> Any:
            devices = ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
            known_now = known(model, "model")
            with Scheduler(model, devices=devices, calibration=known_now, memory_limit=limit) as scheduler:
                np.testing.assert_array_equal(scheduler([x_of()])["y"], affine_of(x_of()))
                served = (
                    scheduler.add("more", model, calibration=known_now["model"])
                    if limit >= 2 * (weights + 2 * arena)
                    else None
                )
                if served is not None:
                    assert served.memory == 2 * weights + 4 * arena
                return scheduler._models["model"].devices

        assert running(weights + 2 * arena) is None, "all four"
        assert running(weights + arena) == (0, 2), "one call at once on each"
        assert running(2 * (weights + 2 * arena)) is None
        with pytest.raises(OptionError, match=r"would need 0\.0 MB at least, and memory_limit"):
            running(weights + arena - 1)


def test_devices_that_are_not_there_or_not_alike(affine: Path, doubling: Path, fake: Fake) -> None:
    with load(affine) as model:
        with pytest.raises(DeviceError, match="cuda:1"):
            Scheduler(model, devices=["cuda:0", "cuda:1"], calibration=known(model, "model"))
        with pytest.raises(OptionError, match="processors or GPUs, not both"):
            Scheduler(model, devices=["cuda:0", [0]], calibration=known(model, "model"))
        for name in ("cpu", "cuda:x", "gpu", "cuda:-1"):
            with pytest.raises(OptionError, match="expected GPUs such as 'cuda:0'"):
                Scheduler(model, devices=[name], calibration=known(model, "model"))
