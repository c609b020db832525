"""Every rule of every set, on random instances of its own pattern."""

from __future__ import annotations

import pytest

import graphc.passes
from graphc.passes.rules import RULE_SETS, Rule
from graphc.testing.rules import check_rule

assert graphc.passes.PASSES
RULES = [(f"{group.name}.{rule.name}", rule) for group in RULE_SETS.values() for rule in group]


@pytest.mark.parametrize("rule", [rule for _, rule in RULES], ids=[name for name, _ in RULES])
def test_rule_is_right_and_fires(rule: Rule) -> None:
    report = check_rule(rule, examples=40)
    assert report.fired > 0


@pytest.mark.slow
@pytest.mark.parametrize("rule", [rule for _, rule in RULES], ids=[name for name, _ in RULES])
def test_rule_on_many_instances(rule: Rule) -> None:
    check_rule(rule, examples=200, seed=None)


@pytest.mark.parametrize("rule", [rule for _, rule in RULES], ids=[name for name, _ in RULES])
def test_rule_says_its_formula(rule: Rule) -> None:
    assert rule.summary.endswith("."), "a replacement's docstring is the rule's formula"
