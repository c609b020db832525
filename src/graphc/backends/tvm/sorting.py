"""Sorting records in memory: a network for the few that fit the first cache, counting by digits for the many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.tirx.script.builder import ir as T

from graphc.backends.tvm.records import Records
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind
from graphc.ir import Dim
from graphc.ir.symbolic import minimum

DIGIT_BITS = 8
DIGITS = 1 << DIGIT_BITS

Share = Callable[[Callable[[Dim], None]], None]
"""Runs a function for each part of the records, maybe on several threads."""


def sort_network(builder: KernelBuilder, records: Records, base: Dim, count: int, lanes: int) -> None:
    """Sorts `count` records at `base` in place by a bitonic network, a vector of pairs at a time.

    Every step puts the earlier record of a pair first (K. E. Batcher, "Sorting networks and their applications", 1968,
    in the form whose comparators all point one way).

    Args:
        builder: The kernel under construction.
        records: Where they are.
        base: The first.
        count: How many: a power of two, at least `lanes`.
        lanes: Records of a vector.
    """

    def within(sizes: Sequence[int], strides: Sequence[int]) -> None:
        """Steps between the lanes of one vector: whole merges of `sizes`, then the steps of `strides`."""
        with builder.serial(count // lanes, "v") as vector:
            place = base + vector * lanes
            words = records.load(place, lanes)
            for size in sizes:
                words = _exchange(records, words, size - 1, lanes)
                for stride in _halves(size // 4):
                    words = _exchange(records, words, stride, lanes)
            for stride in strides:
                words = _exchange(records, words, stride, lanes)
            records.store(words, place, lanes)

    within(_halves(lanes)[:-1][::-1], ())
    size = 2 * lanes
    while size <= count:
        with builder.serial(count // size, "b") as block, builder.serial(size // (2 * lanes), "h") as step:
            low = base + block * size + step * lanes
            high = base + (block + 1) * size - (step + 1) * lanes
            first, second = records.ordered(records.load(low, lanes), _turned(records.load(high, lanes), lanes))
            records.store(first, low, lanes)
            records.store(_turned(second, lanes), high, lanes)
        for stride in _halves(size // 4):
            if stride < lanes:
                break
            with builder.serial(count // (2 * stride), "b") as block, builder.serial(stride // lanes, "h") as step:
                low = base + block * 2 * stride + step * lanes
                first, second = records.ordered(records.load(low, lanes), records.load(low + stride, lanes))
                records.store(first, low, lanes)
                records.store(second, low + stride, lanes)
        within((), _halves(lanes // 2))
        size *= 2


def _halves(size: int) -> list[int]:
    """`size`, half of it, and so on down to 1; nothing for 0."""
    return [size >> shift for shift in range(size.bit_length())]


def _turned(words: Sequence[Expr], lanes: int) -> list[Expr]:
    return [bind(T.Shuffle([word], list(range(lanes - 1, -1, -1)))) for word in words]


def _exchange(records: Records, words: Sequence[Expr], mask: int, lanes: int) -> list[Expr]:
    """Orders each lane and the lane whose number differs in the bits of `mask`."""
    partners = [bind(T.Shuffle([word], [lane ^ mask for lane in range(lanes)])) for word in words]
    first, second = records.ordered(words, partners)
    places = [lane if lane < lane ^ mask else lanes + lane for lane in range(lanes)]
    return [bind(T.Shuffle([a, b], places)) for a, b in zip(first, second, strict=True)]


def sort_by_digits(
    builder: KernelBuilder,
    pair: tuple[Records, Records],
    counts: int,
    base: Dim,
    count: int,
    bits: int,
    *,
    first_count: Dim,
    parts: int,
    share: Share,
) -> Records:
    """Sorts records that lie in the order of their places by their keys; answers which of the two buffers has them.

    From the lowest digit to the highest, each pass counts how often every digit comes and moves the records to where
    those of smaller digits end, in the order in which it finds them (H. H. Seward, 1954). Parts count for themselves,
    and the places of a digit are dealt to the parts in order, so that they can move their records at the same time.

    Args:
        builder: The kernel under construction.
        pair: Where the records are, and a buffer of the same size.
        counts: Pointer argument of int64 counters, `DIGITS` for each part.
        base: The first record, in both.
        count: How many there are.
        bits: Bits of the key that differ.
        first_count: The first counter.
        parts: In how many parts they are counted and moved.
        share: Runs a function for each part.
    """
    size = -(-count // parts)
    source, target = pair
    low = 0 if len(source.operands) == 2 else 32

    def digit(words: Sequence[Expr], shift: int) -> Dim:
        shifted = T.shift_right(words[0], T.uint64(low + shift))
        return builder.name_value(T.Cast("int64", T.bitwise_and(shifted, T.uint64(DIGITS - 1))), 0, DIGITS - 1, "digit")

    def each(part: Dim, visit: Callable[[Dim], None]) -> None:
        extent = minimum(size, count - part * size) if count % parts else size
        with builder.serial(extent, "r") as number:
            visit(base + part * size + number)

    for shift in range(0, bits, DIGIT_BITS):

        def clear_and_count(part: Dim, source: Records = source, shift: int = shift) -> None:
            own = first_count + part * DIGITS
            with builder.serial(DIGITS, "d") as number:
                builder.store(counts, T.int64(0), own + number)

            def visit(place: Dim) -> None:
                at = own + digit(source.load(place), shift)
                builder.store(counts, builder.load(counts, at) + T.int64(1), at)

            each(part, visit)

        def move(part: Dim, source: Records = source, target: Records = target, shift: int = shift) -> None:
            own = first_count + part * DIGITS

            def visit(place: Dim) -> None:
                words = source.load(place)
                at = own + digit(words, shift)
                free = builder.name_value(bind(builder.load(counts, at)), 0, count - 1, "to")
                builder.store(counts, builder.index(free + 1), at)
                target.store(words, base + free)

            each(part, visit)

        share(clear_and_count)
        before = builder.accumulator(1, "int64")
        before.value = T.int64(0)
        with builder.serial(DIGITS, "d") as number, builder.serial(parts, "p") as part:
            at = first_count + part * DIGITS + number
            found = bind(builder.load(counts, at))
            builder.store(counts, before.value, at)
            before.value = before.value + found
        share(move)
        source, target = target, source
    return source
