"""Branches and loops: the CPU looks at what they decide by, and launches the kernels of their bodies one by one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from graphc.errors import ExecutionError
from graphc.package import (
    BodyStep,
    BranchStep,
    CopyStep,
    HostTensor,
    KernelStep,
    Location,
    LoopStep,
    RaiseStep,
    Variant,
)
from graphc.runtime.cuda.driver import call
from graphc.runtime.cuda.memory import copy


class Runner(Protocol):
    """A context, as far as control flow needs it."""

    stream: Any
    slots: list[int]

    def address(self, place: Location) -> int:
        """Where a place lies in the GPU's memory now."""

    def launch(self, step: KernelStep) -> None:
        """Enqueues a step's kernels."""

    def synchronize(self) -> None:
        """Waits for all that is enqueued."""

    def read(self, tensor: HostTensor) -> Any:
        """What lies at a place, nothing waited for."""


def run_control(runner: Runner, variant: Variant, step: BodyStep) -> None:
    """Runs a step, as native/control.c does on a CPU.

    Args:
        runner: That the kernels run in.
        variant: Of the step.
        step: The step.

    Raises:
        ExecutionError: A kernel failed, or a branch was taken that fits no shape of the variant.
    """
    match step:
        case KernelStep():
            runner.launch(step)
        case CopyStep():
            copy(runner.address(step.target), runner.address(step.source), step.nbytes, runner.stream)
        case RaiseStep():
            raise ExecutionError(
                f"the branch taken does not fit the shapes that the model was compiled for: {step.message}",
                nodes=step.origins,
            )
        case BranchStep():
            _run_body(runner, variant, step.taken if _number(runner, step.condition, "bool") else step.otherwise)
        case LoopStep():
            _run_loop(runner, variant, step)


def _run_body(runner: Runner, variant: Variant, number: int) -> None:
    for step in variant.bodies[number].steps:
        run_control(runner, variant, step)


def _run_loop(runner: Runner, variant: Variant, step: LoopStep) -> None:
    trips = step.trips
    if step.limit is not None:
        wanted = _number(runner, step.limit, "int64")
        trips = wanted if trips is None else min(trips, wanted)
    going = step.condition is None or bool(_number(runner, step.condition, "bool"))
    done = 0
    # What a body is told is written by fills: a copy would read the host's memory later, when it says something else.
    while going and (trips is None or done < trips):
        if step.counter is not None:
            for word in (0, 1):
                number = done >> 32 * word & 0xFFFFFFFF
                call("cuMemsetD32Async", runner.address(step.counter) + 4 * word, number, 1, runner.stream)
        if step.going_on is not None:
            call("cuMemsetD8Async", runner.address(step.going_on), 1, 1, runner.stream)
        for value in step.carried:
            even, odd = runner.address(value.final), runner.address(value.spare)
            before = runner.address(value.initial) if done == 0 else even if done % 2 else odd
            runner.slots[value.read], runner.slots[value.written] = before, odd if done % 2 else even
        for lane in step.lanes:
            runner.slots[lane.slot] = runner.address(lane.array) + lane.start + done * lane.stride
        _run_body(runner, variant, step.body)
        done += 1
        if step.kept is not None:
            going = bool(_number(runner, step.kept, "bool"))
    if done % 2 == 0:
        for value in step.carried:
            source = runner.address(value.spare if done else value.initial)
            copy(runner.address(value.final), source, value.nbytes, runner.stream)


def _number(runner: Runner, place: Location, dtype: str) -> int:
    """A number in the GPU's memory, when all that writes it has run."""
    runner.synchronize()
    return int(np.asarray(runner.read(HostTensor(place, dtype, ()))))
