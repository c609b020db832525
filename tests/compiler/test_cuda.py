"""Packages with code for GPUs: what stands in them, equal every time, checked when read. No GPU, no Triton, no TVM."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx.parser
import pytest

import graphc
from graphc.backends import base
from graphc.backends.base import register_backend
from graphc.compiler import CompileOptions, compile_package
from graphc.compiler.on_demand import compile_on_demand
from graphc.errors import OptionError, PackageError, UnsupportedError
from graphc.package import CudaCode, Manifest, Package, WeightsBuilder, write_package
from graphc.package.cuda import cubin_member, kernels_member
from graphc.target import GPUS
from tests.compiler.cuda_backend import FakeCudaBackend

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
small (float[6, 3] x, float[3, 5] w) => (float[6, 5] y, float[6, 3] z)
<float[3] b = {1, 2, 3}, float[5] c = {1, 2, 3, 4, 5}> {
  a = Add(x, b)
  z = Sin(a)
  m = MatMul(z, w)
  n = Softmax<axis = 1>(m)
  y = Add(n, c)
}"""
PASSES = "fold,dce,cse"


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base, "_BACKENDS", dict(base._BACKENDS))
    register_backend(FakeCudaBackend)
    yield


def compiled(path: Path, target: str = "cuda:sm_80,cuda:sm_90", model: str = MODEL, **fields: Any) -> Manifest:
    options = CompileOptions(backend="fake-cuda", passes=PASSES, **fields)
    return compile_package(onnx.parser.parse_model(model), path, target=target, options=options)[0]


def test_a_package_carries_the_kernels_of_each_architecture(tmp_path: Path) -> None:
    manifest = compiled(tmp_path / "m.graphc")
    package = Package(tmp_path / "m.graphc")
    package.verify()
    assert list(manifest.code) == ["sm_80", "sm_90"]
    for isa, code in manifest.code.items():
        assert (code.member, code.machine, code.kind, code.requires) == (kernels_member(isa), "cuda", "cuda", (isa,))
        assert code.alignment == GPUS[isa].alignment == 256
        found = package.cuda(isa)
        assert found.architecture == isa
        called = {step.symbol for step in manifest.kernel_steps(isa)}
        assert called == set(found.kernels) and called
        for launch in found.launches:
            cubin = package.cubin(isa, launch.cubin)
            assert hashlib.sha256(cubin).hexdigest() == launch.cubin
            assert manifest.hashes[cubin_member(isa, launch.cubin)] == launch.cubin


def test_every_buffer_is_aligned_for_a_gpu(tmp_path: Path) -> None:
    manifest = compiled(tmp_path / "m.graphc")
    places = [place for isa in manifest.code for step in manifest.kernel_steps(isa) for place in step.arguments]
    assert {place.kind for place in places} == {"input", "output", "arena", "weight"}
    assert all(place.offset % 256 == 0 for place in places)
    assert any(place.offset for place in places if place.kind == "weight")


def test_what_has_no_kernel_runs_on_the_host_and_says_why(tmp_path: Path) -> None:
    manifest = compiled(tmp_path / "m.graphc")
    assert [[step.op_type for step in variant.host_steps] for variant in manifest.variants] == [["Sin"], ["Sin"]]
    with pytest.raises(UnsupportedError, match="there is no Sin on this GPU"):
        compiled(tmp_path / "n.graphc", require_compiled=True)


def test_equal_compiles_give_equal_bytes(tmp_path: Path) -> None:
    compiled(tmp_path / "a.graphc", jobs=1)
    compiled(tmp_path / "b.graphc", jobs=2, cache=tmp_path / "cache")
    compiled(tmp_path / "c.graphc", jobs=2, cache=tmp_path / "cache")
    assert len({(tmp_path / name).read_bytes() for name in ("a.graphc", "b.graphc", "c.graphc")}) == 1


def test_one_package_serves_cpus_and_gpus(tmp_path: Path) -> None:
    options = CompileOptions(backend="reference")
    target = "cpu:x86-64-v3,cuda:sm_90"
    manifest, _ = compile_package(onnx.parser.parse_model(MODEL), tmp_path / "m.graphc", target=target, options=options)
    assert {isa: code.kind for isa, code in manifest.code.items()} == {"x86-64-v3": "cpu", "sm_90": "cuda"}
    assert Package(tmp_path / "m.graphc").cuda("sm_90") == CudaCode("sm_90", {})
    graphc.load(tmp_path / "m.graphc", isa="x86-64-v3").close()


def test_a_backend_is_asked_for_its_own_kind_of_target_only(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'fake-cuda' does not compile for cpu:x86-64-v3") as caught:
        compiled(tmp_path / "m.graphc", "cuda:sm_90,cpu:x86-64-v3")
    assert "tvm" in str(caught.value.hint)
    with pytest.raises(OptionError, match="'tvm' does not compile for cuda:sm_90"):
        graphc.compile(onnx.parser.parse_model(MODEL), target="cuda:sm_90", backend="tvm")


def rewritten(source: Path, path: Path, changed: dict[str, bytes], **fields: Any) -> Package:
    """The package with other bytes in the place of members; None takes one out."""
    package = Package(source)
    files = {name: package.read(name) for name in package.members if name.startswith("cuda/")} | changed
    manifest = dataclasses.replace(package.manifest, **fields)
    weights = WeightsBuilder()
    weights._append("w", package.weights, 0)
    write_package(path, manifest, files={name: data for name, data in files.items() if data}, weights=weights)
    return Package(path)


def test_code_that_does_not_fit_its_steps_is_refused(tmp_path: Path) -> None:
    manifest = compiled(tmp_path / "m.graphc", "cuda:sm_90")
    source = Package(tmp_path / "m.graphc")
    code = source.cuda("sm_90")
    member = manifest.code["sm_90"].member

    def reread(words: str, **changed: bytes) -> None:
        files = {member if name == "code" else cubin_member("sm_90", name[1:]): data for name, data in changed.items()}
        with pytest.raises(PackageError, match=words):
            rewritten(tmp_path / "m.graphc", tmp_path / "n.graphc", files).cuda("sm_90")

    def text(**fields: Any) -> bytes:
        return dataclasses.replace(code, **fields).to_json().encode()

    symbol = max(code.kernels)
    reread("it is for sm_80", code=text(architecture="sm_80"))
    reread("there is no kernel", code=text(kernels={k: v for k, v in code.kernels.items() if k != symbol}))
    reread("is not JSON", code=b"[")
    reread("has no 'cuda/sm_90/", **{f"c{next(code.launches).cubin}": b""})
    asking = dataclasses.replace(next(code.launches), grid=("d1 + 1", 1, 1))
    kernel = dataclasses.replace(code.kernels[symbol], launches=(asking,))
    reread("2 dimensions; a step gives", code=text(kernels={**code.kernels, symbol: kernel}))


def test_damaged_cubins_are_noticed(tmp_path: Path) -> None:
    compiled(tmp_path / "m.graphc", "cuda:sm_90")
    package = Package(tmp_path / "m.graphc")
    name = next(package.cuda("sm_90").launches).cubin
    data = bytearray((tmp_path / "m.graphc").read_bytes())
    data[package.member(cubin_member("sm_90", name)).offset] ^= 1
    (tmp_path / "n.graphc").write_bytes(data)
    with pytest.raises(PackageError, match="checksum"):
        Package(tmp_path / "n.graphc").cubin("sm_90", name)


OPEN = """<ir_version: 10, opset_import: ["" : 20]>
open (float[batch, 3] x) => (float[batch, 3] y) <float[3] b = {1, 2, 3}> { y = Add(x, b) }"""


def test_shapes_that_come_later_are_compiled_as_the_package_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path / "cache"))
    manifest = compiled(tmp_path / "m.graphc", model=OPEN, precision="bf16,io")
    assert not manifest.variants and not manifest.open and "open extents" in manifest.options["closed"]
    path = compile_on_demand(Package(tmp_path / "m.graphc"), {"batch": 7}, {})
    assert path is not None
    made = Package(path).manifest
    assert [(v.isa, dict(v.bindings), v.inputs) for v in made.variants] == [
        ("sm_80", {"batch": 7}, ((7, 3),)),
        ("sm_90", {"batch": 7}, ((7, 3),)),
    ]
    assert made.inputs == manifest.inputs and made.inputs[0].dtype == "bfloat16"
    assert made.options["precision"] == "bf16,io" and made.options["backend"] == "fake-cuda"
    changed = path.stat().st_mtime_ns
    assert compile_on_demand(Package(tmp_path / "m.graphc"), {"batch": 7}, {}) == path
    assert path.stat().st_mtime_ns == changed, "it is kept"
