"""What is sorted: records of a key and the place it came from, whose unsigned order is the order that is wanted.

A key is the element's bits turned so that the best element has the smallest key: NaN counts as the largest number, both
zeros are one number. Records of equal elements differ in their places, so that no two are equal and every way to sort
them gives the same result. Keys of up to 32 bits share a word with their place; wider ones have a word of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from graphc.backends.element_types import compute_dtype
from graphc.backends.tvm import element_types
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast, lanes_of
from graphc.ir import Dim, dtypes
from graphc.ir.dtypes import DType

MOST_PLACES = (1 << 32) - 1
"""Places that fit beside a key; the last is what fills up a buffer."""


def key_bits(dtype: DType) -> int:
    """Bits of a key that can differ between two elements of `dtype`; keys are of 32 bits, or of 64."""
    if dtype.kind == "bool":
        return 8
    return compute_dtype(dtype).bits


def word_count(dtype: DType) -> int:
    """Words of 64 bits in a record."""
    return 2 if key_bits(dtype) == 64 else 1


def sort_key(value: Expr, dtype: DType, *, largest: bool) -> Expr:
    """Keys of loaded elements, in storage type: unsigned, smaller for what comes first."""
    lanes = lanes_of(value)
    bits = 64 if key_bits(dtype) == 64 else 32
    word = f"uint{bits}" if lanes == 1 else f"uint{bits}x{lanes}"

    def every(constant: int) -> Expr:
        return element_types.number(constant, dtypes.UINT64 if bits == 64 else dtypes.UINT32, lanes)

    top = 1 << (bits - 1)
    if dtype.is_float:
        computed = bind(element_types.from_storage(value, dtype))
        pattern = bind(T.reinterpret(word, computed))
        pattern = bind(T.Select(T.EQ(pattern, every(top)), every(0), pattern))
        turned = T.Select(pattern < every(top), T.bitwise_xor(pattern, every(top)), T.bitwise_not(pattern))
        key = T.Select(element_types.isnan(computed), every((1 << bits) - 1), bind(turned))
    elif dtype.kind == "int":
        # By bits, because TIR's unsigned sums must not overflow. Narrow numbers differ in their own bits alone.
        own = T.bitwise_and(T.Cast(word, value), every((1 << dtype.bits) - 1))
        key = T.bitwise_xor(own, every(1 << (dtype.bits - 1)))
    else:
        key = T.Cast(word, value)
    return bind(T.bitwise_not(key) if largest else key)


class Records:
    """Records in memory: one pointer argument for each of their words.

    Args:
        builder: The kernel under construction.
        operands: Pointer arguments of the words, the key's first.
    """

    def __init__(self, builder: KernelBuilder, operands: Sequence[int]) -> None:
        self.builder = builder
        self.operands = tuple(operands)

    def load(self, place: Dim, lanes: int = 1) -> list[Expr]:
        """The words of consecutive records."""
        return [bind(self.builder.load(operand, place, lanes)) for operand in self.operands]

    def store(self, words: Sequence[Expr], place: Dim, lanes: int = 1) -> None:
        """Writes consecutive records."""
        for operand, word in zip(self.operands, words, strict=True):
            self.builder.store(operand, word, place, lanes)

    def made(self, key: Expr, places: Expr) -> list[Expr]:
        """Records of keys and int64 places."""
        lanes = lanes_of(key)
        word = "uint64" if lanes == 1 else f"uint64x{lanes}"
        if len(self.operands) == 2:
            return [key, T.Cast(word, places)]
        high = T.shift_left(T.Cast(word, key), broadcast(T.uint64(32), lanes))
        return [bind(T.bitwise_or(high, T.Cast(word, places)))]

    def key(self, words: Sequence[Expr]) -> Expr:
        """The key of one record."""
        return words[0] if len(words) == 2 else T.Cast("uint32", T.shift_right(words[0], T.uint64(32)))

    def place(self, words: Sequence[Expr], extent: int) -> Dim:
        """The place of one record, which is less than `extent`."""
        low = words[1] if len(words) == 2 else T.bitwise_and(words[0], T.uint64(0xFFFFFFFF))
        return self.builder.name_value(T.Cast("int64", low), 0, extent - 1, "from")

    def worst(self, lanes: int) -> list[Expr]:
        """Records that come after all others, to fill up with."""
        return [element_types.number((1 << 64) - 1, dtypes.UINT64, lanes)] * len(self.operands)

    @staticmethod
    def less(left: Sequence[Expr], right: Sequence[Expr]) -> Expr:
        """Whether records come before others, lane by lane."""
        if len(left) == 1:
            return left[0] < right[0]
        return T.Or(left[0] < right[0], T.And(T.EQ(left[0], right[0]), left[1] < right[1]))

    def ordered(self, left: Sequence[Expr], right: Sequence[Expr]) -> tuple[list[Expr], list[Expr]]:
        """The earlier and the later of each pair."""
        before = self.less(left, right)
        first = [bind(T.Select(before, a, b)) for a, b in zip(left, right, strict=True)]
        second = [bind(T.Select(before, b, a)) for a, b in zip(left, right, strict=True)]
        return first, second
