"""`graphc fuzz`: what graphc does with models that no one has written."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.common import add_json, natural, positive, print_json
from graphc.cli.progress import Progress
from graphc.cli.table import count, table
from graphc.cli.toolchain import installed
from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.testing.hostile import Campaign

DESCRIPTION = """Models that no one has written.

`import` damages models at random, in bytes, fields, names, extents, nesting and files beside the model. Each must be
compiled, in a process with 5 s and 2 GiB, or be refused with an error that says why. `models` makes random valid models
of a hundred operators, compiles them for this machine and compares the results with those of ONNX Runtime.

Anything else (a crash, a hang, an exception of a library below, another result) is a finding. Exits with 1 where there
is one."""

EXAMPLES = """
  graphc fuzz import --minutes 5
  graphc fuzz import model.onnx --count 1000 --seed 7 --keep findings
  graphc fuzz models --count 500 --nodes 30
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    actions = parser.add_subparsers(dest="action", metavar="import|models", required=True)
    importing = actions.add_parser("import", help="damaged models, to be refused or compiled")
    importing.add_argument(
        "models", nargs="*", metavar="MODEL", type=Path, help="models to damage (default: the ONNX backend suite's)"
    )
    comparing = actions.add_parser("models", help="random valid models, beside ONNX Runtime")
    comparing.add_argument("--nodes", type=positive, default=15, metavar="N", help="most nodes (default: %(default)s)")
    for action in (importing, comparing):
        action.add_argument("--minutes", type=float, metavar="N", help="how long (default: 1, or as --count says)")
        action.add_argument("--count", type=positive, metavar="N", help="models to try")
        action.add_argument("--seed", type=natural, default=0, metavar="N", help="other models (default: %(default)s)")
        action.add_argument("--jobs", type=positive, metavar="N", help="models at once (default: all processors)")
        action.add_argument("--keep", type=Path, metavar="FOLDER", help="where to put findings, made small")
        add_json(action)


def run(options: argparse.Namespace) -> int:
    """Tries models; 1 where there is a finding."""
    with installed():
        from graphc.testing.hostile import fuzz_import
        from graphc.testing.isolation import default_workers
        from graphc.testing.random_models import fuzz_models
    if options.minutes is not None and options.minutes <= 0:
        raise OptionError(f"--minutes {options.minutes:g}: expected a positive number")
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
            campaign = fuzz_import(_models(options.models), **common)
        else:
            campaign = fuzz_models(max_nodes=options.nodes, **common)
    if options.json:
        print_json(campaign.to_json())
    else:
        print(_text(campaign, options.keep))
    return 1 if campaign.findings else 0


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


def _text(campaign: Campaign, folder: Path | None) -> str:
    rows = [(outcome, str(number)) for outcome, number in campaign.outcomes.most_common()]
    found = len(campaign.findings)
    lines = [
        table(("outcome", "models"), rows, indent=0),
        "",
        f"{count(campaign.tried, 'model')}, {count(found, 'finding') if found else 'no finding'}",
    ]
    for finding in campaign.findings:
        where = f"kept in {folder / finding.file_name}" if folder is not None else "--keep FOLDER keeps it"
        lines.append(f"  seed {finding.seed}: {finding.status}: {finding.detail}\n    {where}")
    return "\n".join(lines)
