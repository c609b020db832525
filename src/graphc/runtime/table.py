"""The launcher's table: a row for each kernel call, branch and loop of a variant, those of bodies after its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from graphc.package import BodyStep, BranchStep, CopyStep, HostStep, KernelStep, Location, LoopStep, RaiseStep, Variant
from graphc.runtime import abi
from graphc.runtime.memory import address

Row = tuple[int, Sequence[Location | None], Sequence[int]]
"""Address of the kernel, or 0; places; numbers."""

_UNLIMITED = (1 << 63) - 1


def rows_of(variant: Variant) -> list[BodyStep]:
    """The step of each row of a variant's table."""
    return [step for steps in _lists(variant) for step in steps]


def _lists(variant: Variant) -> list[Sequence[BodyStep]]:
    """Its own steps that have a row, then those of each body."""
    own = [step for step in variant.steps if not isinstance(step, HostStep)]
    return [own, *(body.steps for body in variant.bodies)]


class Table:
    """A variant's rows.

    Attributes:
        rows: As `Step` of native/launcher.h.

    Args:
        variant: Host steps have no row.
        kernel: Address of a kernel by its symbol.
        base: Index in `Call.bases` of a place's region.
    """

    def __init__(self, variant: Variant, kernel: Callable[[str], int], base: Callable[[Location], int]) -> None:
        lists = _lists(variant)
        ends = np.cumsum([len(steps) for steps in lists]).tolist()
        self._ranges = list(itertools.pairwise(ends))
        self._slot = base(Location("slot"))
        addresses = {step.symbol: kernel(step.symbol) for step in {s.symbol: s for s in variant.kernel_steps}.values()}
        rows = [self._row(step, addresses) for steps in lists for step in steps]
        places = [(-1, 0) if p is None else (base(p), p.offset) for _, found, _ in rows for p in found]
        self._arguments = np.array(places, abi.ARGUMENT)
        self._dims = np.array([number for _, _, numbers in rows for number in numbers], np.int64)
        self.rows = np.zeros(len(rows), abi.STEP)
        counts = np.array([(len(found), len(numbers)) for _, found, numbers in rows], np.int64).reshape(-1, 2)
        before = np.cumsum(counts, axis=0) - counts
        self.rows["kernel"] = [code for code, _, _ in rows]
        self.rows["arguments"] = address(self._arguments) + abi.ARGUMENT.itemsize * before[:, 0]
        self.rows["dims"] = address(self._dims) + self._dims.itemsize * before[:, 1]
        self.rows["argument_count"] = counts[:, 0]

    def _row(self, step: BodyStep, addresses: dict[str, int]) -> Row:
        match step:
            case KernelStep():
                return addresses[step.symbol], step.arguments, step.dims
            case CopyStep():
                return 0, (step.source, step.target), (abi.COPY, step.nbytes)
            case RaiseStep():
                return 0, (), (abi.RAISE,)
            case BranchStep():
                ranges = (*self._ranges[step.taken], *self._ranges[step.otherwise])
                return 0, (step.condition,), (abi.BRANCH, *ranges)
            case LoopStep():
                return self._loop(step)

    def _loop(self, step: LoopStep) -> Row:
        places = [step.limit, step.condition, step.counter, step.going_on, step.kept]
        numbers = [abi.LOOP, *self._ranges[step.body], _UNLIMITED if step.trips is None else step.trips]
        numbers += [len(step.carried), len(step.lanes)]
        for value in step.carried:
            places += [value.initial, value.final, value.spare]
            numbers += [self._slot + value.read, self._slot + value.written, value.nbytes]
        for lane in step.lanes:
            places.append(lane.array)
            numbers += [self._slot + lane.slot, lane.start, lane.stride]
        return 0, places, numbers
