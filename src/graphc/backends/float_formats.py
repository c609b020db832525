"""Floats of 8 and fewer bits: what their bits mean.

A value is `(-1)**sign * 1.mantissa * 2**(exponent - bias)`, or `0.mantissa * 2**(1 - bias)` where the exponent is 0.
Sources: OCP 8-bit Floating Point Specification (OFP8) and OCP Microscaling Formats (MX) for e4m3fn, e5m2, e8m0 and the
types of 4 and 6 bits; Noune et al., arXiv:2206.02915, for the `fnuz` types.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir import dtypes
from graphc.ir.dtypes import DType


@dataclass(frozen=True)
class Format:
    """How the bits of a type are used; the sign is the bit above the exponent.

    Args:
        exponent: Bits of the exponent.
        mantissa: Bits of the mantissa.
        bias: What is subtracted from the exponent.
        largest: Code of the largest number.
        nan: Code of a NaN; None in a type without.
        infinity: Code of infinity; None in a type without.
        signed_specials: Whether NaN and zero have a sign; without, the code of NaN is that of -0.
    """

    exponent: int
    mantissa: int
    bias: int
    largest: int
    nan: int | None = None
    infinity: int | None = None
    signed_specials: bool = True


FORMATS: dict[DType, Format] = {
    dtypes.FLOAT8E4M3FN: Format(4, 3, 7, 0x7E, nan=0x7F),
    dtypes.FLOAT8E4M3FNUZ: Format(4, 3, 8, 0x7F, nan=0x80, signed_specials=False),
    dtypes.FLOAT8E5M2: Format(5, 2, 15, 0x7B, nan=0x7E, infinity=0x7C),
    dtypes.FLOAT8E5M2FNUZ: Format(5, 2, 16, 0x7F, nan=0x80, signed_specials=False),
    dtypes.FLOAT6E2M3: Format(2, 3, 1, 0x1F),
    dtypes.FLOAT6E3M2: Format(3, 2, 3, 0x1F),
    dtypes.FLOAT4E2M1: Format(2, 1, 1, 0x7),
}
"""Types with a mantissa; float8_e8m0fnu is an exponent alone."""

DTYPES = frozenset({*FORMATS, dtypes.FLOAT8E8M0})
"""Every type of 8 and fewer bits that kernels convert to float32 and back."""
