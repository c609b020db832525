"""The ONNX backend suite as a measure of graphc: which of its cases pass, compiled or with steps in NumPy."""

from graphc.testing.conformance.cases import KINDS, Case, datum, load_cases
from graphc.testing.conformance.exclusions import EXCLUDED
from graphc.testing.conformance.judge import ENGINES, Judgement, Task, difference, judge
from graphc.testing.conformance.runner import choose, operator_of, run_suite
from graphc.testing.conformance.summary import PeerResult, Result, Summary

__all__ = [
    "ENGINES",
    "EXCLUDED",
    "KINDS",
    "Case",
    "Judgement",
    "PeerResult",
    "Result",
    "Summary",
    "Task",
    "choose",
    "datum",
    "difference",
    "judge",
    "load_cases",
    "operator_of",
    "run_suite",
]
