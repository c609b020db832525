"""The rule language: patterns, conditions with reasons, replacements, and the worklist that applies them."""

from graphc.passes.base import Refusal, refuse
from graphc.passes.rules.driver import rewrite
from graphc.passes.rules.explain import Explanation, explain
from graphc.passes.rules.index import RuleIndex
from graphc.passes.rules.match import Match, RefusedError, Trace, find_matches, shape_of, tensor_type
from graphc.passes.rules.pattern import (
    GRAPHC,
    Absent,
    Apply,
    Const,
    Either,
    Every,
    Operators,
    Optional,
    P,
    Pattern,
    Rest,
    Together,
    Var,
    attr,
    every,
    filled,
    fixed,
    maybe,
    number,
)
from graphc.passes.rules.predicate import Chooser, Filled, Fulfils, OneOf, Scalar, TensorPredicate
from graphc.passes.rules.rule import RULE_SETS, Rule, RuleSet, rule_set

__all__ = [
    "GRAPHC",
    "RULE_SETS",
    "Absent",
    "Apply",
    "Chooser",
    "Const",
    "Either",
    "Every",
    "Explanation",
    "Filled",
    "Fulfils",
    "Match",
    "OneOf",
    "Operators",
    "Optional",
    "P",
    "Pattern",
    "Refusal",
    "RefusedError",
    "Rest",
    "Rule",
    "RuleIndex",
    "RuleSet",
    "Scalar",
    "TensorPredicate",
    "Together",
    "Trace",
    "Var",
    "attr",
    "every",
    "explain",
    "filled",
    "find_matches",
    "fixed",
    "maybe",
    "number",
    "refuse",
    "rewrite",
    "rule_set",
    "shape_of",
    "tensor_type",
]
