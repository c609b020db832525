"""`graphc tune`: how each kernel of a model is best cut on this machine, by measuring."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
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
    from graphc.backends.tuning import TuningDatabase
    from graphc.target import AnyTarget
    from graphc.testing.triton.compiled_choices import CheckedModel
    from graphc.testing.tuning import TunedModel

DESCRIPTION = """Measure how each kernel of a model is best cut on this machine, and keep it for every compile to come.

Every alternative runs inside of the model, in turns with the model as the cost model cuts it, and its answers must be
the same. What is faster is measured once more before it is kept. Nothing else should run meanwhile.

With --target cuda the kernels of this machine's GPU are measured. For a GPU that is elsewhere they are compiled: where
the code of the cost model's choice spills registers, the next best whose code does not is kept."""

EXAMPLES = """
  graphc tune model.onnx --dim batch=1
  graphc tune *.onnx --rounds 12
  graphc tune model.onnx --output choices.json
  graphc tune model.onnx --target cuda --precision fp16
  graphc tune model.onnx --target cuda:sm_90
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


@dataclass(frozen=True)
class _Outcome:
    """What to keep of one model, what it stands in the place of, and what to say."""

    database: TuningDatabase
    covered: frozenset[str]
    text: str
    data: dict[str, object]


def run(options: argparse.Namespace) -> int:
    """Measures, keeps and shows."""
    with installed():
        from graphc.backends.tuning import TuningDatabase
        from graphc.compiler.targets import gpus_here, targets_of
        from graphc.compiler.tuned import choices_of
        from graphc.runtime.folders import tuning_path
    targets = targets_of(options.target or "cpu")
    if any(target.kind == "cpu" for target in targets) and options.target not in (None, "cpu"):
        raise OptionError("tuning measures this machine's CPU, so another --target has no effect")
    here = set(gpus_here()) if targets[0].kind == "cuda" else {targets[0].name}
    results: list[dict[str, object]] = []
    for target in targets:
        path = options.output or tuning_path(target.isa)
        accepts = choices_of(target).accepts
        for model in options.models:
            outcome = _tune(options, model, target) if target.name in here else _check(options, model, target)
            # Read again each time: another tuning may have written meanwhile, and what is done so far is kept.
            known = TuningDatabase.read(path, accepts)
            others = {key: row for key, row in known.items() if key not in outcome.covered}
            (TuningDatabase(others) | outcome.database).write(path)
            results.append({"model": model.stem, "target": target.name, **outcome.data})
            if not options.json:
                print(f"{model.stem}: {outcome.text}")
        if not options.json:
            print(f"kept in {path}")
    if options.json:
        print_json(results)
    return 0


def _tune(options: argparse.Namespace, model: Path, target: AnyTarget) -> _Outcome:
    from graphc.testing.tuning import tune

    inputs, dims = single_feed(options, model, "tuning")
    with Progress() as progress:
        result = tune(
            model,
            inputs,
            target=target.name if target.kind == "cuda" else "cpu",
            dims=dims,
            values=compile_values(options),
            threads=options.threads,
            rounds=options.rounds,
            options=replace(compile_options(options, progress), progress=_quiet),
            progress=progress,
        )
    return _Outcome(result.database, result.measured, _measured_text(result), _measured_json(result))


def _check(options: argparse.Namespace, model: Path, target: AnyTarget) -> _Outcome:
    from graphc.testing.triton.compiled_choices import check_choices

    _, dims = single_feed(options, model, "tuning")
    with Progress() as progress:
        result = check_choices(
            model,
            target=target.name,
            dims=dims,
            values=compile_values(options),
            options=replace(compile_options(options, progress), progress=_quiet),
            progress=progress,
        )
    return _Outcome(result.database, result.checked, _checked_text(target, result), _checked_json(result))


def _quiet(what: str, done: int, total: int) -> None:
    """The many compiles of a tuning are not shown one by one."""


def _measured_text(result: TunedModel) -> str:
    head = (
        f"{format_seconds(result.before)} a call before, {format_seconds(result.after)} after "
        f"({result.before / result.after:.2f}x); {count(len(result.measured), 'region')} measured, "
        f"{len(result.database)} cut differently"
    )
    if result.rejected:
        head += f"; {count(result.rejected, 'alternative')} left out, whose answers were others"
    return head + _rows(result.database)


def _checked_text(target: AnyTarget, result: CheckedModel) -> str:
    head = (
        f"{target} is not here, so nothing was measured; {count(result.compiled, 'kernel')} of "
        f"{count(len(result.checked), 'region')} compiled, {len(result.database)} cut differently not to spill"
    )
    if result.spilling:
        head += f"; every choice spills for {', '.join(result.spilling)}"
    return head + _rows(result.database)


def _rows(database: TuningDatabase) -> str:
    rows = sorted(
        ((row.what, _choice(row.choice), f"{row.gain:.2f}x") for row in database.values()),
        key=lambda row: -float(row[2][:-1]),
    )
    return f"\n\n{table(('region', 'choice', 'faster'), rows, left=(0, 1))}\n" if rows else ""


def _choice(choice: object) -> str:
    assert isinstance(choice, dict)
    return " ".join(f"{name}={'x'.join(map(str, v)) if isinstance(v, list) else v}" for name, v in choice.items())


def _measured_json(result: TunedModel) -> dict[str, object]:
    return {
        "before": result.before,
        "after": result.after,
        "measured": len(result.measured),
        "rejected": result.rejected,
        "regions": [vars(row) for row in result.database.values()],
    }


def _checked_json(result: CheckedModel) -> dict[str, object]:
    return {
        "checked": len(result.checked),
        "compiled": result.compiled,
        "spilling": list(result.spilling),
        "regions": [vars(row) for row in result.database.values()],
    }
