"""`graphc conformance`: the ONNX backend suite on graphc, with ONNX Runtime beside it."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from graphc.cli.common import add_json, comma_list, positive, print_json
from graphc.cli.progress import Progress
from graphc.cli.table import count, table
from graphc.cli.toolchain import installed
from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.testing.conformance import Summary

DESCRIPTION = """Run the cases of the ONNX backend suite that the installed onnx package holds: models that no one here
wrote, with the outputs that are expected of them. Each runs in a process of its own, where it may crash or hang.

A case passes compiled, or with host steps, which are nodes that run in NumPy. Excluded are cases that no one can pass;
--reasons lists them. Exits with 1 where a case fails."""

EXAMPLES = """
  graphc conformance --against onnxruntime
  graphc conformance resize 'node/test_attention_*'        cases by a part of their name, or by a pattern
  graphc conformance --kind simple --backend reference     every node in NumPy
  graphc conformance --target cpu:x86-64-v3 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("names", nargs="*", metavar="CASE", help="part of a case's name, or a pattern (default: all)")
    parser.add_argument("--kind", action="append", default=[], metavar="KIND", help="node, real, simple, pytorch-…")
    parser.add_argument("--backend", default="tvm", metavar="NAME", help="tvm or reference (default: %(default)s)")
    parser.add_argument("--target", default="cpu", metavar="NAME", help="machine to compile for (default: %(default)s)")
    parser.add_argument("--against", type=comma_list, default=[], metavar="ENGINE", help="onnxruntime")
    parser.add_argument("--jobs", type=positive, metavar="N", help="cases at once (default: all processors)")
    parser.add_argument("--seconds", type=positive, default=60, metavar="N", help="limit of a case (default: 60)")
    parser.add_argument("--reasons", action="store_true", help="list host steps and exclusions too")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the table; 1 where a case fails."""
    with installed():
        from graphc.testing.conformance import KINDS, choose, run_suite
        from graphc.testing.isolation import default_workers
    for kind in options.kind:
        if kind not in KINDS:
            raise OptionError(f"there is no kind {kind!r} of cases", hint=f"there are: {', '.join(KINDS)}")
    with Progress() as progress:
        progress("reading the suite", 0, 1)
        cases = choose(options.names, options.kind)
        summary = run_suite(
            cases,
            backend=options.backend,
            options={"target": options.target},
            against=options.against,
            workers=options.jobs or default_workers(),
            seconds=options.seconds,
            progress=progress,
        )
    if options.json:
        print_json(summary.to_json())
    else:
        print(_text(summary, reasons=options.reasons))
    return 0 if summary.ok else 1


def _text(summary: Summary, *, reasons: bool) -> str:
    heads = ["operator", "cases", "compiled", "host steps", "excluded", "failed"]
    keys = ["cases", "compiled", "host", "excluded", "failed"]
    if summary.peer:
        heads.append("onnxruntime")
        keys.append("onnxruntime")
    rows = [
        (operator, *(str(row[key]) if row[key] or key == "cases" else "" for key in keys))
        for operator, row in summary.by_operator().items()
    ]
    parts = [table(heads, rows, indent=0), "", *_totals(summary)]
    listed = [("failed", summary.failed)]
    if reasons:
        listed += [(name, [r for r in summary.results if r.standing == name]) for name in ("excluded", "host")]
    for title, results in listed:
        if results:
            parts += ["", {"host": "with host steps"}.get(title, title)]
        for result in results:
            what = result.problem or ", ".join(result.host)
            parts.append(f"  {result.name}: {textwrap.shorten(f'{result.failure} {what}', 200)}")
    return "\n".join(parts)


def _totals(summary: Summary) -> list[str]:
    totals = summary.totals()
    compiled, numeric = summary.numeric()
    lines = [
        f"{count(totals['cases'], 'case')}: {totals['compiled']} passed compiled, {totals['host']} with host steps, "
        f"{totals['excluded']} excluded, {totals['failed']} failed "
        f"({totals['crashed']} crashed, {totals['timeout']} took too long)",
        f"numbers alone: {compiled} of {numeric} passed without a host step"
        + (f", {100 * compiled / numeric:.1f} %" if numeric else ""),
    ]
    if summary.peer:
        theirs = summary.peer_totals()
        lines.append(
            f"onnxruntime: {theirs['passed']} passed, {theirs['failed']} failed, {theirs['crashed']} crashed, "
            f"{theirs['timeout']} took too long"
        )
    return lines
