"""A variant ready to run on a GPU."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from graphc.package import Copy, HostStep, HostTensor, KernelStep, Manifest, Variant
from graphc.runtime.cuda.array import new_array
from graphc.runtime.cuda.code import Call, Code
from graphc.runtime.cuda.context import CudaContext
from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.driver import OutOfDeviceMemoryError, check_fork
from graphc.runtime.cuda.ends import is_on_device
from graphc.runtime.cuda.memory import aligned
from graphc.runtime.cuda.parts import split
from graphc.runtime.cuda.weights import Weights
from graphc.runtime.host import Evaluate
from graphc.runtime.memory import Array
from graphc.runtime.program import Program


class CudaProgram(Program[CudaContext]):
    """A variant with its kernels found.

    Attributes:
        model: Name of the model.
        device: That runs it.
        weights: In the GPU's memory.
        host_weights: The same in the host's, for host steps.
        evaluate: Runs host steps; None where there are none.
        runs: Its steps.
        calls: What each kernel step launches.
        statuses: Number of the status word of each kernel step that has one.
        scratch: Bytes of scratch memory that its kernels need, one after the other.
        device_objects: Object slots that kernels read.
        device_copies: Outputs that no step writes, copied in the GPU's memory.
        host_copies: Those that are copied on the host, where one of the two lies there alone.
        is_warm: Whether a call has been made, so that the driver has loaded the kernels.

    Args:
        manifest: The package's.
        variant: Of this manifest.
        code: With its kernels.
        weights: As above.
        host_weights: As above.
        evaluate: As above.
        opened: Whether it is a binding of an open variant.
    """

    def __init__(
        self,
        manifest: Manifest,
        variant: Variant,
        device: Device,
        code: Code,
        weights: Weights,
        host_weights: Array,
        *,
        evaluate: Evaluate | None,
        opened: bool = False,
    ) -> None:
        super().__init__(manifest, variant, keyed=bool(manifest.parameters))
        self.model = manifest.model
        self.device = device
        self.weights = weights
        self.host_weights = host_weights
        self.evaluate = evaluate
        self.opened = opened
        self.runs = split(variant)
        self._code = code
        self.calls: dict[KernelStep, tuple[Call, ...]] = {step: code.calls(step) for step in variant.kernel_steps}
        reporting = [step for step, calls in self.calls.items() if any(None in call.parameters for call in calls)]
        self.statuses = {step: number for number, step in enumerate(reporting)}
        self.scratch = max((call.scratch for calls in self.calls.values() for call in calls), default=0)
        places = [place for step in variant.kernel_steps for place in step.arguments]
        self.device_objects = frozenset(place.index for place in places if place.kind == "object")
        self.host_copies = tuple(copy for copy in variant.copies if self._is_on_host(copy))
        self.device_copies = tuple(copy for copy in variant.copies if not self._is_on_host(copy))
        self._closed = False
        self.is_warm = False

    def _is_on_host(self, copy: Copy) -> bool:
        rows = [self.outputs[copy.output]]
        if copy.source.location.kind == "input":
            rows.append(self.input_rows[copy.source.location.index])
        return copy.source.location.kind == "object" or any(not is_on_device(row) for row in rows)

    @property
    def bounce(self) -> tuple[int, int]:
        """Bytes that the operands, and the results, of a host step take in pinned memory at most."""

        def total(tensors: Collection[HostTensor | None]) -> int:
            return sum(aligned(tensor.nbytes) for tensor in tensors if tensor is not None)

        steps = [step for step in self.variant.steps if isinstance(step, HostStep)]
        return max((total(s.inputs) for s in steps), default=0), max((total(s.outputs) for s in steps), default=0)

    def new_outputs(self, on_device: Collection[str] = ()) -> dict[str, Any]:
        """An array for each output by name; None where its shape is known only at run time."""
        outputs = super().new_outputs()
        for name, shape, dtype in self.outputs if on_device else ():
            if name in on_device and is_on_device((name, shape, dtype)):
                assert shape is not None
                outputs[name] = new_array(self.device, shape, dtype, name)
        return outputs

    def new_context(self) -> CudaContext:
        """What one more call in flight needs."""
        return CudaContext(self)

    def acquire(self) -> CudaContext:
        """A context that no other call is using; where there is no memory for one more, when another call has ended.

        Raises:
            OutOfDeviceMemoryError: There is not the memory for a single one.
            DeviceError: The process was forked from one that uses the GPU.
        """
        check_fork()
        device = self.device
        while (context := self._take_idle()) is None:
            with device.making:
                if (context := self._take_idle()) is not None:
                    return context
                seen = device.releases
                try:
                    context = self.new_context()
                except OutOfDeviceMemoryError:
                    if device.releases == seen and not device.in_flight:
                        raise
                else:
                    with self._lock:
                        self.arenas += 1
                    self._count(1)
                    return context
            with device.changed:
                while device.releases == seen and device.in_flight:
                    device.changed.wait()
        return context

    def _take_idle(self) -> CudaContext | None:
        with self._lock:
            if not self._idle:
                return None
            context = self._idle.pop()
        self._count(1)
        return context

    def _count(self, more: int) -> None:
        """Tells the device of a call that begins, or ends."""
        with self.device.changed:
            self.device.in_flight += more
            if more < 0:
                self.device.releases += 1
                self.device.changed.notify_all()

    def release(self, context: CudaContext) -> None:
        """Keeps a context for the next call; frees it where the model has been closed meanwhile."""
        with self._lock:
            if keep := not self._closed:
                self._idle.append(context)
            else:
                self.arenas -= 1
        if not keep:
            context.close()
        self._count(-1)

    def trim(self) -> None:
        """Frees the contexts that no call is using."""
        with self._lock:
            idle, self._idle = self._idle, []
            self.arenas -= len(idle)
        for context in idle:
            context.close()

    def close(self) -> None:
        """Frees all contexts, those in use when their calls end."""
        with self._lock:
            self._closed = True
        self.trim()
