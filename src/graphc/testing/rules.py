"""Rules tested on random instances of their own patterns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from graphc.errors import GraphcError
from graphc.ir import Graph
from graphc.passes.base import PassContext
from graphc.passes.rules import Rule, rewrite
from graphc.testing.choosing import DrawChooser
from graphc.testing.instances import RejectedError, grow_instance
from graphc.testing.oracle import DifferenceError, assert_equivalent, assert_verified, calm_inputs


@dataclass(frozen=True)
class RuleReport:
    """What testing one rule showed.

    Args:
        rule: The rule's name.
        examples: Instances that were valid and gave finite results.
        fired: Instances in which the rule was applied.
        rejected: Draws that led to no usable instance.
        refusals: How often the rule refused, by reason.
        failure: The first wrong instance, smallest Hypothesis found; empty if there is none.
    """

    rule: str
    examples: int
    fired: int
    rejected: int
    refusals: Counter[str]
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was applied at all and was never wrong."""
        return self.fired > 0 and not self.failure

    @property
    def problem(self) -> str:
        """What is wrong, in words; empty where nothing is."""
        if self.failure:
            return f"rule {self.rule!r} is wrong:\n{self.failure}"
        if self.fired:
            return ""
        reasons = "; ".join(f"{count} × {reason}" for reason, count in self.refusals.most_common(3))
        return (
            f"rule {self.rule!r} was never applied in {self.examples} instances ({self.rejected} draws rejected)"
            f"{': ' + reasons if reasons else ''}; give it `examples=`"
        )


def test_rule(rule: Rule, *, examples: int = 60, seed: int | None = 0) -> RuleReport:
    """Applies `rule` to random instances of its pattern and compares results before and after.

    Args:
        rule: What to test.
        examples: How many instances to try.
        seed: The same seed tries the same instances; fresh ones each time if None.
    """
    tally: Counter[str] = Counter()
    refusals: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(st.data())
    def run(data: st.DataObject) -> None:
        try:
            graph = grow_instance(rule, DrawChooser(data.draw))
        except RejectedError:
            tally["rejected"] += 1
            hypothesis.reject()
        _check_instance(rule, graph, tally, refusals)

    if seed is not None:
        run = hypothesis.seed(seed)(run)
    failure = ""
    try:
        run()
    except (DifferenceError, GraphcError) as error:
        failure = str(error)
    except hypothesis.errors.Unsatisfiable:
        tally["unsatisfiable"] += 1
    return RuleReport(rule.name, tally["examples"], tally["fired"], tally["rejected"], refusals, failure)


test_rule.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it where it is imported


def _check_instance(rule: Rule, graph: Graph, tally: Counter[str], refusals: Counter[str]) -> None:
    inputs = calm_inputs(graph, seed=0)
    if inputs is None:
        tally["rejected"] += 1
        hypothesis.reject()
    after = graph.clone()
    context = PassContext()
    try:
        count = rewrite(after, [rule], context)
        tally["examples"] += 1
        tally["fired"] += count > 0
        refusals.update(refusal.reason for refusal in context.refusals)
        assert_verified(after)
        assert_equivalent(graph, after, inputs, tolerance=rule.tolerance)
    except (DifferenceError, GraphcError) as error:
        raise DifferenceError(f"{error}\nbefore:\n{graph}\nafter:\n{after}") from error


def run_rule_tests(rules: Iterable[Rule], *, examples: int = 60, seed: int | None = 0) -> list[RuleReport]:
    """Tests every rule; see `test_rule`."""
    return [test_rule(rule, examples=examples, seed=seed) for rule in rules]


def check_rule(rule: Rule, *, examples: int = 60, seed: int | None = 0) -> RuleReport:
    """Fails where `rule` is wrong on some random instance, or is never applied.

    Raises:
        DifferenceError: With the smallest wrong instance found, before and after.
    """
    report = test_rule(rule, examples=examples, seed=seed)
    if not report.ok:
        raise DifferenceError(report.problem)
    return report
