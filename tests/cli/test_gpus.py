"""The commands on models and packages for GPUs, where there is none: a backend for GPUs that compiles nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from graphc.backends import base
from graphc.backends.base import register_backend
from graphc.errors import DeviceError
from graphc.package import Package
from graphc.runtime import cuda
from graphc.target import GPUS
from tests.cli.conftest import Call
from tests.compiler.cuda_backend import FakeCudaBackend

GPU = ("--backend", "fake-cuda", "--target", "cuda:sm_80,cuda:sm_90")


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base, "_BACKENDS", dict(base._BACKENDS))
    register_backend(FakeCudaBackend)
    yield


@pytest.fixture
def package(graphc: Call, mlp: Path, tmp_path: Path) -> Path:
    path = tmp_path / "m.graphc"
    result = graphc("compile", mlp, "--dim", "batch=4", "-o", path, *GPU)
    assert result.status == 0 and "cuda:sm_80" in result.out and "cuda:sm_90" in result.out
    return path


def test_inspect_shows_what_kernels_launch(graphc: Call, package: Path) -> None:
    text = graphc("inspect", package, "--kernels", "--target", "cuda:sm_90").out
    assert "cuda:sm_90" in text and "cuda:sm_80" not in text
    assert "1 blocks of 128, 1.02 kB shared" in text and "registers" not in text
    data = graphc("inspect", package, "--json", "--target", "cuda").json
    assert [variant["target"] for variant in data["variants"]] == ["cuda:sm_80", "cuda:sm_90"]
    assert graphc("inspect", package, "--target", "cpu").status == 1
    launches = [len(kernel["launches"]) for kernel in data["variants"][0]["kernels"]]
    assert 2 in launches, "a product is two launches"
    (launch, *_) = data["variants"][0]["kernels"][0]["launches"]
    assert (launch["grid"], launch["threads"], launch["shared"]) == ([1, 1, 1], 128, 1024)
    assert launch["registers"] is None and launch["spilled"] is None


def test_a_model_is_checked_and_inspected_for_gpus(graphc: Call, mlp: Path) -> None:
    assert graphc("check", mlp, "--dim", "batch=4", "--require-compiled", *GPU).status == 0
    text = graphc("inspect", mlp, "--dim", "batch=4", *GPU).out
    assert "on cuda:sm_80" in text and "on cuda:sm_90" in text


def test_a_package_for_gpus_does_not_run_without_one(graphc: Call, package: Path) -> None:
    for options in ((), ("--target", "cuda"), ("--target", "cuda:sm_90"), ("--target", "cuda:1")):
        result = graphc("run", package, *options)
        assert result.status == 1 and "CUDA" in result.err and "sm_80, sm_90" in result.err
    result = graphc("run", package, "--target", "cpu")
    assert result.status == 1 and "none for a CPU" in result.err


def test_cuda_is_the_gpu_that_is_here(graphc: Call, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def targets() -> list[str]:
        path = tmp_path / "n.graphc"
        assert graphc("compile", mlp, "--dim", "batch=4", "-o", path, *GPU[:2], "--target", "cuda").status == 0
        return list(Package(path).manifest.code)

    def none() -> None:
        raise DeviceError("no driver")

    class Gpu:
        name, memory = "a GPU", 80 << 30

        def __init__(self, capability: int) -> None:
            self.capability = capability

        def __str__(self) -> str:
            return "cuda:0"

    monkeypatch.setattr(cuda, "devices", none)
    assert targets() == ["sm_80", "sm_90"]
    assert "none: no driver" in graphc("devices").out
    monkeypatch.setattr(cuda, "devices", lambda: (Gpu(90),))
    assert targets() == ["sm_90"]
    assert "a GPU, sm_90" in graphc("devices").out
    data = graphc("devices", "--json").json
    assert {target["architecture"]: target["here"] for target in data["gpu_targets"]} == {
        name: name == "sm_90" for name in GPUS
    }
    monkeypatch.setattr(cuda, "devices", lambda: (Gpu(86), Gpu(90), Gpu(90)))
    assert targets() == ["sm_86", "sm_90"]
    monkeypatch.setattr(cuda, "devices", lambda: (Gpu(75),))
    assert targets() == ["sm_80", "sm_90"]


def test_without_triton_the_error_says_what_to_install(
    graphc: Call, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else found(name, *rest)
    )
    result = graphc("compile", mlp, "--dim", "batch=4", "-o", tmp_path / "m.graphc", "--target", "cuda:sm_90")
    assert result.status == 1 and "pip install 'graphc[cuda]'" in result.err
    assert "Triton is not installed" in graphc("devices").out
