"""A variant's steps as a GPU runs them: runs of kernels, each one graph, and between them what the CPU has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.package import BranchStep, HostStep, KernelStep, LoopStep, Variant

Break = HostStep | BranchStep | LoopStep
"""A step that the CPU runs, or by whose data it decides what runs."""


@dataclass(frozen=True)
class Run:
    """Kernels in a row, steps [first, last) of the variant; and the step after them, which ends the run.

    Attributes:
        fixed: Whether all that the kernels read and write lies where it always does, so that a graph can have it.
        then: The step `last`; None where the variant ends.
    """

    first: int
    last: int
    fixed: bool
    then: Break | None


def split(variant: Variant) -> tuple[Run, ...]:
    """The variant's steps as runs. The last one ends the variant; a run may have no kernels."""
    runs, first = [], 0
    for index, step in enumerate(variant.steps):
        if not isinstance(step, KernelStep):
            runs.append(Run(first, index, _is_fixed(variant.steps[first:index]), step))
            first = index + 1
    last = len(variant.steps)
    runs.append(Run(first, last, _is_fixed(variant.steps[first:last]), None))
    return tuple(runs)


def _is_fixed(steps: Sequence[object]) -> bool:
    kernels = [step for step in steps if isinstance(step, KernelStep)]
    return all(place.kind not in ("object", "slot") for step in kernels for place in step.arguments)
