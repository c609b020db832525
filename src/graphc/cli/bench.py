"""`graphc bench`: models beside other engines, in turns within one process."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphc
from graphc.cli.common import (
    Dims,
    add_compile_options,
    add_json,
    add_threads,
    comma_list,
    compile_options,
    parse_dims,
    positive,
    print_json,
)
from graphc.cli.feeds import Given, add_inputs, parse_inputs
from graphc.cli.progress import Progress
from graphc.cli.table import size, table
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values, parse_values, value_arrays
from graphc.errors import InputError, OptionError, ToolchainError
from graphc.package import TensorSpec
from graphc.testing.compare import format_seconds

if TYPE_CHECKING:
    from graphc.testing.benchmark import Benchmark

DESCRIPTION = """Compile models and time them beside other engines, on the same inputs.

Engines run in turns, with an idle gap before each turn; what is shown is the median of the ratios within each round,
with the 10th and the 90th percentile. Outputs are compared in the same run. Exits with 1 where they differ.

--zoo times the model zoo of graphc's repository instead, whole or the models named; `python -m bench --help` there
has further options."""

EXAMPLES = """
  graphc bench model.onnx --dim batch=1
  graphc bench *.onnx --against onnxruntime,openvino --threads 1 --json
  graphc bench --zoo --against onnxruntime,openvino
  graphc bench --zoo resnet50_dynb minilm_l6_dyn --batch 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("models", metavar="MODEL", nargs="*", type=Path, help="ONNX models; with --zoo, names")
    parser.add_argument("--zoo", action="store_true", help="time the model zoo, from a checkout of graphc")
    parser.add_argument(
        "--batch", type=positive, metavar="N", help="with --zoo: items a call, for models that take several"
    )
    parser.add_argument(
        "--against",
        type=comma_list,
        default=["onnxruntime"],
        metavar="ENGINES",
        help="onnxruntime, openvino, torch, by commas (default: onnxruntime)",
    )
    parser.add_argument("--rounds", type=positive, default=15, metavar="N", help="(default: %(default)s)")
    add_inputs(parser)
    add_threads(parser)
    add_compile_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and shows; 1 where outputs differ."""
    if options.zoo:
        return _zoo(options)
    if not options.models or options.batch is not None:
        raise OptionError("no model was named" if not options.models else "--batch goes with --zoo; use --dim")
    if options.target not in (None, "cpu"):
        raise OptionError("a benchmark runs on this machine, so --target has no effect")
    results = [_measure(options, model) for model in options.models]
    if options.json:
        print_json([result.to_json() for result in results])
    else:
        print("\n\n".join(_text(result) for result in results))
    return 0 if all(result.agrees for result in results) else 1


def _zoo(options: argparse.Namespace) -> int:
    """The zoo's own command: it is part of the repository, not of the installed package."""
    root = Path(graphc.__file__).resolve().parents[2]
    if not (root / "bench" / "zoo").is_dir():
        raise ToolchainError("the model zoo is not installed", hint="clone graphc and run `make bench` there")
    command = [*(str(name) for name in options.models), "--against", ",".join(options.against)]
    command += ["--rounds", str(options.rounds)]
    for name in ("threads", "batch"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        output = Path(folder) / "zoo.json"
        done = subprocess.run(
            [sys.executable, "-m", "bench", *command, "--output", str(output)],
            cwd=root,
            check=False,
            stdout=subprocess.DEVNULL if options.json else None,
        )
        if options.json and output.exists():
            print(output.read_text(), end="")
    return done.returncode


def _measure(options: argparse.Namespace, model: Path) -> Benchmark:
    with installed():
        from graphc.testing.benchmark import benchmark
    given = parse_inputs(options.inputs)
    dims = parse_dims(options.dims)
    for name, extents in dims.items():
        if isinstance(extents, list):
            raise OptionError(f"--dim {name}: a benchmark is of one shape; give one extent")
    values = parse_values(options.values)
    for name, several in values.items():
        if len(several) > 1:
            raise OptionError(f"--value {name}: a benchmark is of one value; give one")
    given.arrays.update(value_arrays(values, _specs(model)) if values else {})
    dims |= {name: array.shape for name, array in given.arrays.items()}
    with Progress() as progress:
        chosen = compile_options(options, progress)
        return benchmark(
            model,
            _inputs(given, options.seed, model, dims),
            dims=dims,
            against=options.against,
            threads=options.threads,
            rounds=options.rounds,
            progress=partial(progress, f"timing {model.stem}"),
            options={"values": compile_values(options), **{field: getattr(chosen, field) for field in _FIELDS}},
        )


_FIELDS = ("level", "passes", "winograd", "specializations", "require_compiled", "cache", "jobs", "progress")


def _specs(model: Path) -> list[TensorSpec]:
    """The model's inputs that are tensors of known rank."""
    from graphc.frontend import import_model
    from graphc.ir import TensorType

    kinds = [(value.name, value.type) for value in import_model(model).inputs]
    return [
        TensorSpec(name, kind.dtype.name, tuple(dim if isinstance(dim, int) else str(dim) for dim in kind.shape or ()))
        for name, kind in kinds
        if isinstance(kind, TensorType)
    ]


def _inputs(given: Given, seed: int, model: Path, dims: Dims) -> dict[str, Any]:
    """Inputs for the model with its dimensions bound: those given, and seeded ones."""
    from graphc.frontend import import_model
    from graphc.ir import TensorType
    from graphc.testing.inputs import index_ranges, seeded_inputs

    graph = import_model(model, dims=dims)
    specs, shapes = [], []
    for value in graph.inputs:
        kind = value.type
        if value.name in given.arrays:
            continue
        if not isinstance(kind, TensorType) or not kind.is_static:
            symbols = sorted(kind.symbols()) if isinstance(kind, TensorType) else []
            raise InputError(
                f"{model.name}: nothing says what shape input {value.name!r} ({kind}) has",
                hint=" ".join(f"--dim {name}=N" for name in symbols) or f"give it with --input {value.name}=file.npy",
            )
        shapes.append(kind.static_shape)
        specs.append(TensorSpec(value.name, kind.dtype.name, kind.static_shape))
    drawn = seeded_inputs(specs, shapes, seed=seed, ranges={**index_ranges(graph), **given.ranges})
    return {value.name: {**drawn, **given.arrays}[value.name] for value in graph.inputs}


def _text(result: Benchmark) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    rows = [
        (name, format_seconds(seconds), size(result.package_bytes) if name == "graphc" else "")
        for name, seconds in result.load_seconds.items()
    ]
    loads = table(("", "load", "package"), rows)
    return (
        f"{result.model}: {versions}; {result.threads} threads\n\n{result.table()}\n\n{loads}\n\n"
        f"  compiled in {result.compile_seconds:.1f} s; {size(result.arena_bytes)} for intermediate values"
    )
