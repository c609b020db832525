"""How far each region of a variant reaches: a step of a damaged manifest must not name what lies outside."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from graphc.errors import PackageError
from graphc.package.control import BranchStep, CopyStep, LoopStep
from graphc.package.steps import BodyStep, HostStep, KernelStep, Step
from graphc.package.tensor import MAX_BYTES, Location, TensorSpec, numpy_dtype

if TYPE_CHECKING:
    from graphc.package.manifest import Manifest
    from graphc.package.variant import Variant


class Limits:
    """How far each region of a variant reaches, in bytes."""

    def __init__(self, manifest: Manifest, variant: Variant) -> None:
        def sizes(specs: tuple[TensorSpec, ...], shapes: tuple[tuple[int, ...] | None, ...]) -> list[int]:
            return [
                MAX_BYTES if shape is None else math.prod(shape) * numpy_dtype(spec.dtype).itemsize
                for spec, shape in zip(specs, shapes, strict=True)
            ]

        self.sizes = {
            "arena": [variant.arena_size],
            "weight": [manifest.weights_size],
            "input": sizes(manifest.inputs, variant.inputs),
            "output": sizes(manifest.outputs, variant.outputs),
            "object": [MAX_BYTES] * min(variant.objects, 1 << 20),
            "slot": list(variant.slots),
            "buffer": [],
        }
        self.bodies = len(variant.bodies)

    def check_step(self, step: Step | BodyStep, body: int) -> None:
        """Raises PackageError where a step of body number `body` (-1 for the variant's own) reaches too far."""
        match step:
            case KernelStep():
                for location in step.arguments:
                    self.check(location, 0)
            case HostStep():
                for operand in (*step.inputs, *step.outputs):
                    if operand is not None:
                        self.check(operand.location, operand.nbytes)
            case CopyStep():
                self.check(step.source, step.nbytes)
                self.check(step.target, step.nbytes)
            case BranchStep() | LoopStep():
                for number in step.bodies:
                    if not body < number < self.bodies:
                        raise PackageError(f"body {number} does not exist, or is around the step")
                for tensor in step.outputs:
                    self.check(tensor.location, tensor.nbytes)
                if isinstance(step, BranchStep):
                    self.check(step.condition, 1)
                else:
                    self._check_loop(step)

    def _check_loop(self, step: LoopStep) -> None:
        for location, nbytes in (
            (step.limit, 8),
            (step.condition, 1),
            (step.counter, 8),
            (step.going_on, 1),
            (step.kept, 1),
        ):
            if location is not None:
                self.check(location, nbytes)
        for value in step.carried:
            for location in (value.initial, value.final, value.spare):
                self.check(location, value.nbytes)
            for slot in (value.read, value.written):
                self.check(Location("slot", slot), value.nbytes)
        for lane in step.lanes:
            self.check(Location("slot", lane.slot), 0)
            ends = (lane.start, lane.start + lane.stride * max((step.trips or 0) - 1, 0))
            if step.trips and min(ends) < 0:
                raise PackageError(f"a loop goes {-min(ends)} bytes before the beginning of its array")
            if step.trips:
                self.check(lane.array, max(ends) + self.sizes["slot"][lane.slot])

    def check(self, location: Location, nbytes: int) -> None:
        """Raises PackageError unless `nbytes` bytes at a location lie in its region."""
        sizes = self.sizes[location.kind]
        if location.index >= len(sizes):
            raise PackageError(f"{location.kind} {location.index} does not exist; there are {len(sizes)}")
        if location.offset + nbytes > sizes[location.index]:
            raise PackageError(
                f"{nbytes} bytes at offset {location.offset} are outside {location.kind} {location.index}"
                f" of {sizes[location.index]} bytes"
            )
