"""`--dim batch=auto`: which batch sizes are worth compiling, by what they cost on this machine."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from graphc.compiler.options import DimChoice
from graphc.errors import OptionError
from graphc.package import Manifest
from graphc.runtime import Calibration, Executable, calibrate, load
from graphc.runtime.calibration import save
from graphc.runtime.scheduler.costs import CostCurve

AUTO = "auto"
CANDIDATES = (1, 2, 4, 8, 16, 32)
TOLERANCE = 0.05
"""How much slower than with all candidates any number of rows may become by leaving one out."""

Compile = Callable[[Path, Mapping[str, DimChoice]], Manifest]
"""Writes a package with these dimensions."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What `choose_batches` decided.

    Args:
        dims: With the batch sizes in the place of `auto`.
        calibration: What was measured of every candidate; empty where nothing was `auto`.
    """

    dims: Mapping[str, DimChoice]
    calibration: Calibration


def keep_calibration(package: Path, chosen: Chosen, threads: int | None = None) -> None:
    """Puts what was measured beside the package compiled for good."""
    if chosen.calibration:
        with load(package, threads=threads) as executable:
            shapes = {variant.inputs for variant in executable.variants}
            save(package, executable, {key: cost for key, cost in chosen.calibration.items() if key in shapes})


def choose_batches(dims: Mapping[str, DimChoice] | None, compile_to: Compile, threads: int | None = None) -> Chosen:
    """Finds out what `auto` is: measures every candidate, and keeps those without which some batch would be slower.

    Args:
        dims: At most one of them `auto`.
        compile_to: Compiles the model for given dimensions; kernels come from the cache when it is compiled for good.
        threads: Of the calls measured.

    Raises:
        OptionError: Several dimensions are `auto`, or rows along it are not independent, so that nothing could ever
            share a batch.
    """
    names = [name for name, given in dims.items() if given == AUTO] if isinstance(dims, Mapping) else []
    if not dims or not names:
        # Whatever else is given as `dims` is checked where it is expanded.
        return Chosen(dims or {}, {})
    if len(names) != 1:
        raise OptionError(f"{' and '.join(names)} are auto; only the dimension that counts rows can be")
    with tempfile.TemporaryDirectory(prefix="graphc-") as folder:
        path = Path(folder) / "candidates.graphc"
        manifest = compile_to(path, {**dims, names[0]: list(CANDIDATES)})
        if not _counts_rows(manifest):
            raise OptionError(
                f"{names[0]} cannot be auto: rows along it are not proved to be independent, so requests cannot share a"
                " batch",
                hint=f"name the sizes that you will call it with: --dim {names[0]}=1,8",
            )
        with load(path, threads=threads) as executable:
            found = calibrate(executable)
            sizes = worth_keeping(_tables(executable, found))
    return Chosen({**dims, names[0]: list(sizes)}, found)


def _counts_rows(manifest: Manifest) -> bool:
    """Whether it is the candidates that count independent rows."""
    batch = manifest.batch
    return batch is not None and {v.bindings[batch.symbol] for v in manifest.variants} == set(CANDIDATES)


def _tables(executable: Executable, calibration: Calibration) -> list[dict[int, float]]:
    """Median latency by batch size, for each shape of a row."""
    batch = executable.manifest.batch
    assert batch is not None
    tables: dict[object, dict[int, float]] = {}
    for variant in executable.variants:
        rest = tuple(sorted((name, value) for name, value in variant.bindings.items() if name != batch.symbol))
        tables.setdefault(rest, {})[variant.bindings[batch.symbol]] = calibration[variant.inputs].median
    return list(tables.values())


def worth_keeping(tables: Sequence[Mapping[int, float]], tolerance: float = TOLERANCE) -> tuple[int, ...]:
    """The fewest batch sizes with which every number of rows takes about as long as with all of them.

    Sizes are left out one by one, the least missed first, for as long as no number of rows becomes more than
    `tolerance` slower for any shape. 1 is always kept: a lone request is never padded.

    Args:
        tables: Seconds by batch size, for each shape; all with the same sizes.
        tolerance: Relative.
    """
    largest = max(tables[0])
    full = [CostCurve(table, largest=largest) for table in tables]

    def harm(sizes: Iterable[int]) -> float:
        chosen = set(sizes)
        curves = [CostCurve({n: table[n] for n in chosen}, largest=largest) for table in tables]
        return max(
            curve(rows) / best(rows) - 1
            for curve, best in zip(curves, full, strict=True)
            for rows in range(1, largest + 1)
        )

    kept = set(tables[0])
    while len(kept) > 1:
        missed, least = min((harm(kept - {size}), size) for size in kept - {1})
        if missed > tolerance:
            break
        kept.discard(least)
    return tuple(sorted(kept))
