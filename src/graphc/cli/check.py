"""`graphc check`: everything that stands between a model and its package, at once."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphc.cli.common import Dims, add_compile_options, add_json, add_model, compile_options, parse_dims
from graphc.cli.progress import Progress
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values
from graphc.errors import GraphcError, OptionError, ToolchainError

if TYPE_CHECKING:
    from graphc.compiler.lowering import HostReason
    from graphc.frontend import Problem, Report

DESCRIPTION = """Report everything that graphc cannot compile or run in a model: invalid parts, unknown operators, and
the nodes that would run on the host, in NumPy, for want of a kernel. The passes run, no kernel is compiled.

Exits with 1 where the model does not compile as it is."""

EXAMPLES = """
  graphc check model.onnx
  graphc check model.onnx --dim batch=8 --require-compiled   host steps are problems too
  graphc check model.onnx --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_model(parser)
    add_compile_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the report; 1 where it has problems."""
    with installed():
        from graphc.frontend import check
    dims, values = parse_dims(options.dims), compile_values(options)
    report = check(options.model, dims=_first(dims), decided=values)
    if report.ok and (not report.dynamic_dims or dims or values):
        report = _with_compile(report, options, dims)
    print(json.dumps(json.loads(report.to_json()), indent=2, ensure_ascii=False) if options.json else report)
    failed = not report.ok or (options.require_compiled and report.host_steps)
    return 1 if failed else 0


def _first(dims: Dims) -> dict[str, int | Sequence[int | str | None]]:
    """One binding of those that `--dim` lists; the others differ in extents alone, and are lowered further on."""
    first = {name: given[0] if isinstance(given, list) else given for name, given in dims.items()}
    return {name: given for name, given in first.items() if not isinstance(given, range)}


def _with_compile(report: Report, options: argparse.Namespace, dims: Dims) -> Report:
    """The report, with what the passes and the backend have to say."""
    from graphc.frontend import Problem

    try:
        with installed():
            from graphc.compiler import lower_model
        with Progress() as progress:
            chosen = dataclasses.replace(compile_options(options, progress), require_compiled=False)
            lowered = lower_model(
                options.model,
                target=options.target or "cpu",
                dims=dims,
                values=compile_values(options),
                options=chosen,
            )
    except OptionError:
        raise
    except ToolchainError as error:
        found = [Problem("note", f"host steps are not judged: {error.message}", hint=error.hint or "")]
    except GraphcError as error:
        found = [Problem("error", error.message, nodes=error.nodes, hint=error.hint or "")]
    else:
        hosts = [host for program in lowered.programs for host in program.host]
        # Where values decide, what runs on the host is known only with them.
        judged = not (options.require_compiled and lowered.undecided and chosen.specializations)
        found = _host_problems(hosts, report) if judged else []
        if judged and lowered.programs:
            names = {name for host in hosts for name in host.node.origins}
            uses = [dataclasses.replace(use, host=sum(name in names for name in use.nodes)) for use in report.operators]
            report = dataclasses.replace(report, operators=tuple(uses))
    rank = {"error": 0, "host": 1, "note": 2}
    problems = sorted([*report.problems, *found], key=lambda problem: rank[problem.severity])
    return dataclasses.replace(report, problems=tuple(problems))


def _host_problems(hosts: list[HostReason], report: Report) -> list[Problem]:
    from graphc.frontend import Problem

    groups: dict[tuple[str, str], dict[str, None]] = {}
    for host in hosts:
        nodes = groups.setdefault((host.node.op, host.reason), {})
        nodes.update(dict.fromkeys(host.node.origins or (host.node.describe(),)))
    used = {use.operator: use for use in report.operators}
    problems = []
    for (operator, reason), nodes in groups.items():
        use = used.get(operator)
        opset, dtypes = (use.opset, use.dtypes) if use is not None else (0, ())
        problems.append(Problem("host", reason, operator, opset, dtypes, tuple(nodes), _way_out(reason)))
    return problems


def _way_out(reason: str) -> str:
    """What a user can do about a host step."""
    if "--dim" in reason:
        return "bind the dimension, e.g. --dim NAME=N"
    if "--value" in reason:
        return "give the value, e.g. --value NAME=V, or let each be compiled when it first comes"
    return "it runs as it is; `graphc operators` says for which dtypes the operator is compiled"
