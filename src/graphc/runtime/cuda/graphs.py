"""Runs of kernels captured as CUDA graphs, which the driver launches at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from graphc.runtime.cuda import driver
from graphc.runtime.cuda.device import Device, freeing_later
from graphc.runtime.cuda.driver import call, enumerator

_KEPT = 48
"""Graphs that a context keeps at least: for several runs, and several sets of arrays in the GPU's memory."""


class Graphs:
    """The graphs of one context.

    Args:
        device: That runs them.
        stream: Of the context.
        runs: Of its program, each a graph: those of two calls are kept, however many they are.
    """

    def __init__(self, device: Device, stream: Any, runs: int) -> None:
        self._device = device
        self._stream = stream
        self._kept = max(_KEPT, 2 * runs)
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()

    def launch(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        """Launches the graph of what `enqueue` enqueues, which is captured where it has not been.

        Args:
            key: Equal for what one graph serves.
            enqueue: Enqueues in the context's stream, and does nothing else with the driver.
        """
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._capture(enqueue)
            if len(self._graphs) > self._kept:
                _, oldest = self._graphs.popitem(last=False)
                call("cuGraphExecDestroy", oldest)
        else:
            self._graphs.move_to_end(key)
        call("cuGraphLaunch", graph, self._stream)

    def _capture(self, enqueue: Callable[[], None]) -> Any:
        # Of this thread alone: others go on allocating and loading meanwhile.
        mode = enumerator("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
        with freeing_later():
            call("cuStreamBeginCapture", self._stream, mode)
            try:
                enqueue()
            except BaseException:
                if (unfinished := driver.attempt("cuStreamEndCapture", self._stream)) is not None:
                    driver.attempt("cuGraphDestroy", unfinished)
                raise
            graph = call("cuStreamEndCapture", self._stream)
        try:
            made = call("cuGraphInstantiate", graph, 0)
        finally:
            call("cuGraphDestroy", graph)
        call("cuGraphUpload", made, self._stream)
        return made

    def close(self) -> None:
        """Frees them."""
        while self._graphs:
            self._device.free("cuGraphExecDestroy", self._graphs.popitem()[1])
