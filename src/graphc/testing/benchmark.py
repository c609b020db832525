"""One model, compiled and timed beside other engines, its answers compared in the same run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphc
from graphc.compiler.options import DimChoice
from graphc.errors import ExecutionError
from graphc.runtime import thread_count
from graphc.testing.compare import Comparison, compare
from graphc.testing.engines import Arrays, Engine, peer, scaled_error

TOLERANCE = 1e-4
"""The error, over the output's scale, beyond which answers count as different."""


@dataclass(frozen=True)
class Benchmark:
    """What `benchmark` found out about one model.

    Args:
        model: Its file's name, without the ending.
        threads: Threads of each engine.
        times: Of "graphc" and of each peer.
        errors: For each peer, the largest difference of graphc's outputs from its own, over the output's scale.
        load_seconds: For each engine, from its file to ready; graphc loads a package, peers compile while loading.
        versions: Of each engine.
        failures: Of peers that cannot run the model, what they said.
        compile_seconds: Of graphc; a warm kernel cache counts as it is.
        package_bytes: Size of the compiled package.
        arena_bytes: Memory for intermediate values of one call.
    """

    model: str
    threads: int
    times: Comparison
    errors: Mapping[str, float]
    load_seconds: Mapping[str, float]
    versions: Mapping[str, str]
    failures: Mapping[str, str]
    compile_seconds: float
    package_bytes: int
    arena_bytes: int

    @property
    def agrees(self) -> bool:
        """Whether graphc's answers are the peers', within `TOLERANCE`."""
        return all(error <= TOLERANCE for error in self.errors.values())

    def to_json(self) -> dict[str, object]:
        """All of it as a JSON object."""
        return {
            "model": self.model,
            "threads": self.threads,
            **self.times.to_json(of="graphc"),
            "errors": dict(self.errors),
            "agrees": self.agrees,
            "load_seconds": dict(self.load_seconds),
            "versions": dict(self.versions),
            "failures": dict(self.failures),
            "compile_seconds": self.compile_seconds,
            "package_bytes": self.package_bytes,
            "arena_bytes": self.arena_bytes,
        }

    def table(self) -> str:
        """Times and ratios, one line an engine, then whether the answers agree."""
        lines = [self.times.table(of="graphc")]
        for name, error in self.errors.items():
            verdict = "agrees with" if error <= TOLERANCE else "DIFFERS from"
            lines.append(f"{verdict} {name}: largest difference {error:.1e} of the output's scale")
        lines += self.failures.values()
        return "\n".join(lines)


def benchmark(
    model: Path,
    inputs: Arrays,
    *,
    dims: Mapping[str, DimChoice] | None = None,
    against: Sequence[str] = ("onnxruntime",),
    threads: int | None = None,
    rounds: int = 15,
    progress: Callable[[int, int], None] | None = None,
    options: Mapping[str, Any] | None = None,
    package: Path | None = None,
) -> Benchmark:
    """Compile a model and time it in turns with other engines.

    Args:
        model: An ONNX file.
        inputs: Name to array; every engine gets the same.
        dims: Symbolic dimensions and their extents, or shapes by input; as of `graphc.compile`.
        against: Names of engines: "onnxruntime", "openvino".
        threads: For each engine; None is all processors that this process may use.
        rounds: Of the comparison.
        progress: Told the rounds done and the rounds in all.
        options: Further options of `graphc.compile`.
        package: Where to leave the compiled package; None leaves nothing.

    Raises:
        OptionError: An engine is unknown or an option out of range.
        ToolchainError: An engine is not installed.
        ExecutionError: None of the peers can run the model.
        GraphcError: The model does not compile.
    """
    count = thread_count(threads)
    bound = dict(dims or {})
    extents = {name: extent for name, extent in bound.items() if isinstance(extent, int)}
    peers, failures = _peers(against, model, inputs, count, extents)
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        package = package or Path(folder) / f"{model.stem}.graphc"
        start = time.perf_counter()
        graphc.compile(model, target="cpu", dims=bound, output=package, **(options or {}))
        compiled = time.perf_counter()
        with graphc.load(package, threads=count) as executable:
            loaded = time.perf_counter()
            feeds = dict(inputs)
            # Copies: an engine may hand out the same buffers at its next call.
            answers = {name: value.copy() for name, value in executable(feeds).items()}
            errors = {engine.name: scaled_error(engine.run(), answers) for engine in peers}
            engines: dict[str, Callable[[], object]] = {"graphc": lambda: executable(feeds)}
            engines |= {engine.name: engine.run for engine in peers}
            times = compare(engines, rounds=rounds, progress=progress)
            arena = executable.memory
        return Benchmark(
            model=model.stem,
            threads=count,
            times=times,
            errors=errors,
            load_seconds={"graphc": loaded - compiled} | {engine.name: engine.load_seconds for engine in peers},
            versions={"graphc": graphc.__version__} | {engine.name: engine.version for engine in peers},
            failures=failures,
            compile_seconds=compiled - start,
            package_bytes=package.stat().st_size,
            arena_bytes=arena,
        )


def _peers(
    against: Sequence[str], model: Path, inputs: Arrays, threads: int, dims: Mapping[str, int]
) -> tuple[list[Engine], dict[str, str]]:
    """The engines that run the model, and what the others said; the error of one that is alone."""
    found: list[Engine] = []
    failures: dict[str, str] = {}
    for name in against:
        try:
            found.append(peer(name, model, inputs, threads=threads, dims=dims))
        except ExecutionError as error:
            if len(failures) + 1 == len(against):
                raise
            failures[name] = error.message
    return found, failures
