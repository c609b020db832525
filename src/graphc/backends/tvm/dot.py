"""Products of 8-bit integers summed in 32 bits: the instruction a CPU has for it, and what its operands must look like.

A *word* is 32 bits that hold the neighbours along the inner axis that one instruction multiplies and sums in a lane.
With VNNI these are four 8-bit numbers, unsigned on the left and signed on the right; without, two 16-bit numbers
(`pmaddwd`), whose products and sums are exact too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from graphc.backends.tvm.element_types import named
from graphc.backends.tvm.scalar_ops import apply
from graphc.backends.tvm.tir import Expr, broadcast, lanes_of
from graphc.errors import BackendError
from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.target import Target

SIGN = 0x80
"""What turns a signed 8-bit number into an unsigned one that is 128 larger, and back."""


@dataclass(frozen=True)
class Dot:
    """How words are made and multiplied.

    Args:
        intrinsic: LLVM's name of the instruction.
        group: Numbers in a word.
        lanes: Words in a vector.
    """

    intrinsic: str
    group: int
    lanes: int

    @property
    def is_byte(self) -> bool:
        """Whether words hold 8-bit numbers."""
        return self.group == 4

    def left_shift(self, dtype: DType) -> int:
        """What a left number of `dtype` is larger by in a word."""
        return 128 if self.is_byte and dtype == dtypes.INT8 else 0

    def right_shift(self, dtype: DType) -> int:
        """What a right number of `dtype` is larger by in a word."""
        return -128 if self.is_byte and dtype == dtypes.UINT8 else 0

    def left_words(self, values: Expr, dtype: DType) -> Expr:
        """A vector of words of loaded neighbours, `group` times as many as words."""
        count = lanes_of(values)
        if not self.is_byte:
            return T.reinterpret(named("int32", count // 2), T.Cast(named("int16", count), values))
        if dtype == dtypes.INT8:
            values = T.bitwise_xor(T.reinterpret(named("uint8", count), values), broadcast(T.uint8(SIGN), count))
        return T.reinterpret(named("int32", count // 4), values)

    def right_words(self, matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """An 8-bit [K, N] matrix as words, int32 [K / group rounded up, N], zeros past K."""
        depth, columns = matrix.shape
        shifted = matrix.astype(np.int32) + self.right_shift(dtypes.from_numpy(matrix.dtype))
        words = np.zeros((-(-depth // self.group), self.group, columns), np.int8 if self.is_byte else np.int16)
        words.reshape(-1, columns)[:depth] = shifted
        return np.ascontiguousarray(words.transpose(0, 2, 1)).view(np.int32)[..., 0]

    def ones(self) -> int:
        """The right word that sums the numbers of the left one."""
        return 0x01010101 if self.is_byte else 0x00010001

    def add(self, total: Expr, left: Expr, right: Expr) -> Expr:
        """`total` plus the products of two vectors of words."""
        name = named(f"int{32 // self.group}", self.group * self.lanes)
        left, right = T.reinterpret(name, left), T.reinterpret(name, right)
        result = named("int32", self.lanes)
        if self.is_byte:
            return T.call_llvm_pure_intrin(result, self.intrinsic, total, left, right)
        return apply("add", dtypes.INT32, [total, T.call_llvm_pure_intrin(result, self.intrinsic, left, right)])


def dot_of(target: Target) -> Dot:
    """The instruction of a CPU.

    Raises:
        BackendError: It has none that this module knows.
    """
    if target.architecture == "x86_64":
        lanes = target.lanes(dtypes.INT32)
        if target.vector_bytes == 64:
            if target.has_int8_dot:
                return Dot("llvm.x86.avx512.vpdpbusd.512", 4, lanes)
            return Dot("llvm.x86.avx512.pmaddw.d.512", 2, lanes)
        if target.vector_bytes == 32:
            return Dot("llvm.x86.avx2.pmadd.wd", 2, lanes)
    raise BackendError(f"no products of 8-bit integers are known for {target}")
