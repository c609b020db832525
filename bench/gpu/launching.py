"""A package's kernels launched into torch's stream, so that its graphs and events time them like torch's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.package import KernelStep, Location, Package, Variant
from graphc.runtime.cuda.code import Code, closest
from graphc.runtime.cuda.device import open_device
from graphc.runtime.cuda.launcher import Launcher
from graphc.runtime.cuda.weights import load_weights


class Kernels:
    """The kernels of a package whose steps are kernels alone, over memory of torch's.

    Args:
        path: The package.
        inputs: torch tensors by name, in the GPU's memory, row-major.
        heaviest: Launches the step of most operations alone: of a convolution between two changes of layout, itself.

    Raises:
        ValueError: A step runs on the host.
    """

    def __init__(self, path: Path, inputs: Mapping[str, Any], *, heaviest: bool = False) -> None:
        import torch

        package = Package(path)
        self._device = open_device(0)
        architecture = closest(sorted({v.isa for v in package.manifest.variants}), self._device.capability)
        if architecture is None:
            raise ValueError(f"{path.name} has no code for {self._device.name}")
        self.variant: Variant = next(v for v in package.manifest.variants if v.isa == architecture)
        if any(not isinstance(step, KernelStep) for step in self.variant.steps):
            raise ValueError(f"{path.name} has steps that are no kernels")
        # It holds the modules, without which their functions are gone.
        self._code = code = Code(package, architecture, self._device)
        steps = [step for step in self.variant.steps if isinstance(step, KernelStep)]
        if heaviest:
            steps = [max(steps, key=lambda step: step.flops)]
        self._calls = {step: code.calls(step) for step in steps}
        self._weights = load_weights(package, architecture, self._device)

        def memory(size: int) -> Any:
            return torch.zeros(max(size, 1), dtype=torch.uint8, device="cuda")

        self._arena, self._status = memory(self.variant.arena_size), memory(4)
        self._scratch = memory(max((call.scratch for calls in self._calls.values() for call in calls), default=0))
        self._inputs = [inputs[tensor.name] for tensor in package.manifest.inputs]
        dtypes = [getattr(torch, tensor.dtype) for tensor in package.manifest.outputs]
        self.outputs = [
            torch.zeros(shape, dtype=kind, device="cuda")
            for shape, kind in zip(self.variant.outputs, dtypes, strict=True)
        ]
        self._launchers: dict[int, list[Launcher]] = {}

    def __call__(self) -> None:
        """Enqueues them in torch's stream."""
        import torch

        stream = torch.cuda.current_stream().cuda_stream
        if stream not in self._launchers:
            status, scratch = self._status.data_ptr(), self._scratch.data_ptr()
            self._launchers[stream] = [
                Launcher(calls, self._address, status, scratch, stream) for calls in self._calls.values()
            ]
        with self._device:
            for launch in self._launchers[stream]:
                launch()

    def _address(self, place: Location) -> int:
        if place.kind == "weight":
            return self._weights.address(place.offset)
        if place.kind == "arena":
            return int(self._arena.data_ptr()) + place.offset
        tensors = self._inputs if place.kind == "input" else self.outputs
        return int(tensors[place.index].data_ptr()) + place.offset
