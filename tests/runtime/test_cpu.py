from __future__ import annotations

from pathlib import Path

import pytest

from graphc.errors import OptionError, PackageError
from graphc.package import Code
from graphc.runtime import cpu

X86 = """processor\t: 0
flags\t\t: fpu cx8 cmov sse2 pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt f16c avx avx2 bmi1 bmi2 abm lahf_lm
"""
ARM = """processor\t: 0
Features\t: fp asimd evtstrm aes crc32 atomics asimddp
"""
V3 = Code("v3", "x86_64", ("avx2", "fma", "bmi", "bmi2", "f16c", "lzcnt", "movbe", "sse3", "sse4.1", "cx16", "sahf"))
V4 = Code("v4", "x86_64", (*V3.requires, "avx512f", "avx512vnni"))


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu, "_CPUINFO", path)
    monkeypatch.setattr(cpu, "machine", lambda: "x86_64")
    cpu.features.cache_clear()
    yield path
    cpu.features.cache_clear()


def test_names_of_llvm_and_of_the_kernel_meet(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)
    assert cpu.missing_features(V3) == ()
    assert cpu.missing_features(V4) == ("avx512f", "avx512vnni")


def test_names_on_arm(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo.write_text(ARM)
    monkeypatch.setattr(cpu, "machine", lambda: "aarch64")
    assert cpu.missing_features(Code("n1", "aarch64", ("neon", "dotprod", "lse", "i8mm"))) == ("i8mm",)
    assert cpu.missing_features(V3) == ("x86_64",)


def test_the_richest_that_runs_is_chosen(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)
    assert cpu.choose_isa({"v3": V3, "v4": V4}) == "v3"
    cpu.features.cache_clear()
    cpuinfo.write_text(X86.replace("lahf_lm", "lahf_lm avx512f avx512_vnni"))
    assert cpu.choose_isa({"v3": V3, "v4": V4}) == "v4"
    assert cpu.choose_isa({"v3": V3, "v4": V4}, "v3") == "v3"


def test_what_is_lacking_is_named(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)
    with pytest.raises(PackageError, match="v4 needs avx512f, avx512vnni"):
        cpu.choose_isa({"v4": V4})
    with pytest.raises(PackageError, match="v4 needs avx512f"):
        cpu.choose_isa({"v3": V3, "v4": V4}, "v4")
    with pytest.raises(OptionError, match="no code for 'v5'"):
        cpu.choose_isa({"v3": V3}, "v5")


def test_a_machine_that_does_not_say_is_trusted(cpuinfo: Path) -> None:
    assert cpu.missing_features(V4) == ()


def test_this_machine_says() -> None:
    cpu.features.cache_clear()
    assert cpu.features()
    assert cpu.thread_count(1000) == cpu.MAX_THREADS
