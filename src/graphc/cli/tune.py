"""`graphc tune`: how each kernel of a model is best cut on this machine, by measuring."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphc.cli.common import (
    add_compile_options,
    add_json,
    add_threads,
    compile_options,
    positive,
    print_json,
)
from graphc.cli.feeds import add_inputs, single_feed
from graphc.cli.progress import Progress
from graphc.cli.table import count, table
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values
from graphc.errors import OptionError
from graphc.testing.compare import format_seconds

if TYPE_CHECKING:
    from graphc.testing.tuning import TunedModel

DESCRIPTION = """Measure how each kernel of a model is best cut on this machine, and keep it for every compile to come.

Every alternative runs inside of the model, in turns with the model as the cost model cuts it, and its answers must be
the same. What is faster is measured once more before it is kept. Nothing else should run meanwhile."""

EXAMPLES = """
  graphc tune model.onnx --dim batch=1
  graphc tune *.onnx --rounds 12
  graphc tune model.onnx --output choices.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("models", metavar="MODEL", nargs="+", type=Path, help="ONNX models")
    parser.add_argument("--rounds", type=positive, default=8, metavar="N", help="of each comparison (default: 8)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="add to this file instead of the one that compiles read"
    )
    add_inputs(parser)
    add_threads(parser)
    add_compile_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measures, keeps and shows."""
    if options.target not in (None, "cpu"):
        raise OptionError("tuning measures this machine, so --target has no effect")
    with installed():
        from graphc.backends.tuning import TuningDatabase
        from graphc.backends.tvm.choices import accepts
        from graphc.runtime.folders import tuning_path
        from graphc.target import detect_host
    path = options.output or tuning_path(detect_host().isa)
    results = []
    for model in options.models:
        result = _tune(options, model)
        # Read again each time: another tuning may have written meanwhile, and what is done so far is kept.
        known = TuningDatabase.read(path, accepts)
        others = {key: row for key, row in known.items() if key not in result.measured}
        (TuningDatabase(others) | result.database).write(path)
        results.append(result)
        if not options.json:
            print(_text(model, result))
    if options.json:
        print_json([_json(model, result) for model, result in zip(options.models, results, strict=True)])
    else:
        print(f"kept in {path}")
    return 0


def _tune(options: argparse.Namespace, model: Path) -> TunedModel:
    from graphc.testing.tuning import tune

    inputs, dims = single_feed(options, model, "tuning")
    with Progress() as progress:
        return tune(
            model,
            inputs,
            dims=dims,
            values=compile_values(options),
            threads=options.threads,
            rounds=options.rounds,
            options=replace(compile_options(options, progress), progress=_quiet),
            progress=progress,
        )


def _quiet(what: str, done: int, total: int) -> None:
    """The many compiles of a tuning are not shown one by one."""


def _text(model: Path, result: TunedModel) -> str:
    head = (
        f"{model.stem}: {format_seconds(result.before)} a call before, {format_seconds(result.after)} after "
        f"({result.before / result.after:.2f}x); {count(len(result.measured), 'region')} measured, "
        f"{len(result.database)} cut differently"
    )
    if result.rejected:
        head += f"; {count(result.rejected, 'alternative')} left out, whose answers were others"
    rows = sorted(
        ((row.what, _choice(row.choice), f"{row.gain:.2f}x") for row in result.database.values()),
        key=lambda row: -float(row[2][:-1]),
    )
    return f"{head}\n\n{table(('region', 'choice', 'faster'), rows, left=(0, 1))}\n" if rows else head


def _choice(choice: object) -> str:
    assert isinstance(choice, dict)
    return " ".join(f"{name}={'x'.join(map(str, v)) if isinstance(v, list) else v}" for name, v in choice.items())


def _json(model: Path, result: TunedModel) -> dict[str, object]:
    return {
        "model": model.stem,
        "before": result.before,
        "after": result.after,
        "measured": len(result.measured),
        "rejected": result.rejected,
        "regions": [vars(row) for row in result.database.values()],
    }
