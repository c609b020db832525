"""Targets: the table against LLVM's own, detection from recorded processors, names and their errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import OptionError
from graphc.ir import dtypes
from graphc.target import (
    CPUS,
    GPUS,
    CudaTarget,
    Processor,
    Target,
    accepted,
    detect_host,
    known_names,
    parse_target,
    parse_targets,
    read_processor,
    refused,
)
from graphc.target.host import parse_cpuinfo, target_of

# LLVM's feature names where they are not Linux's.
LINUX_TO_LLVM = {
    "abm": "lzcnt",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
    "atomics": "lse",
    "avx512_bitalg": "avx512bitalg",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_vnni": "avx512vnni",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx_vnni": "avxvnni",
    "bmi1": "bmi",
    "crc32": "crc",
    "fcma": "complxnum",
    "fphp": "fullfp16",
    "jscvt": "jsconv",
    "lahf_lm": "sahf",
    "pni": "sse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
}
# What LLVM emits only where the source asks for it by an intrinsic, so code of a target never needs it.
ONLY_ON_REQUEST = {
    *("adx", "aes", "amx-bf16", "amx-fp16", "amx-int8", "amx-tile", "cldemote", "clflushopt", "clwb", "clzero"),
    *("cmov", "crc32", "cx8", "enqcmd", "fsgsbase", "fxsr", "hreset", "invpcid", "kl", "mmx", "movdir64b", "movdiri"),
    *("mwaitx", "pclmul", "pconfig", "pku", "prefetchi", "prfchw", "ptwrite", "rdpid", "rdpru", "rdrnd", "rdseed"),
    *("serialize", "sha", "shstk", "sse", "sse2", "sse4a", "tsxldtrk", "uintr", "vaes", "vpclmulqdq", "waitpkg"),
    *(
        "wbnoinvd",
        "widekl",
        "x87",
        "xsavec",
        "xsaveopt",
        "xsaves",
        "avx512vp2intersect",
        "64bit",
        "64bit-mode",
        "nopl",
        "vzeroupper",
    ),
}
TUNING = ("fast-", "slow-", "false-deps-", "no-bypass", "prefer-", "allow-", "idivl", "idivq", "tuning-", "faster-")
TUNING_NAMES = {"branchfusion", "macrofusion", "sbb-dep-breaking", "ermsb", "fsrm", "branch-hint", "xsave"}


@pytest.mark.parametrize("target", CPUS.values(), ids=str)
def test_llvm_agrees_about_the_features(target: Target) -> None:
    tvm_target = pytest.importorskip("tvm.target")
    codegen = pytest.importorskip("tvm.target.codegen")
    described = tvm_target.Target(
        {"kind": "llvm", "mtriple": target.triple, "mcpu": target.mcpu, "mattr": list(target.attrs)}
    )
    assert codegen.llvm_is_valid_cpu(target.mcpu, target.triple)
    offered = {str(feature) for feature in codegen.llvm_get_cpu_features(described)}
    required = {LINUX_TO_LLVM.get(feature, feature) for feature in target.features}
    assert required <= offered
    if target.architecture == "x86_64":
        used = {f for f in offered if not f.startswith(TUNING)} - TUNING_NAMES - ONLY_ON_REQUEST
        assert used <= required, "LLVM may use a feature that the package would not check for"


@pytest.mark.parametrize("target", CPUS.values(), ids=str)
def test_widths_follow_from_the_features(target: Target) -> None:
    flags = set(target.features)
    expected = (64, 32) if "avx512f" in flags else (32, 16) if "avx2" in flags else (16, 32 if "asimd" in flags else 16)
    assert (target.vector_bytes, target.vector_registers) == expected
    assert ("-prefer-256-bit" in target.attrs) == (target.vector_bytes == 64)
    assert target.has_masks == (target.vector_bytes == 64)
    assert target.lanes(dtypes.FLOAT32) == target.vector_bytes // 4
    assert target.lanes(dtypes.INT8) == target.vector_bytes
    assert target.lanes(dtypes.FLOAT64) * np.dtype(np.float64).itemsize == target.vector_bytes
    assert 2**14 <= target.l1_bytes <= target.l2_bytes
    assert parse_target(target.name) is target
    assert CPUS[target.isa] is target


def test_what_targets_can_do() -> None:
    v3, v4, vnni, arm = (CPUS[isa] for isa in ("x86-64-v3", "x86-64-v4", "cascadelake", "aarch64"))
    assert v3.has_fma and arm.has_fma and not CPUS["x86-64-v2"].has_fma
    assert vnni.has_int8_dot and arm.has_int8_dot and not v4.has_int8_dot
    assert CPUS["znver4"].has_bf16_dot and not vnni.has_bf16_dot
    assert set(v3.features) < set(v4.features) < set(vnni.features)
    assert v4.missing(v3.features) == ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
    assert arm.architecture == "aarch64"


def intel(model: int, isa: str, *hidden: str) -> Processor:
    return Processor("x86_64", "GenuineIntel", 6, model, frozenset(CPUS[isa].features) - set(hidden))


def amd(family: int, model: int, isa: str, *hidden: str) -> Processor:
    return Processor("x86_64", "AuthenticAMD", family, model, frozenset(CPUS[isa].features) - set(hidden))


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (intel(0x55, "skylake-avx512"), "skylake-avx512"),
        (intel(0x55, "cascadelake"), "cascadelake"),
        (intel(0x55, "cooperlake"), "cooperlake"),
        (intel(0x6A, "icelake-server"), "icelake-server"),
        (intel(0x8F, "sapphirerapids"), "sapphirerapids"),
        (intel(0x8F, "sapphirerapids", "avx512_fp16"), "x86-64-v4"),
        (intel(0x8F, "sapphirerapids", "avx512f"), "x86-64-v3"),
        (intel(0x3F, "haswell"), "haswell"),
        (intel(0x3F, "haswell", "fma"), "x86-64-v2"),
        (intel(0xFE, "graniterapids"), "x86-64-v4"),
        (amd(0x17, 0x31, "znver2"), "znver2"),
        (amd(0x19, 0x01, "znver3"), "znver3"),
        (amd(0x19, 0x11, "znver4"), "znver4"),
        (amd(0x19, 0x61, "znver4", "avx512f"), "x86-64-v3"),
        (amd(0x1A, 0x02, "znver5"), "znver5"),
        (amd(0x1A, 0x02, "znver5", "avx_vnni"), "znver4"),
        (Processor("x86_64", "HygonGenuine", 24, 1, frozenset(CPUS["x86-64-v3"].features)), "x86-64-v3"),
        (Processor("aarch64", "0x41", 0, 0xD0C, frozenset(CPUS["neoverse-n1"].features)), "neoverse-n1"),
        (Processor("aarch64", "0x41", 0, 0xD4F, frozenset(CPUS["neoverse-v2"].features)), "neoverse-v2"),
        (Processor("aarch64", "0xc0", 0, 1, frozenset(CPUS["aarch64"].features)), "aarch64"),
        (Processor("aarch64", "0x41", 0, 0xD08, frozenset({"asimd", "fp"})), "armv8-a"),
    ],
)
def test_a_processor_gets_the_best_target_that_it_can_run(processor: Processor, expected: str) -> None:
    assert target_of(processor) is CPUS[expected]


@given(st.sets(st.sampled_from(CPUS["graniterapids"].features)), st.integers(0, 255), st.sampled_from([6, 0x17, 0x19]))
def test_detection_never_promises_more_than_the_flags(flags: set[str], model: int, family: int) -> None:
    vendor = "GenuineIntel" if family == 6 else "AuthenticAMD"
    processor = Processor("x86_64", vendor, family, model, frozenset(flags))
    try:
        target = target_of(processor)
    except OptionError:
        assert not set(CPUS["x86-64-v2"].features) <= flags
    else:
        assert set(target.features) <= flags


def test_reading_cpuinfo() -> None:
    x86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
    x86 += "flags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nvendor_id\t: other\n"
    assert parse_cpuinfo(x86, "x86_64") == Processor(
        "x86_64", "AuthenticAMD", 25, 17, frozenset({"fpu", "avx2", "fma"})
    )
    arm = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
    assert parse_cpuinfo(arm, "aarch64") == Processor("aarch64", "0x41", 0, 0xD0C, frozenset({"fp", "asimd"}))
    assert parse_cpuinfo("", "x86_64") == Processor("x86_64")


def test_an_unreadable_cpuinfo_leaves_the_architecture(tmp_path: Path) -> None:
    processor = read_processor(tmp_path / "absent")
    assert processor.architecture and not processor.flags
    with pytest.raises(OptionError, match="cannot tell what this machine's processor can do"):
        target_of(processor)


def test_this_machine() -> None:
    host = detect_host()
    assert not host.missing(read_processor().flags)
    assert host.cores >= 1
    assert parse_target("cpu") == host


def test_several_targets_keep_their_order_and_come_once() -> None:
    found = parse_targets("cpu:x86-64-v4, CPU:x86-64-v3,cpu:x86-64-v4,cuda:sm_90,cuda")
    assert [target.name for target in found] == ["cpu:x86-64-v4", "cpu:x86-64-v3", "cuda:sm_90", "cuda:sm_80"]
    assert found[2] is GPUS["sm_90"] and isinstance(found[2], CudaTarget)


def test_every_known_name_parses() -> None:
    assert len(set(known_names())) == len(known_names())
    for name in known_names():
        if name == "cuda":
            assert [target.name for target in parse_targets(name)] == ["cuda:sm_80", "cuda:sm_90"]
            continue
        assert parse_target(name).name == (name if name != "cpu" else detect_host().name)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("cpu:x86_64_v3", "cpu:x86-64-v3"),
        ("cascadelake", "cpu:cascadelake"),
        ("cuda:sm90", "cuda:sm_90"),
        ("cpu:cascade-lake", "cpu:cascadelake"),
    ],
)
def test_an_unknown_name_lists_the_known_and_suggests(text: str, suggestion: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_targets(f"cpu,{text}")
    assert repr(text) in str(caught.value)
    assert "known: cpu, cpu:x86-64-v2" in str(caught.value)
    assert caught.value.hint == f"did you mean {suggestion}?"


@pytest.mark.parametrize("text", ["", " , ", ","])
def test_no_target_is_an_error(text: str) -> None:
    with pytest.raises(OptionError, match="no target is named"):
        parse_targets(text)


@given(st.text(max_size=20))
def test_any_text_is_a_target_or_a_typed_error(text: str) -> None:
    try:
        assert parse_targets(text)
    except OptionError:
        return


def test_verdicts() -> None:
    assert accepted() and not refused("no kernel")
    assert refused("no kernel").reason == "no kernel"
