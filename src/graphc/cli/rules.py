"""`graphc rules`: the rewrite rules, and tests of them on random instances of their own patterns."""

from __future__ import annotations

import argparse
import difflib
import os
from typing import TYPE_CHECKING, Any

from graphc.cli.common import add_json, add_plugins, natural, positive, print_json
from graphc.cli.progress import Progress
from graphc.cli.table import count, table
from graphc.cli.toolchain import installed
from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.passes.rules import Rule
    from graphc.testing.rules import RuleReport

DESCRIPTION = """List the rewrite rules, or test them: each is applied to random instances of its own pattern, and the
graphs before and after must be one function. A rule that was never applied fails too."""

EXAMPLES = """
  graphc rules list
  graphc rules test
  graphc rules test transpose_of_transpose identity --examples 500
  graphc rules test --plugin my_rules.py --seed 7
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    actions = parser.add_subparsers(dest="action", metavar="list|test", required=True)
    listing = actions.add_parser("list", help="the rules, by set")
    testing = actions.add_parser("test", help="test rules on random instances of their own patterns")
    for action in (listing, testing):
        action.add_argument("names", nargs="*", metavar="RULE", help="rules or rule sets (default: all)")
        add_plugins(action)
        add_json(action)
    testing.add_argument("--examples", type=positive, default=60, metavar="N", help="instances (default: %(default)s)")
    testing.add_argument("--seed", type=natural, default=0, help="other instances (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Lists or tests; 1 where a rule is wrong or was never applied."""
    with installed():
        from graphc.compiler import default_cache, load_plugins

    load_plugins(options.plugins)
    rules = _chosen(options.names)
    if options.action == "list":
        return _list(rules, options.json)
    # Else Hypothesis makes a folder where the user happens to stand.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(default_cache() / "hypothesis"))
    with installed():
        from graphc.testing.rules import test_rule

    reports: list[tuple[str, RuleReport]] = []
    with Progress() as progress:
        for done, (group, rule) in enumerate(rules):
            progress(f"testing {rule.name[:28]}", done, len(rules))
            reports.append((group, test_rule(rule, examples=options.examples, seed=options.seed)))
    if options.json:
        print_json([_facts(group, report) for group, report in reports])
    else:
        rows = [
            ("ok" if report.ok else "FAILED", group, report.rule, str(report.examples), str(report.fired))
            for group, report in reports
        ]
        print(table(("", "set", "rule", "instances", "applied"), rows, left=(0, 1, 2)))
        failed = [report for _, report in reports if not report.ok]
        print(f"\n  {count(len(reports), 'rule')}, {len(failed) or 'none'} failed")
        for report in failed:
            print(f"\n{report.problem}")
    return 0 if all(report.ok for _, report in reports) else 1


def _chosen(names: list[str]) -> list[tuple[str, Rule]]:
    """Rules with their sets: those named, or all.

    Raises:
        OptionError: A name is neither a rule nor a set.
    """
    with installed():
        # The passes' own files hold the rules.
        import graphc.passes  # noqa: F401
        from graphc.passes.rules import RULE_SETS

    every = [(group, rule) for group, rules in sorted(RULE_SETS.items()) for rule in rules]
    known = {rule.name for _, rule in every} | set(RULE_SETS)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise OptionError(
                f"there is no rule or rule set {name!r}",
                hint=f"did you mean {close[0]!r}?" if close else "graphc rules list shows them",
            )
    return [(group, rule) for group, rule in every if not names or rule.name in names or group in names]


def _list(rules: list[tuple[str, Rule]], as_json: bool) -> int:
    if as_json:
        print_json([{"set": group, "rule": rule.name, "formula": rule.summary} for group, rule in rules])
    else:
        rows = [(group, rule.name, rule.summary) for group, rule in rules]
        print(table(("set", "rule", "what it says"), rows, left=(0, 1, 2)))
    return 0


def _facts(group: str, report: RuleReport) -> dict[str, Any]:
    return {
        "set": group,
        "rule": report.rule,
        "ok": report.ok,
        "examples": report.examples,
        "fired": report.fired,
        "rejected": report.rejected,
        "refusals": dict(report.refusals),
        "problem": report.problem,
    }
