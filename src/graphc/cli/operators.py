"""`graphc operators`: which operators are compiled, which run in NumPy, by dtype."""

from __future__ import annotations

import argparse
import dataclasses
import difflib

from graphc.cli.common import add_json, positive, print_json
from graphc.cli.progress import Progress
from graphc.cli.table import table
from graphc.cli.toolchain import installed
from graphc.errors import OptionError

DESCRIPTION = """Say for every operator of ONNX, or for those named, where it runs on a CPU, by its first input's dtype,
and on a GPU over all dtypes.

● compiled, ◐ compiled for some inputs and attributes, ○ a host step in NumPy, – refused; nothing where ONNX does not
allow the dtype. It is tried out: models of the ONNX backend suite are rewritten to each dtype and lowered."""

EXAMPLES = """
  graphc operators Conv Resize TopK
  graphc operators --markdown > docs/operators.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("names", nargs="*", metavar="OPERATOR", help="operators (default: all)")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/operators.md")
    parser.add_argument("--jobs", type=positive, metavar="N", help="operators at once (default: all processors)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the table."""
    with installed():
        from graphc.testing.isolation import default_workers
        from graphc.testing.operators import GROUPS, cells, gpu_cell, known_operators, markdown, operator_rows
    known = known_operators()
    for name in options.names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise OptionError(f"there is no operator {name!r}", hint=f"did you mean {close[0]!r}?" if close else None)
    with Progress() as progress:
        progress("reading the suite", 0, 1)
        rows = operator_rows(options.names, workers=options.jobs or default_workers(), progress=progress)
    if options.json:
        print_json([dataclasses.asdict(row) for row in rows])
    elif options.markdown:
        print(markdown(rows), end="")
    else:
        shown = [
            (
                f"{row.domain}::{row.name}" if row.domain else row.name,
                *cells(row),
                gpu_cell(row),
                row.places.get("", ""),
            )
            for row in rows
        ]
        print(table(("operator", *GROUPS, "GPU", ""), shown, left=(0, len(GROUPS) + 2), indent=0))
    return 0
