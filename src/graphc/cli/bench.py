"""`graphc bench`: models beside other engines, in turns within one process."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import graphc
from graphc.cli.common import (
    add_compile_options,
    add_json,
    add_threads,
    comma_list,
    compile_options,
    positive,
    print_json,
)
from graphc.cli.feeds import add_inputs, single_feed
from graphc.cli.progress import Progress
from graphc.cli.table import size, table
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values
from graphc.errors import OptionError, ToolchainError
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
    inputs, dims = single_feed(options, model, "a benchmark")
    with Progress() as progress:
        chosen = compile_options(options, progress)
        return benchmark(
            model,
            inputs,
            dims=dims,
            against=options.against,
            threads=options.threads,
            rounds=options.rounds,
            progress=partial(progress, f"timing {model.stem}"),
            options={"values": compile_values(options), **{field: getattr(chosen, field) for field in _FIELDS}},
        )


_FIELDS = (
    "level",
    "passes",
    "winograd",
    "precision",
    "tuning",
    "specializations",
    "require_compiled",
    "cache",
    "jobs",
    "progress",
)


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
