"""Finds out by measuring how each kernel of a model is best cut.

Kernels are measured where they run: the whole model is compiled once for each round of alternatives, every region with
its own next one, and runs in turns with the model as the cost model cuts it. So a kernel finds in the caches what it
finds there in use, slow spells of the machine fall on both, and one compile tries an alternative of every region.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from graphc.backends.base import Backend, Kernel, make_backend
from graphc.backends.tuning import Choice, Tuned, TuningDatabase
from graphc.compiler import CompileOptions, compile_package
from graphc.compiler.options import DimChoice
from graphc.compiler.program import Program
from graphc.compiler.targets import BACKENDS
from graphc.errors import BackendError, OptionError
from graphc.ir import Node
from graphc.runtime import Executable, load, thread_count
from graphc.testing.engines import Arrays, scaled_error
from graphc.testing.verification import scale_of

LEAST_GAIN = 1.03
"""Gains below are within what two measurements of one kernel differ by."""

_ROUND_SECONDS = 0.04
_MOST_RUNS = 50


@dataclass(frozen=True)
class TunedModel:
    """What tuning a model found.

    Attributes:
        database: The regions for which an alternative was faster, by key.
        measured: Keys of all regions that had alternatives.
        rejected: Alternatives left out because the model's answers with them were others.
        before: Seconds of a call as the cost model cuts it.
        after: Seconds of a call with the choices found; measured in turns with `before`.
    """

    database: TuningDatabase
    measured: frozenset[str]
    rejected: int
    before: float
    after: float


def tune(
    model: Path | bytes,
    inputs: Arrays,
    *,
    target: str = "cpu",
    dims: Mapping[str, DimChoice] | None = None,
    values: Mapping[str, Any] | None = None,
    threads: int | None = None,
    rounds: int = 8,
    options: CompileOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> TunedModel:
    """Measures the alternatives of every region of a model.

    Args:
        model: Path or content of an ONNX file.
        inputs: Name to array.
        target: A machine that is here: `cpu`, or the architecture of its GPU.
        dims: Symbolic dimensions and their extents; all must be bound to one extent each.
        values: What inputs always are, by name; as of `graphc.compile`.
        threads: Of a call; all processors of this process if None.
        rounds: Turns of each comparison.
        options: Of the compile; measurements known so far are not used.
        progress: Told what is going on, how much of it is done, and how much there is.

    Raises:
        OptionError: Dimensions are open or bound to several extents, or `rounds` is not positive.
        GraphcError: The model does not compile, or the inputs do not fit it.
    """
    if rounds < 1:
        raise OptionError(f"rounds is {rounds}; expected at least 1")
    chosen = options or CompileOptions()
    tell = progress or (lambda what, done, total: None)
    with tempfile.TemporaryDirectory(prefix="graphc-tune-") as folder:
        bench = _Bench(model, inputs, target, dims, values, thread_count(threads), rounds, chosen, Path(folder))
        program, base = bench.compile(TuningDatabase())
        with base:
            regions = regions_of(program, chosen)
            return _search(bench, base, regions, tell)


class _Bench:
    """One model on one set of inputs, compiled with any choices and compared."""

    def __init__(
        self,
        model: Path | bytes,
        inputs: Arrays,
        target: str,
        dims: Mapping[str, DimChoice] | None,
        values: Mapping[str, Any] | None,
        threads: int,
        rounds: int,
        options: CompileOptions,
        folder: Path,
    ) -> None:
        self.model, self.inputs, self.target, self.dims, self.values = model, inputs, target, dims, values
        self.threads, self.rounds, self.options, self.folder = threads, rounds, options, folder
        self._count = 0

    def compile(self, tuned: TuningDatabase) -> tuple[Program, Executable]:
        """The model with these choices."""
        self._count += 1
        path = self.folder / f"{self._count}.graphc"
        options = replace(self.options, tuned=tuned, open_variants=False)
        _, programs = compile_package(
            self.model, path, target=self.target, dims=self.dims, values=self.values, options=options
        )
        if len(programs) != 1:
            raise OptionError(
                f"tuning is of one shape, and this is a compile of {len(programs) or 'all'} shapes",
                hint="bind each dimension to one extent with --dim",
            )
        return programs[0], load(path, threads=self.threads, device=programs[0].target.kind)

    def agrees(self, base: Executable, other: Executable) -> bool:
        """Whether both give the same answers, up to rounding."""
        return scaled_error(base(dict(self.inputs)), other(dict(self.inputs))) <= scale_of(self.options.precision)

    def compare(self, base: Executable, other: Executable) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of each step, and of the whole call last: arrays [rounds, steps + 1] for both."""
        feeds = dict(self.inputs)
        once = base.profile(feeds, runs=3).nanoseconds / 1e9
        runs = max(3, min(_MOST_RUNS, int(_ROUND_SECONDS / max(once, 1e-6))))
        times: tuple[list[list[int]], list[list[int]]] = ([], [])
        for turn in range(self.rounds):
            order = (0, 1) if turn % 2 else (1, 0)
            for which in order:
                profile = (base, other)[which].profile(feeds, runs=runs, warmup=1)
                times[which].append([*(step.nanoseconds for step in profile.steps), profile.nanoseconds])
        before, after = (np.asarray(rows, np.float64) / 1e9 for rows in times)
        return before, after


@dataclass
class Region:
    """A region of a model and what can be chosen for it.

    Args:
        key: What it is known by.
        what: It is, in brief.
        kernel: As the cost model cuts it.
        steps: Numbers of the steps that run it.
        alternatives: Choices that make other kernels, the more promising ones first.
    """

    key: str
    what: str
    kernel: Kernel
    steps: list[int]
    alternatives: list[Choice]


class TunableBackend(Backend, Protocol):
    """A backend whose templates can be told how to cut a region."""

    def alternatives(self, region: Node, target: Any, options: Mapping[str, Any]) -> tuple[str, list[Choice]]:
        """What a region is known by, and the choices worth measuring."""
        ...


def backend_of(program: Program) -> TunableBackend:
    """What lowers for a program's target."""
    return cast(TunableBackend, make_backend(BACKENDS[program.target.kind]))


def settings_of(options: CompileOptions) -> dict[str, Any]:
    """What templates are told of a compile, as lowering tells them."""
    return {"winograd": options.winograd, "precision": options.computed_in}


def regions_of(program: Program, options: CompileOptions) -> dict[str, Region]:
    """Regions of a program that have alternatives to what the cost model chose, by key."""
    backend, target, settings = backend_of(program), program.target, settings_of(options)
    found: dict[str, Region] = {}
    for index, node in enumerate(program.buffers.steps):
        kernel = program.kernels.get(node)
        if kernel is None:
            continue
        key, choices = backend.alternatives(node, target, settings)
        if key in found:
            found[key].steps.append(index)
            continue
        distinct: dict[str, Choice] = {}
        for choice in choices:
            try:
                made = backend.lower(node, target, {**settings, **choice})
            except BackendError:
                continue
            if made.key != kernel.key:
                distinct.setdefault(made.key, choice)
        if distinct:
            found[key] = Region(key, _what(node), kernel, [index], list(distinct.values()))
    return found


def _what(node: Node) -> str:
    kind = node.outputs[0].tensor_type
    return f"{node.name if node.domain else node.op_type} {kind.dtype}[{', '.join(map(str, kind.shape or ()))}]"


def _search(
    bench: _Bench, base: Executable, regions: Mapping[str, Region], tell: Callable[[str, int, int], None]
) -> TunedModel:
    total = max((len(region.alternatives) for region in regions.values()), default=0)
    best: dict[str, Tuned] = {}
    rejected = 0
    for turn in range(total):
        tell("measuring", turn, total + 1)
        tried = {
            key: Tuned(region.what, region.alternatives[turn], 1.0)
            for key, region in regions.items()
            if turn < len(region.alternatives)
        }
        gains = _measure(bench, base, regions, tried)
        rejected += len(tried) - len(gains)
        for key, gain in gains.items():
            if gain > max(LEAST_GAIN, best[key].gain if key in best else 0.0):
                best[key] = replace(tried[key], gain=gain)
    # Of many measurements the best is too good: what is kept must hold in another one.
    tell("confirming", total, total + 1)
    held = _measure(bench, base, regions, best) if best else {}
    kept = {key: replace(best[key], gain=gain) for key, gain in held.items() if gain >= LEAST_GAIN}
    _, final = bench.compile(TuningDatabase(kept))
    with final:
        before, after = bench.compare(base, final)
    tell("confirming", total + 1, total + 1)
    seconds = float(np.median(before[:, -1])), float(np.median(after[:, -1]))
    return TunedModel(TuningDatabase(kept), frozenset(regions), rejected, *seconds)


def _measure(
    bench: _Bench, base: Executable, regions: Mapping[str, Region], tried: Mapping[str, Tuned]
) -> dict[str, float]:
    """How many times as fast each region is with what is tried; empty if the answers are not the model's."""
    _, other = bench.compile(TuningDatabase(tried))
    with other:
        if not bench.agrees(base, other):
            return {}
        before, after = bench.compare(base, other)
    return {key: _gain(before, after, regions[key].steps) for key in tried}


def _gain(before: np.ndarray, after: np.ndarray, steps: Sequence[int]) -> float:
    """The median over rounds of the ratio of a region's time, all its steps together."""
    ratios: Any = before[:, steps].sum(axis=1) / np.maximum(after[:, steps].sum(axis=1), 1e-9)
    return float(np.median(ratios))
