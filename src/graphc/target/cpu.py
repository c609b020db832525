"""CPU targets: one table of instruction sets and what kernels may assume of each.

Vector widths, registers and caches are those of the vendors' optimization manuals. A row's features are all that LLVM
may use on its own account for the row's `mcpu`, under the names that Linux gives them in /proc/cpuinfo, so a machine
that shows every one of them can run every kernel of the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from graphc.ir.dtypes import DType

KIB = 1024
MIB = 1024 * KIB

X86_TRIPLE = "x86_64-linux-gnu"
ARM_TRIPLE = "aarch64-linux-gnu"


@dataclass(frozen=True)
class Target:
    """A CPU that kernels are compiled for.

    Args:
        name: What a user types, e.g. `cpu:x86-64-v3`.
        triple: LLVM's target triple.
        mcpu: LLVM's processor name; never `native`, which TVM silently reads as generic.
        attrs: LLVM features to add or take away.
        vector_bytes: Width of the vectors that kernels use.
        vector_registers: How many of them there are.
        features: Flags of /proc/cpuinfo that a machine must show to run the code.
        l1_bytes: Data cache of one core.
        l2_bytes: Second-level cache of one core.
        cores: Cores that kernels are split for; a hint, any number runs.
    """

    name: str
    triple: str
    mcpu: str
    attrs: tuple[str, ...]
    vector_bytes: int
    vector_registers: int
    features: tuple[str, ...]
    l1_bytes: int
    l2_bytes: int
    cores: int = 4

    kind: ClassVar[str] = "cpu"
    alignment: ClassVar[int] = 64
    """Bytes to which every buffer is aligned: a cache line, and the widest vector."""

    @property
    def isa(self) -> str:
        """Key of the target's code in a package: the name without `cpu:`."""
        return self.name.removeprefix("cpu:")

    @property
    def architecture(self) -> str:
        """Instruction set family: `x86_64` or `aarch64`."""
        return self.triple.partition("-")[0]

    @property
    def has_fma(self) -> bool:
        """Whether a multiply and an add round once, in one instruction."""
        return "fma" in self.features or "asimd" in self.features

    @property
    def has_int8_dot(self) -> bool:
        """Whether four products of 8-bit integers add into 32 bits at full vector width (VNNI, dot product)."""
        return any(flag in self.features for flag in ("avx512_vnni", "asimddp"))

    @property
    def has_bf16_dot(self) -> bool:
        """Whether pairs of bfloat16 products add into float32 at full vector width."""
        return any(flag in self.features for flag in ("avx512_bf16", "bf16"))

    @property
    def has_masks(self) -> bool:
        """Whether loads and stores of part of a vector cost the same as whole ones (AVX-512)."""
        return "avx512vl" in self.features

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in one vector, at least 1."""
        return max(1, self.vector_bytes // dtype.itemsize)

    def missing(self, flags: Iterable[str]) -> tuple[str, ...]:
        """Features that a machine with `flags` lacks to run code of this target."""
        shown = set(flags)
        return tuple(feature for feature in self.features if feature not in shown)

    def __str__(self) -> str:
        return self.name


_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_CASCADELAKE = (*_V4, "avx512_vnni")
_ICELAKE = (
    *_CASCADELAKE,
    *("avx512_bitalg", "avx512_vbmi2", "avx512_vpopcntdq", "avx512ifma", "avx512vbmi", "gfni"),
)
_SAPPHIRERAPIDS = (*_ICELAKE, "avx512_bf16", "avx512_fp16", "avx_vnni")
_ZNVER4 = (*_ICELAKE, "avx512_bf16")
_NEOVERSE_N1 = ("asimd", "asimddp", "asimdhp", "atomics", "crc32", "fphp")
_NEOVERSE_V1 = (*_NEOVERSE_N1, "bf16", "fcma", "i8mm", "jscvt", "sve")
_NEOVERSE_V2 = (*_NEOVERSE_V1, "sve2")

_WIDE = ("-prefer-256-bit",)
"""Lets LLVM's own vectorizer use all of AVX-512's width."""


def _sse(mcpu: str, features: tuple[str, ...], l1: int, l2: int) -> Target:
    return Target(f"cpu:{mcpu}", X86_TRIPLE, mcpu, (), 16, 16, features, l1, l2)


def _avx2(mcpu: str, features: tuple[str, ...], l1: int, l2: int) -> Target:
    return Target(f"cpu:{mcpu}", X86_TRIPLE, mcpu, (), 32, 16, features, l1, l2)


def _avx512(mcpu: str, features: tuple[str, ...], l1: int, l2: int) -> Target:
    return Target(f"cpu:{mcpu}", X86_TRIPLE, mcpu, _WIDE, 64, 32, features, l1, l2)


def _neon(name: str, mcpu: str, features: tuple[str, ...], l1: int, l2: int) -> Target:
    return Target(f"cpu:{name}", ARM_TRIPLE, mcpu, (), 16, 32, features, l1, l2)


_TABLE = (
    # The levels of the x86-64 psABI: any vendor's machine of that age.
    _sse("x86-64-v2", _V2, 32 * KIB, 256 * KIB),
    _avx2("x86-64-v3", _V3, 32 * KIB, 256 * KIB),
    _avx512("x86-64-v4", _V4, 32 * KIB, 1 * MIB),
    # Intel
    _avx2("haswell", _V3, 32 * KIB, 256 * KIB),
    _avx2("broadwell", _V3, 32 * KIB, 256 * KIB),
    _avx2("skylake", _V3, 32 * KIB, 256 * KIB),
    _avx2("alderlake", (*_V3, "avx_vnni", "gfni"), 48 * KIB, 1280 * KIB),
    _avx512("skylake-avx512", _V4, 32 * KIB, 1 * MIB),
    _avx512("cascadelake", _CASCADELAKE, 32 * KIB, 1 * MIB),
    _avx512("cooperlake", (*_CASCADELAKE, "avx512_bf16"), 32 * KIB, 1 * MIB),
    _avx512("rocketlake", _ICELAKE, 48 * KIB, 512 * KIB),
    _avx512("tigerlake", _ICELAKE, 48 * KIB, 1280 * KIB),
    _avx512("icelake-server", _ICELAKE, 48 * KIB, 1280 * KIB),
    _avx512("sapphirerapids", _SAPPHIRERAPIDS, 48 * KIB, 2 * MIB),
    _avx512("emeraldrapids", _SAPPHIRERAPIDS, 48 * KIB, 2 * MIB),
    _avx512("graniterapids", _SAPPHIRERAPIDS, 48 * KIB, 2 * MIB),
    # AMD
    _avx2("znver1", _V3, 32 * KIB, 512 * KIB),
    _avx2("znver2", _V3, 32 * KIB, 512 * KIB),
    _avx2("znver3", _V3, 32 * KIB, 512 * KIB),
    _avx512("znver4", _ZNVER4, 32 * KIB, 1 * MIB),
    _avx512("znver5", (*_ZNVER4, "avx_vnni"), 48 * KIB, 1 * MIB),
    # Arm: 128-bit NEON everywhere; SVE's width is not known at compile time.
    _neon("armv8-a", "generic", ("asimd",), 32 * KIB, 512 * KIB),
    _neon("aarch64", "neoverse-n1", _NEOVERSE_N1, 64 * KIB, 1 * MIB),
    _neon("neoverse-n1", "neoverse-n1", _NEOVERSE_N1, 64 * KIB, 1 * MIB),
    _neon("neoverse-v1", "neoverse-v1", _NEOVERSE_V1, 64 * KIB, 1 * MIB),
    _neon("neoverse-n2", "neoverse-n2", _NEOVERSE_V2, 64 * KIB, 1 * MIB),
    _neon("neoverse-v2", "neoverse-v2", _NEOVERSE_V2, 64 * KIB, 2 * MIB),
)

CPUS: Mapping[str, Target] = MappingProxyType({target.isa: target for target in _TABLE})
"""Every CPU target by its instruction set's name."""
