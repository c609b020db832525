"""`graphc fuzz`: what graphc does with models that no one has written."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.common import add_json, comma_list, natural, positive, print_json
from graphc.cli.progress import Progress
from graphc.cli.table import count, shorten, table
from graphc.cli.toolchain import installed
from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.testing.fuzzing import Failure, FuzzReport
    from graphc.testing.hostile import Campaign

DESCRIPTION = """Models that no one has written.

`models`, the default, makes random valid models that reach every rewrite rule and every operator on every dtype, some
with If, Loop and Scan, some with extents left open, some with NaN, infinities and ties where there is one right answer.
It holds what each backend computes against what the models mean: `cpu` runs the kernels for this machine, `reference`
the graph in NumPy after all passes, those for CPUs and those for GPUs, `onnxruntime` gives a second opinion on the
meaning. It ends with what was reached and what was not. A model that fails is made small; --keep writes it with its
inputs.

`import` damages models at random, in bytes, fields, names, extents, nesting and files beside the model. Each must be
compiled, in a process with 5 s and 2 GiB, or be refused with an error that says why.

`replay` tries models that --keep wrote again.

Everything runs in processes of its own: a crash or a hang is a finding too. Exits with 1 where there is one."""

EXAMPLES = """
  graphc fuzz --minutes 60 --backends cpu,reference --keep findings
  graphc fuzz --seed 4711 --count 1                    the model of one seed again
  graphc fuzz --only Conv,fold_batch_norm --minutes 5  models about some operators and rules
  graphc fuzz replay findings                          models that were kept
  graphc fuzz import --minutes 5
  graphc fuzz import model.onnx --count 1000 --seed 7 --keep findings
"""

_SHOWN = 24
"""Wishes that were not reached that the text lists; --json has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "action", nargs="?", choices=("models", "import", "replay"), default="models", help="(default: %(default)s)"
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        type=Path,
        help="models to damage (default: the ONNX backend suite's), or models and folders to replay",
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="how long (default: 1, or as --count says)")
    parser.add_argument("--count", type=positive, metavar="N", help="models to try")
    parser.add_argument(
        "--seed", type=natural, default=0, metavar="N", help="of the first model (default: %(default)s)"
    )
    parser.add_argument(
        "--backends", type=comma_list, metavar="NAMES", help="cpu, reference, onnxruntime (default: cpu,reference)"
    )
    parser.add_argument("--only", type=comma_list, metavar="NAMES", help="operators and rules to reach (default: all)")
    parser.add_argument("--nodes", type=natural, metavar="N", help="most random nodes beside what is to be reached")
    parser.add_argument("--jobs", type=positive, metavar="N", help="models at once (default: all processors)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to put findings, made small")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Tries models; 1 where there is a finding."""
    _check(options)
    if options.action == "replay":
        return _replay(options)
    with installed():
        from graphc.testing.isolation import default_workers
    minutes = 1.0 if options.minutes is None and options.count is None else options.minutes
    with Progress() as progress:
        progress("reading models", 0, 1)
        common: dict[str, Any] = {
            "seed": options.seed,
            "seconds": None if minutes is None else 60 * minutes,
            "count": options.count,
            "workers": options.jobs or default_workers(),
            "keep": options.keep,
            "progress": progress,
        }
        if options.action == "import":
            with installed():
                from graphc.testing.hostile import fuzz_import
            campaign = fuzz_import(_models(options.models), **common)
            facts, text, found = campaign.to_json(), _import_text(campaign, options.keep), bool(campaign.findings)
        else:
            with installed():
                from graphc.testing.fuzzing import chosen_wishes, fuzz_models
            if options.nodes is not None:
                common["max_nodes"] = options.nodes
            wishes = chosen_wishes(options.only or ())
            report = fuzz_models(wishes=wishes, backends=_backends(options), **common)
            facts, text, found = report.to_json(), _text(report, options), bool(report.failures)
    if options.json:
        print_json(facts)
    else:
        print(text)
    return 1 if found else 0


def _check(options: argparse.Namespace) -> None:
    if options.minutes is not None and options.minutes <= 0:
        raise OptionError(f"--minutes {options.minutes:g}: expected a positive number")
    takes = {"models": ("backends", "only", "nodes"), "import": (), "replay": ("backends",)}[options.action]
    for name in ("backends", "only", "nodes"):
        if getattr(options, name) is not None and name not in takes:
            raise OptionError(f"--{name} says nothing to `graphc fuzz {options.action}`", hint="see graphc fuzz --help")
    if options.models and options.action == "models":
        raise OptionError(
            f"random models start from no model, and {str(options.models[0])!r} was given",
            hint="`graphc fuzz import MODEL` damages it, `graphc fuzz replay MODEL` tries what --keep wrote",
        )
    if options.action == "replay" and not options.models:
        raise OptionError("nothing to replay", hint="name the folder that --keep wrote to")


def _backends(options: argparse.Namespace) -> list[str]:
    return options.backends if options.backends is not None else ["cpu", "reference"]


def _replay(options: argparse.Namespace) -> int:
    with installed():
        from graphc.testing.fuzzing import replay
        from graphc.testing.isolation import default_workers
    workers = options.jobs or default_workers()
    results = list(replay(options.models, backends=_backends(options), workers=workers))
    failed = [(path, outcome) for path, outcome in results if outcome.status != "done"]
    if options.json:
        print_json(
            [{"file": str(path), "status": outcome.status, "detail": outcome.detail} for path, outcome in results]
        )
    else:
        for path, outcome in failed:
            print(f"{os.fspath(path)}: {outcome.status}: {outcome.detail}\n")
        print(f"{count(len(results), 'model')}, {count(len(failed), 'finding') if failed else 'no finding'}")
    return 1 if failed else 0


def _models(paths: list[Path]) -> list[bytes]:
    if not paths:
        from graphc.testing.hostile import suite_models

        return suite_models()
    from graphc.frontend.source import open_view
    from graphc.testing.hostile.wiretree import parse

    models = []
    for path in paths:
        models.append(bytes(open_view(path)))
        try:
            parse(models[-1])
        except (ValueError, RecursionError) as error:
            raise OptionError(f"{os.fspath(path)!r} is no valid model to begin with: {error}") from error
    return models


def _import_text(campaign: Campaign, folder: Path | None) -> str:
    lines = _outcomes(campaign.outcomes.most_common(), campaign.tried, len(campaign.findings))
    for finding in campaign.findings:
        where = f"kept in {folder / finding.file_name}" if folder is not None else "--keep FOLDER keeps it"
        lines.append(f"  seed {finding.seed}: {finding.status}: {finding.detail}\n    {where}")
    return "\n".join(lines)


def _outcomes(outcomes: list[tuple[str, int]], tried: int, found: int) -> list[str]:
    return [
        table(("outcome", "models"), [(outcome, str(number)) for outcome, number in outcomes], indent=0),
        "",
        f"{count(tried, 'model')}, {count(found, 'finding') if found else 'no finding'}",
    ]


def _text(report: FuzzReport, options: argparse.Namespace) -> str:
    coverage = report.coverage
    lines = _outcomes(report.outcomes.most_common(), report.tried, len(report.failures))
    for kind, what in (("rule", "rules applied"), ("operator", "operators by dtype")):
        reached, total = coverage.tally(kind)
        if total:
            lines.append(f"{what}: {reached} of {total}")
    lines.append(f"compiled: {len(coverage.compiled)}, on the host: {len(coverage.host.keys() - coverage.compiled)}")
    if coverage.kinds:
        lines.append("models with " + ", ".join(f"{kind}: {times}" for kind, times in coverage.kinds.most_common()))
    if coverage.missed:
        shown = ", ".join(str(wish) for wish in coverage.missed[:_SHOWN])
        more = len(coverage.missed) - _SHOWN
        lines.append(f"not reached: {shown}{f' and {more} more; --json has all' if more > 0 else ''}")
    for failure in report.failures:
        lines += ["", _failure(failure, options)]
    return "\n".join(lines)


def _failure(failure: Failure, options: argparse.Namespace) -> str:
    again = ["graphc fuzz"]
    if failure.path is not None:
        again.append(f"replay {failure.path}")
    else:
        again.append(f"--seed {failure.seed} --count 1")
        again += [f"--nodes {options.nodes}"] if options.nodes is not None else []
        again += [f"--only {','.join(options.only)}"] if options.only else []
    if options.backends is not None:
        again.append(f"--backends {','.join(options.backends)}")
    nodes = shorten(", ".join(failure.operators) or "no model", 60)
    times = f", {failure.times} times" if failure.times > 1 else ""
    return f"{failure.status} on {nodes}{times}: {failure.detail.rstrip()}\n  again: {' '.join(again)}"
