"""`graphc run`: a package or a model, on the user's inputs or on seeded ones."""

from __future__ import annotations

import argparse
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.cli.common import add_compile_options, add_json, add_source, add_threads, positive, print_json
from graphc.cli.feeds import add_inputs, feed
from graphc.cli.source import open_source
from graphc.cli.table import table
from graphc.cli.wrapped import flatten
from graphc.errors import OptionError
from graphc.package import atomic_file
from graphc.testing.compare import format_seconds

DESCRIPTION = """Run a package, or a model, which is compiled first.

Inputs that are not given are drawn from a seeded random generator: floats from the normal distribution, integers from
0 and 1 (from a model, indices from what they index)."""

EXAMPLES = """
  graphc run model.graphc                               seeded inputs
  graphc run model.graphc --input x=image.npy --output y.npz
  graphc run model.onnx --dim batch=4 --input ids=0..30521 --runs 20
"""

_SHOWN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source(parser)
    add_inputs(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="write the outputs: a .npz file, or a folder of .npy files"
    )
    parser.add_argument("--runs", type=positive, default=1, metavar="N", help="call it N times and show the time")
    add_threads(parser)
    add_compile_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Runs, and shows or writes the outputs."""
    if options.output is not None and options.output.suffix == ".npy":
        raise OptionError(
            f"--output {options.output}: a .npy file holds one array",
            hint="use a .npz file, or a folder for .npy files",
        )
    with open_source(options) as source:
        inputs = feed(source, options)
        outputs, seconds = {}, []
        for _ in range(options.runs + (options.runs > 1)):
            start = time.perf_counter()
            outputs = source.executable(inputs)
            seconds.append(time.perf_counter() - start)
    # The first of several calls finds nothing in the caches.
    seconds = seconds[1:] or seconds
    if options.output is not None:
        write_outputs(options.output, outputs)
    # What a sequence or a map holds is shown a line each.
    outputs = {name: array for output, value in outputs.items() for name, array in flatten(output, value)}
    if options.json:
        print_json({"outputs": {n: _facts(a) for n, a in outputs.items()}, "seconds": seconds})
        return 0
    rows = [(name, _type(array), *_statistics(array), _first(array)) for name, array in outputs.items()]
    print(table(("output", "type", "min", "mean", "max", "first values"), rows, left=(0, 1, 5), indent=0))
    if options.runs > 1:
        p10, median, p90 = np.quantile(seconds, (0.1, 0.5, 0.9))
        print(
            f"\n{format_seconds(median)} a call (median of {options.runs}; "
            f"{format_seconds(p10)} to {format_seconds(p90)}), {source.executable.threads} threads"
        )
    return 0


def write_outputs(path: Path, outputs: dict[str, Any]) -> None:
    """Writes arrays to a `.npz` file, or to a folder as a `.npy` file each; those of sequences and maps by `flatten`.

    Raises:
        PackageError: A file cannot be written.
        OptionError: An output is no array that NumPy can write.
    """
    arrays = {
        name: array for output, value in outputs.items() for name, array in flatten(output, value) if array is not None
    }
    for name, value in arrays.items():
        if value.dtype.kind == "O":
            raise OptionError(f"output {name!r} is no array of numbers, so it cannot be written to {str(path)!r}")
    if path.suffix == ".npz":
        # Not numpy.savez, which takes the names as keywords: an output may be called `file`.
        with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, value in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, value, allow_pickle=False)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make the folder {str(path)!r}: {error.strerror}") from error
    for name, value in arrays.items():
        with atomic_file(path / f"{name.replace('/', '_')}.npy") as file:
            np.save(file, value)


def _type(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return "nothing"
    return f"{value.dtype.name}[{', '.join(map(str, value.shape))}]"


def _statistics(value: Any) -> tuple[str, str, str]:
    if not isinstance(value, np.ndarray) or value.dtype.kind in "OUSc" or not value.size:
        return "", "", ""
    wide = value.astype(np.float64)
    return f"{wide.min():.4g}", f"{wide.mean():.4g}", f"{wide.max():.4g}"


def _first(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return ""
    flat: npt.NDArray[Any] = value.reshape(-1)[:_SHOWN]
    shown = " ".join(f"{float(item):.4g}" if _is_float(value) else str(item) for item in flat.tolist())
    return shown + (" …" if value.size > _SHOWN else "")


def _is_float(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind in "fV"


def _facts(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        return {"type": "nothing"}
    low, mean, high = (float(text) if text else None for text in _statistics(value))
    return {"dtype": value.dtype.name, "shape": list(value.shape), "min": low, "mean": mean, "max": high}
