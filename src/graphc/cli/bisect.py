"""`graphc bisect`: from a wrong answer to the pass, the rule and the rewrite, or the kernel, that caused it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.common import (
    add_dims,
    add_json,
    add_model,
    add_plugins,
    add_threads,
    add_values,
    positive,
    positive_number,
    print_json,
)
from graphc.cli.feeds import add_inputs, single_feed
from graphc.cli.progress import Progress
from graphc.cli.table import count
from graphc.cli.toolchain import installed
from graphc.errors import ExecutionError, OptionError

if TYPE_CHECKING:
    from graphc.testing.bisection import Blame, Case, Finding

DESCRIPTION = """Find out what makes a model's answer wrong, or its compile or run fail, crash or hang.

The model is looked at in the order of a compile, each stage alone: what its operators mean in NumPy beside ONNX Runtime
(--against onnxruntime), the graph behind each pass, the compiled code step by step. The first stage that makes right
into wrong is to blame: an operator, a pass and the one rewrite of it, a kernel with its region, the memory plan or the
cache. Each look happens in a process of its own, so that a crash or a hang is a finding too.

Then the model is made small: nodes, extents, attributes and numbers go while the same stage still fails. What is left
is written to a folder with its inputs, plugins and pipeline. `graphc bisect FOLDER` looks at it again, and exits with 1
while the failure is there. Ctrl-C ends the search for a smaller model; the smallest so far is kept."""

EXAMPLES = """
  graphc bisect model.onnx --dim batch=1
  graphc bisect model.onnx --input x=image.npy --against onnxruntime -o found
  graphc bisect model.onnx --plugin my_rules.py --passes "fold,my_rules,dce" --no-reduce
  graphc bisect found
"""

_STAGES = {
    "meaning": "what the operator means",
    "pass": "the pass",
    "compile": "lowering and compiling",
    "kernel": "the kernel",
    "plan": "the memory plan",
    "cache": "a kernel in the cache",
    "run": "running the package, all of its steps alone being right",
}
_SEEN = {
    "wrong": "a wrong answer",
    "error": "an error",
    "crash": "a crash",
    "hang": "no end",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_model(parser, "model_or_folder", "an ONNX model, or a folder that bisect wrote, to be looked at again")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="what to write (default: MODEL-bisect)")
    parser.add_argument(
        "--against",
        default="reference",
        metavar="ENGINE",
        help="who is right: reference (the model in NumPy, the default) or onnxruntime",
    )
    parser.add_argument("--scale", type=float, metavar="X", help="allowed difference, of the largest magnitude")
    parser.add_argument("--rtol", type=float, metavar="X", help="elementwise instead: |difference| ≤ atol + rtol·|y|")
    parser.add_argument("--atol", type=float, metavar="X", help="the absolute part of it")
    parser.add_argument("--no-reduce", action="store_true", help="name the cause alone; write the model as it is")
    parser.add_argument(
        "--attempts", type=positive, default=1000, metavar="N", help="smaller models to try (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=positive_number, metavar="N", help="how long to look for a smaller model")
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=120.0,
        metavar="N",
        help="processor time of one look, after which it hangs (default: %(default)g)",
    )
    add_inputs(parser)
    add_threads(parser)
    group = parser.add_argument_group("compilation")
    group.add_argument("--target", default="cpu", metavar="NAME", help="what to compile for; it must run here")
    add_dims(group)
    add_values(group)
    group.add_argument("-O", dest="level", choices=("0", "1", "2", "3"), default="2", metavar="LEVEL", help="0 to 3")
    group.add_argument("--passes", metavar="PASSES", help="a pipeline in place of the level's")
    group.add_argument("--no-winograd", action="store_true", help="3x3 convolutions without Winograd's transform")
    group.add_argument(
        "--precision", default="fp32", metavar="TYPE", help="what floats are computed in (default: fp32)"
    )
    group.add_argument("--no-tuning", action="store_true", help="cut kernels by the cost model alone")
    group.add_argument("--no-cache", action="store_true", help="compile every kernel anew")
    add_plugins(group)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Bisects, or looks again; 1 where something is wrong."""
    with installed():
        from graphc.testing.bisection import Runner, bisect, read_bundle, write_bundle
    if options.model.is_dir():
        case, was = read_bundle(options.model)
        with Runner(seconds=options.seconds) as runner:
            found = runner.examine(case)
        _print_replay(found, was, json=options.json)
        return 1 if found.is_bad else 0
    case = _case(options)
    with Progress() as progress:
        blame = bisect(
            case,
            seconds=options.seconds,
            small=not options.no_reduce,
            attempts=options.attempts,
            budget=None if options.minutes is None else 60 * options.minutes,
            progress=progress,
        )
    if blame.finding.status == "unfit":
        raise ExecutionError(
            f"the model says nothing: {blame.finding.detail}",
            nodes=blame.finding.origins,
            hint="--against names another engine; --input gives inputs that the model runs on",
        )
    folder = None
    if blame.finding.is_bad:
        folder = write_bundle(options.output or Path(f"{options.model.stem}-bisect"), case, blame)
    if options.json:
        print_json(_json(blame, folder))
    else:
        print(_text(options.model.name, case, blame, folder))
    return 1 if blame.finding.is_bad else 0


def _case(options: argparse.Namespace) -> Case:
    from graphc.compiler import load_plugins
    from graphc.testing.bisection import Case, Setup
    from graphc.testing.verification import SCALE, Tolerance

    load_plugins(options.plugins)
    given = (options.scale, options.rtol, options.atol)
    tolerance = None
    if any(value is not None for value in given):
        tolerance = Tolerance(SCALE if options.scale is None else options.scale, options.rtol, options.atol)
    setup = Setup(
        passes=options.passes,
        level=f"O{options.level}",
        target=options.target,
        against=options.against,
        tolerance=tolerance,
        plugins=tuple(str(plugin.resolve()) for plugin in options.plugins),
        winograd=not options.no_winograd,
        precision=options.precision,
        tuning=not options.no_tuning,
        threads=options.threads or 1,
        cached=not options.no_cache,
    )
    if not options.model.is_file():
        raise OptionError(f"there is no model and no folder {str(options.model)!r}")
    inputs, _ = single_feed(options, options.model, "a bisection")
    return Case(str(options.model), inputs, setup)


def _print_replay(found: Finding, was: Finding, *, json: bool) -> None:
    if json:
        print_json({"ok": not found.is_bad, "finding": vars(found), "same": found.is_like(was)})
    elif not found.is_bad:
        print(f"it is gone: {_SEEN[was.status]} of {_blamed(was)}" + (f" ({found.detail})" if found.detail else ""))
    else:
        same = "it is still there" if found.is_like(was) else f"another one, it was {_blamed(was)}"
        print(f"{same}: {_SEEN[found.status]}, {_blamed(found)}\n  {found.detail}")


def _blamed(finding: Finding) -> str:
    return f"{_STAGES[finding.stage]} {finding.name}".rstrip()


def _text(name: str, case: Case, blame: Blame, folder: Path | None) -> str:
    finding, culprit, reduced = blame.finding, blame.culprit, blame.reduced
    if not finding.is_bad:
        return f"{name}: right, beside {case.setup.against}, from the model's meaning to the compiled code"
    lines = [f"{name}: {_SEEN[finding.status]}, beside {case.setup.against}", f"  {finding.detail}", ""]
    lines.append(f"to blame: {_blamed(finding)}")
    origins = finding.origins
    if finding.stage == "pass":
        lines[-1] += f", number {finding.position + 1} of the pipeline"
    if culprit is not None:
        lines.append(f"  rewrite {culprit.number} of {culprit.total}: {culprit.rule} at {culprit.node}")
        origins = culprit.origins
    if origins:
        lines.append(f"  from {', '.join(repr(origin) for origin in origins)}")
    if culprit is not None and culprit.difference:
        lines += ["", *(f"  {line}" for line in culprit.difference.splitlines())]
    if finding.region:
        lines += ["", *(f"  {line}" for line in finding.region.splitlines())]
    if reduced is not None:
        shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in reduced.inputs.items())
        lines += [
            "",
            f"smallest model found: {count(reduced.nodes, 'node')} of {reduced.nodes_before}, inputs {shapes or 'none'}"
            f" ({reduced.attempts} tried{'' if reduced.complete else ', not finished'})",
        ]
    lines += ["", f"kept in {folder}; to look again: graphc bisect {folder}"]
    return "\n".join(lines)


def _json(blame: Blame, folder: Path | None) -> dict[str, Any]:
    reduced = blame.reduced
    return {
        "ok": not blame.finding.is_bad,
        "finding": vars(blame.finding),
        "culprit": None if blame.culprit is None else vars(blame.culprit),
        "reduced": None
        if reduced is None
        else {
            "nodes": reduced.nodes,
            "nodes_before": reduced.nodes_before,
            "inputs": {name: list(array.shape) for name, array in reduced.inputs.items()},
            "attempts": reduced.attempts,
            "complete": reduced.complete,
        },
        "folder": None if folder is None else str(folder),
    }
