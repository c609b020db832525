"""Seconds of work on a GPU: kernels from memory that no cache has, and calls as a program waits for them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Enqueue = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """Seconds of one thing, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, float]:
        """The median and the extremes."""
        return {"median": self.median, "least": min(self.seconds), "most": max(self.seconds)}


def difference(with_work: float, without: float, repeats: int) -> float:
    """Seconds of one piece of work, from graphs with and without it; never less than a nanosecond."""
    return max((with_work - without) / repeats, 1e-9)


class ColdTimer:
    """Times kernels by CUDA graphs in which each finds the L2 cache full of something else.

    A graph clears memory larger than the cache before each of its repeats; what a graph of the clearing alone takes is
    taken off. So launching costs nothing, and events see many repeats at once.

    Args:
        repeats: Of the work in a graph.
        rounds: Measured, the works in turns.
    """

    def __init__(self, repeats: int = 20, rounds: int = 9) -> None:
        import torch

        self._torch = torch
        self.repeats, self.rounds = repeats, rounds
        size = int(1.25 * torch.cuda.get_device_properties(0).L2_cache_size)
        self._other = torch.empty(size, dtype=torch.uint8, device="cuda")
        self._empty = self._capture(lambda: None)

    def time(self, works: Mapping[str, Enqueue]) -> dict[str, Measured]:
        """Seconds of each work.

        Args:
            works: What each enqueues in torch's current stream, by name. It must be possible to capture it.
        """
        graphs = {name: self._capture(work) for name, work in works.items()}
        found: dict[str, list[float]] = {name: [] for name in works}
        for number in range(self.rounds + 1):
            idle = self._replay(self._empty)
            for name, graph in graphs.items():
                taken = difference(self._replay(graph), idle, self.repeats)
                if number:
                    found[name].append(taken)
        return {name: Measured(tuple(seconds)) for name, seconds in found.items()}

    def _capture(self, work: Enqueue) -> Any:
        torch = self._torch
        _warm_up(work)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(self.repeats):
                self._other.zero_()
                work()
        return graph

    def _replay(self, graph: Any) -> float:
        torch = self._torch
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def graphed(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A call as a CUDA graph that is replayed, and its outputs, which every replay writes."""
    import torch

    _warm_up(call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return graph.replay, outputs


def _warm_up(call: Enqueue) -> None:
    """Calls beside torch's current stream: libraries choose their kernels and load them at the first calls."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
