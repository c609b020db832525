"""How long each variant of a package takes on this machine: measured once, kept beside the package.

A package is the same bytes wherever it was compiled; what was measured belongs to a machine. So the figures are a file
of their own, `model.graphc.costs.json`, whose entries name the package (by its hash), the processor and the threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from graphc.errors import PackageError
from graphc.package import Manifest, Variant, atomic_file, numpy_dtype, parameter_values
from graphc.runtime.cpu import processor

WARMUP = 3
RUNS = 40
LEAST = 5
SECONDS = 0.5
"""A variant is run `RUNS` times, or until this many seconds are over, but `LEAST` times at least."""

_QUANTILE = 0.95
_ENTRIES = 64
"""Entries that a file keeps: packages compiled anew leave old ones behind."""


class Runnable(Protocol):
    """What can be calibrated and scheduled: `graphc.runtime.Executable`, or anything like it."""

    manifest: Manifest

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Its programs."""

    @property
    def threads(self) -> int:
        """That a call uses."""

    def __call__(self, inputs: Any) -> dict[str, Any]:
        """Runs it."""


@dataclass(frozen=True)
class Latency:
    """Of one variant.

    Args:
        median: Seconds.
        high: Seconds within which 95 of 100 calls end: what promises are made from.
    """

    median: float
    high: float


Calibration = dict[tuple[tuple[int, ...] | None, ...], Latency]
"""Latency by the shapes of the inputs."""


def calibrate(executable: Runnable, *, progress: Callable[[int, int], None] | None = None) -> Calibration:
    """Measures every variant that the package has.

    Args:
        executable: Loaded with the threads that it will be served with; nothing else should run meanwhile.
        progress: Told the variants done and the variants in all.
    """
    variants = [variant for variant in executable.variants if can_sample(executable.manifest, variant)]
    found: Calibration = {}
    for number, variant in enumerate(variants):
        if progress is not None:
            progress(number, len(variants))
        found[variant.inputs] = measure(executable, sample_inputs(executable.manifest, variant))
    if progress is not None:
        progress(len(variants), len(variants))
    return found


def can_sample(manifest: Manifest, variant: Variant) -> bool:
    """Whether the variant says all that its inputs must be: they are tensors, and the values that decide are known."""
    known = parameter_values(manifest, variant)
    return all(shape is not None for shape in variant.inputs) and all(name in known for name in manifest.parameters)


def sample_inputs(manifest: Manifest, variant: Variant) -> list[Any]:
    """Inputs to measure with: normal numbers, and 0 where the model takes integers, which may be indices."""
    rng = np.random.default_rng(0)
    known = parameter_values(manifest, variant)
    arrays: list[Any] = []
    for spec, shape in zip(manifest.inputs, variant.inputs, strict=True):
        assert shape is not None, "only tensors have shapes to sample"
        dtype = numpy_dtype(spec.dtype)
        if spec.name in known:
            arrays.append(known[spec.name])
        elif spec.dtype == "string":
            arrays.append(np.full(shape, "", object))
        elif "int" in spec.dtype or spec.dtype == "bool":
            arrays.append(np.zeros(shape, dtype))
        else:
            arrays.append(rng.standard_normal(shape).astype(dtype))
    return arrays


def measure(
    executable: Runnable, inputs: list[Any], *, warmup: int = WARMUP, least: int = LEAST, seconds: float = SECONDS
) -> Latency:
    """Latency of calls with these inputs.

    Args:
        executable: That is called.
        inputs: Of every call.
        warmup: Calls before those that count.
        least: Calls that count, at least.
        seconds: After which there are no more of them.
    """
    for _ in range(warmup):
        executable(inputs)
    times: list[float] = []
    while len(times) < least or (len(times) < RUNS and sum(times) < seconds):
        start = perf_counter()
        executable(inputs)
        times.append(perf_counter() - start)
    times.sort()
    return Latency(times[len(times) // 2], times[min(len(times) - 1, int(_QUANTILE * len(times)))])


def costs_path(package: Path) -> Path:
    """Where the figures of a package are kept."""
    return package.with_name(package.name + ".costs.json")


def save(package: Path, executable: Runnable, calibration: Calibration) -> Path:
    """Writes the figures beside the package; those of other machines and thread counts stay.

    Raises:
        PackageError: The folder cannot be written to.
    """
    path = costs_path(package)
    entries = _read(path)
    own = _key(executable)
    entries = [entry for entry in entries if {name: entry.get(name) for name in own} != own][-_ENTRIES + 1 :]
    rows = [
        {
            "inputs": [None if shape is None else list(shape) for shape in shapes],
            "median": cost.median,
            "high": cost.high,
        }
        for shapes, cost in calibration.items()
    ]
    entries.append({**own, "latencies": rows})
    with atomic_file(path) as file:
        file.write(json.dumps({"format": 1, "entries": entries}, indent=1).encode())
    return path


def load_calibration(package: Path | None, executable: Runnable) -> Calibration:
    """The figures of this package on this machine with these threads; empty where it was not calibrated."""
    entries = [] if package is None else _read(costs_path(package))
    if package is None or not entries:
        return {}
    own = _key(executable)
    for entry in entries:
        if {name: entry.get(name) for name in own} == own:
            try:
                return {
                    tuple(None if shape is None else tuple(map(int, shape)) for shape in row["inputs"]): Latency(
                        float(row["median"]), float(row["high"])
                    )
                    for row in entry["latencies"]
                }
            except (KeyError, TypeError, ValueError) as error:
                raise PackageError(
                    f"{str(costs_path(package))!r} is damaged: {error}", hint="delete it and run graphc calibrate"
                ) from error
    return {}


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PackageError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{str(path)!r} is damaged: {error}", hint="delete it and run graphc calibrate") from error
    entries = found.get("entries") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PackageError(f"{str(path)!r} is damaged: it has no entries", hint="delete it and run graphc calibrate")
    return entries


def _key(executable: Runnable) -> dict[str, Any]:
    digest = hashlib.sha256(executable.manifest.to_json().encode()).hexdigest()
    machine = getattr(executable, "processor", None) or processor()
    return {"package": digest, "machine": machine, "threads": executable.threads}
