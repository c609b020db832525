"""What a package runs on; several models and GPUs in one process; what is around a model."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from graphc.errors import DeviceError, OptionError, PackageError
from graphc.package import (
    BatchAxes,
    Code,
    KernelStep,
    Location,
    Manifest,
    OpenBuffer,
    OpenStep,
    OpenVariant,
    SymbolRange,
    TensorSpec,
    Variant,
    WeightsBuilder,
    cuda_members,
    write_package,
)
from graphc.runtime import Scheduler, calibrate, load, machine
from graphc.runtime.calibration import load_calibration, save
from graphc.runtime.cuda import devices
from graphc.runtime.cuda.code import closest, runs_on
from tests.runtime.cuda.conftest import MB, Build, Fake, affine_of, affine_parts, kernels, x_of


def test_code_runs_on_its_own_generation() -> None:
    assert [gpu for gpu in (75, 80, 86, 89, 90, 100) if runs_on("sm_80", gpu)] == [80, 86, 89]
    assert [gpu for gpu in (80, 86, 89, 90) if runs_on("sm_86", gpu)] == [86, 89]
    assert [gpu for gpu in (89, 90, 100, 120) if runs_on("sm_90", gpu)] == [90]
    assert [gpu for gpu in (100, 103, 120, 121) if runs_on("sm_100", gpu)] == [100]
    assert closest(["sm_80", "sm_86", "sm_90"], 89) == "sm_86"
    assert closest(["sm_86", "sm_90"], 80) is None


@pytest.fixture
def both(tmp_path: Path, library: bytes) -> Path:
    """y = 2 x, for a CPU and for two kinds of GPUs."""
    specs = (TensorSpec("x", "float32", (4, 64)),), (TensorSpec("y", "float32", (4, 64)),)
    step = KernelStep("scale", (Location("input"), Location("output")), (256,), "scale")
    isas = {"here": Code("cpu/here/model.so", machine())}
    files = {"cpu/here/model.so": library}
    for arch in (80, 90):
        isas[f"sm_{arch}"] = Code(f"cuda/sm_{arch}/kernels.json", "cuda")
        files |= cuda_members(f"sm_{arch}", kernels(arch))
    variants = tuple(Variant(isa, {}, ((4, 64),), ((4, 64),), 0, (step,)) for isa in isas)
    path = tmp_path / "both.graphc"
    write_package(path, Manifest("both", *specs, variants, isas), files=files, weights=WeightsBuilder(256))
    return path


def test_a_gpu_comes_first_and_the_cpu_where_none_will_do(both: Path, fake: Fake) -> None:
    for gpus, device, isa in (
        ([86], "cuda:0", "sm_80"),
        ([75, 90], "cuda:1", "sm_90"),
        ([75], "cpu", "here"),
        ([], "cpu", "here"),
    ):
        fake.reset(gpus)
        with load(both) as model:
            assert (model.device, model.isa) == (device, isa)
            np.testing.assert_array_equal(model([x_of()])["y"], 2 * x_of())
        model = None
    fake.reset([86])
    with load(both, device="cpu") as model:
        assert model.isa == "here" and fake.calls("cuInit") == 0
    with load(both, isa="here") as model:
        assert model.device == "cpu"
    with pytest.raises(OptionError, match="no code for 'sm_70'; it has here, sm_80, sm_90"):
        load(both, isa="sm_70")
    with pytest.raises(PackageError, match="code for here, sm_80, sm_90; cuda:0 is Fake GPU 0"):
        load(both, isa="sm_90")


def test_a_cpu_is_not_taken_where_a_gpu_was_asked_for(both: Path, affine: Path, fake: Fake) -> None:
    fake.reset([])
    with pytest.raises(DeviceError, match="finds no GPU"):
        load(both, device="cuda")
    with pytest.raises(PackageError, match="code for sm_80, and none for a CPU"):
        load(affine, device="cpu")


def test_models_and_gpus_side_by_side(affine: Path, both: Path, fake: Fake) -> None:
    fake.reset([80, 86])
    assert [(gpu.name, gpu.capability, gpu.memory) for gpu in devices()] == [
        ("Fake GPU 0", 80, 64 * MB),
        ("Fake GPU 1", 86, 64 * MB),
    ]
    with load(affine) as one, load(affine) as same, load(affine, device="cuda:1") as other, load(both) as another:
        models = [one, same, other, another]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: models[number % 4]([x_of(number)])["y"], range(80)))
        for number, y in enumerate(found):
            np.testing.assert_array_equal(y, affine_of(x_of(number)) if number % 4 < 3 else 2 * x_of(number))
        # Two of the three share code and weights; the fourth has the same kernels.
        assert fake.calls("cuModuleLoadData") == 2 and fake.calls("cuMemcpyHtoD") == 2
        y = one([x_of()], device_outputs=True)["y"]
        np.testing.assert_array_equal(same([y])["y"], affine_of(affine_of(x_of())))
        with pytest.raises(Exception, match="lies in the memory of cuda:0; the model runs on cuda:1"):
            other([y])
        one.close()
        np.testing.assert_array_equal(same([x_of()])["y"], affine_of(x_of()))
        del y


def test_weights_of_other_code_stay_where_they_are(build: Build, fake: Fake) -> None:
    inputs, outputs, steps, weights = affine_parts()
    weights.add(np.zeros(40 * MB, np.uint8), "for a CPU")
    with load(build(inputs, outputs, steps, arena_size=4096, weights=weights)) as model:
        np.testing.assert_array_equal(model([x_of()])["y"], affine_of(x_of()))
        assert fake.used() < MB


@pytest.mark.parametrize("close", [True, False])
def test_a_gpus_model_goes_without_collecting_garbage(affine: Path, fake: Fake, close: bool) -> None:
    gc.disable()
    try:
        model = load(affine)
        for _ in range(3):
            model([x_of()])
        if close:
            model.close()
        del model
        assert fake.used() == 0 and "stream" not in fake.live and "exec" not in fake.live
    finally:
        gc.enable()


@pytest.fixture
def batched(tmp_path: Path) -> Path:
    """y = 2 x for 1 or 4 rows of 64."""
    specs = [TensorSpec("x", "float32", ("n", 64))], [TensorSpec("y", "float32", ("n", 64))]
    path = tmp_path / "batched.graphc"
    files = cuda_members("sm_80", kernels())
    step = [KernelStep("scale", (Location("input"), Location("output")), (64 * n,)) for n in (1, 4)]
    variants = tuple(
        Variant("sm_80", {"n": n}, ((n, 64),), ((n, 64),), 0, (s,)) for n, s in zip((1, 4), step, strict=True)
    )
    code = {"sm_80": Code("cuda/sm_80/kernels.json", "cuda")}
    manifest = Manifest(
        "batched", *map(tuple, specs), variants, code, {"n": SymbolRange(1, 4)}, batch=BatchAxes("n", (0,), (0,))
    )
    write_package(path, manifest, files=files, weights=WeightsBuilder(256))
    return path


def test_a_scheduler_runs_batches_on_a_gpu(batched: Path, fake: Fake) -> None:
    with load(batched) as model:
        with Scheduler(model, slo_ms=2000, devices=2, threads=1) as scheduler, ThreadPoolExecutor(8) as pool:
            rows = [x_of(number)[:1] for number in range(100)]
            replies = [pool.submit(scheduler, [x]) for x in rows]
            for x, reply in zip(rows, replies, strict=True):
                np.testing.assert_array_equal(reply.result()["y"], 2 * x)
        wide = model.with_threads(2)
        assert (wide.device, wide.threads) == ("cuda:0", 2)
        wide.close()
        del wide, scheduler, replies


def test_calibrations_are_kept_by_gpu(batched: Path, fake: Fake) -> None:
    fake.reset([80, 86])
    with load(batched) as model, load(batched, device="cuda:1") as other:
        calibration = calibrate(model)
        save(batched, model, calibration)
        assert load_calibration(batched, model) == calibration
        assert load_calibration(batched, other) == {}


def test_loading_for_a_cpu_imports_nothing_of_cuda() -> None:
    script = """
import sys, graphc.runtime, graphc.runtime.engines
sys.exit(any(name.startswith(("cuda", "graphc.runtime.cuda")) for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_bindings_of_an_open_variant(tmp_path: Path, fake: Fake) -> None:
    """y = 2 (x + x) for any number of floats: grids and parameters follow from the step's dimensions."""
    specs = (TensorSpec("x", "float32", ("n",)),), (TensorSpec("y", "float32", ("n",)),)
    steps = (
        OpenStep("add", (Location("input"), Location("input"), Location("buffer")), ("n",)),
        OpenStep("grid", (Location("buffer"), Location("output")), ("n",)),
    )
    ranges = {"n": SymbolRange(1, 512)}
    variant = OpenVariant("sm_80", ranges, (("n",),), (("n",),), (OpenBuffer("t", 0, 2, "4 * n"),), steps)
    code = {"sm_80": Code("cuda/sm_80/kernels.json", "cuda")}
    path = tmp_path / "open.graphc"
    manifest = Manifest("open", *specs, (), code, ranges, open=(variant,))
    write_package(path, manifest, files=cuda_members("sm_80", kernels()), weights=WeightsBuilder(256))
    with load(path) as model:
        for _ in range(3):
            for n in (1, 127, 128, 129, 400, 512):
                x = np.arange(n, dtype=np.float32)
                np.testing.assert_array_equal(model([x])["y"], 4 * x)
        assert model.memory > 0
        model.trim()
        assert model.memory == 0
