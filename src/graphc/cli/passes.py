"""`graphc passes`: the passes there are, their options, and the pipelines made of them."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from graphc.cli.common import add_json, add_plugins, print_json
from graphc.cli.table import table
from graphc.cli.toolchain import installed
from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.passes import Pass

DESCRIPTION = """List the passes that a pipeline can name, with their options and defaults, and the pipelines of the
optimization levels. With the name of a pass: all that it says of itself, and its rules."""

EXAMPLES = """
  graphc passes
  graphc passes simplify
  graphc passes --plugin my_passes.py --json
"""

_KINDS = {"cpu": "CPUs", "cuda": "GPUs"}
"""Kinds of targets that have pipelines, and what a reader calls them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("name", nargs="?", metavar="PASS", help="show this one in full")
    add_plugins(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Lists them."""
    with installed():
        from graphc.compiler import load_plugins
        from graphc.passes import PASSES, pipeline_table

    load_plugins(options.plugins)
    if options.name is not None and options.name not in PASSES:
        raise OptionError(f"there is no pass {options.name!r}", hint=f"there are: {', '.join(PASSES)}")
    shown = {name: cls for name, cls in sorted(PASSES.items()) if options.name in (None, name)}
    if options.json:
        print_json(
            {
                "passes": [_facts(cls) for cls in shown.values()],
                "pipelines": {kind: pipeline_table(kind) for kind in _KINDS},
            }
        )
    elif options.name is not None:
        print(_in_full(shown[options.name]))
    else:
        rows = [(name, _summary(cls), " ".join(_options(cls))) for name, cls in shown.items()]
        print(table(("pass", "what it does", "options"), rows, left=(0, 1, 2)))
        for kind, machines in _KINDS.items():
            print(f"\n  pipelines for {machines}\n")
            for level, text in pipeline_table(kind).items():
                line = f"-{level}  {text.replace(',', ', ')}"
                print(textwrap.fill(line, 100, initial_indent="  ", subsequent_indent=" " * 7))
    return 0


def _summary(cls: type[Pass]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _options(cls: type[Pass]) -> list[str]:
    """Options with their defaults, as a pipeline writes them."""
    from graphc.passes.base import option_default

    fields = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]  # all are dataclasses
    return [field.name + _default(option_default(field)) for field in fields]


def _default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "=…"
    if isinstance(value, tuple):
        return "=" + "|".join(map(str, value)) if value else "=(none)"
    return f"={str(value).lower() if value is None or isinstance(value, bool) else value}"


def _rules(cls: type[Pass]) -> list[tuple[str, str]]:
    from graphc.passes.rules import RULE_SETS

    rules = RULE_SETS.get(cls.name)
    return [(rule.name, rule.summary) for rule in rules] if rules is not None else []


def _in_full(cls: type[Pass]) -> str:
    parts = [f"{cls.name}{{{' '.join(_options(cls))}}}", textwrap.indent(inspect.getdoc(cls) or "", "  ")]
    rules = _rules(cls)
    if rules:
        parts.append(table(("rule", "what it says"), rules, left=(0, 1)))
    return "\n\n".join(parts)


def _facts(cls: type[Pass]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "summary": _summary(cls),
        "description": inspect.getdoc(cls) or "",
        "options": _options(cls),
        "rules": [{"name": name, "formula": formula} for name, formula in _rules(cls)],
    }
