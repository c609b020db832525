"""A variant: the program for one binding of the symbols on one instruction set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphc.package.steps import Body, HostStep, KernelStep, Step
from graphc.package.tensor import HostTensor, check_extents, check_not_negative


@dataclass(frozen=True)
class Copy:
    """An output that no step writes (an input, a constant, a duplicate, a slot): copied when all steps have run."""

    output: int
    source: HostTensor


@dataclass(frozen=True, slots=True)
class BufferPlan:
    """One planned buffer, for reports: live in steps [start, end), at `offset` in the arena, of `size` bytes."""

    name: str
    start: int
    end: int
    offset: int
    size: int


@dataclass(frozen=True)
class Variant:
    """The program for one binding of the symbols on one instruction set.

    Attributes:
        isa: Which code member holds its kernels.
        bindings: Value of each symbol.
        values: Bytes of each parameter that its kernels were made for, C-contiguous; of the others, any value will do.
        inputs: Concrete input shapes, in the model's order; None where the input is no tensor.
        outputs: Concrete output shapes; None where known only at run time.
        arena_size: Bytes of the arena.
        lower_bound: The largest sum of live bytes: what no plan can beat.
        buffers: The memory plan, for reports.
        steps: In order of execution.
        bodies: Of branches and loops; a body's steps name later ones only, so that none is inside itself.
        slots: Size in bytes of each place that loops set.
        copies: Outputs that no step writes.
        objects: Number of object slots.
    """

    isa: str
    bindings: Mapping[str, int]
    inputs: tuple[tuple[int, ...] | None, ...]
    outputs: tuple[tuple[int, ...] | None, ...]
    arena_size: int
    steps: tuple[Step, ...]
    lower_bound: int = 0
    buffers: tuple[BufferPlan, ...] = ()
    copies: tuple[Copy, ...] = ()
    objects: int = 0
    bodies: tuple[Body, ...] = ()
    slots: tuple[int, ...] = ()
    values: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_not_negative("arena size", self.arena_size)
        check_not_negative("number of object slots", self.objects)
        for shape in (*self.inputs, *self.outputs):
            check_extents(shape or (), "shape of a variant")

    @property
    def kernel_steps(self) -> tuple[KernelStep, ...]:
        """The kernel calls, those of bodies last."""
        lists = (self.steps, *(body.steps for body in self.bodies))
        return tuple(step for steps in lists for step in steps if isinstance(step, KernelStep))

    @property
    def host_steps(self) -> tuple[HostStep, ...]:
        """The steps that run in NumPy."""
        return tuple(step for step in self.steps if isinstance(step, HostStep))
