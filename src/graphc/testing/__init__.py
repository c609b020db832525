"""Public tools to find out whether a compiled model is right, and how fast it is beside other engines.

    from graphc.testing import check_pass, check_rule, graphs

`graphs()` gives random typed graphs for Hypothesis; `check_pass`, `check_rule` and `check_backend` try what is given on
such graphs against the operators' NumPy meaning. `bisect(Case(model, inputs))` finds what makes an answer wrong, and
`reduce(model, predicate)` the smallest model that keeps a property. Names are imported when first used, so that timing
two engines does not need Hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphc.testing.bisection import Case, Setup, bisect
    from graphc.testing.checks import check_backend, check_pass
    from graphc.testing.edges import EXACT, edge_inputs
    from graphc.testing.fuzzing import FuzzReport, fuzz_models, replay, try_model
    from graphc.testing.onnx_oracle import run_onnxruntime
    from graphc.testing.oracle import (
        DifferenceError,
        assert_equivalent,
        assert_verified,
        calm_inputs,
        compare_arrays,
        random_inputs,
    )
    from graphc.testing.random_graphs import graphs, seeded_graph
    from graphc.testing.reduction import reduce
    from graphc.testing.rules import RuleReport, check_rule, run_rule_tests

_HOMES = {
    "bisection": ("Case", "Setup", "bisect"),
    "reduction": ("reduce",),
    "checks": ("check_backend", "check_pass"),
    "edges": ("EXACT", "edge_inputs"),
    "fuzzing": ("FuzzReport", "fuzz_models", "replay", "try_model"),
    "random_graphs": ("graphs", "seeded_graph"),
    "onnx_oracle": ("run_onnxruntime",),
    "oracle": (
        *("DifferenceError", "assert_equivalent", "assert_verified"),
        *("calm_inputs", "compare_arrays", "random_inputs"),
    ),
    "rules": ("RuleReport", "check_rule", "run_rule_tests"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "EXACT",
    "Case",
    "DifferenceError",
    "FuzzReport",
    "RuleReport",
    "Setup",
    "assert_equivalent",
    "assert_verified",
    "bisect",
    "calm_inputs",
    "check_backend",
    "check_pass",
    "check_rule",
    "compare_arrays",
    "edge_inputs",
    "fuzz_models",
    "graphs",
    "random_inputs",
    "reduce",
    "replay",
    "run_onnxruntime",
    "run_rule_tests",
    "seeded_graph",
    "try_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'graphc.testing' has no attribute {name!r}")
    return getattr(import_module(f"graphc.testing.{_HOME_OF[name]}"), name)
