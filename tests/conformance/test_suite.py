"""The ONNX backend suite, whole, on every vector width and on the reference backend: models that no one here wrote."""

from __future__ import annotations

import pytest

from graphc.testing.conformance import EXCLUDED, Summary, load_cases, run_suite
from tests.compiler.agreement import WIDTHS, target_or_skip

STEP = 35
"""Every so many cases are in the fast run."""
MOST_EXCLUDED = 14


def told(summary: Summary) -> str:
    return "\n".join(f"{r.name}: {r.failure} {r.problem}" for r in summary.failed)


def test_some_cases() -> None:
    cases = dict(list(load_cases().items())[::STEP])
    summary = run_suite(cases, seconds=30)
    assert len(summary.results) == len(cases)
    assert summary.ok, told(summary)


def test_values_that_are_no_tensors() -> None:
    kinds = ("sequence_insert", "sequence_map", "sequence_model", "identity_", "optional", "loop1", "scan", "if_opt")
    cases = [(name, case) for name, case in load_cases().items() if any(f"test_{kind}" in name for kind in kinds)]
    summary = run_suite(dict(cases[::4]))
    assert summary.ok, told(summary)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", WIDTHS)
def test_every_case_compiled(target: str) -> None:
    summary = run_suite(load_cases(), options={"target": target_or_skip(target)})
    assert summary.ok, told(summary)
    compiled, numeric = summary.numeric()
    assert compiled >= 0.95 * numeric


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_case_on_the_reference_backend() -> None:
    summary = run_suite(load_cases(), backend="reference")
    assert summary.ok, told(summary)


def test_exclusions_are_few_and_each_names_a_case() -> None:
    assert EXCLUDED.keys() <= load_cases().keys()
    assert len(EXCLUDED) <= MOST_EXCLUDED
    assert all(EXCLUDED.values())


def test_an_excluded_case_that_passes_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.testing.conformance.runner.EXCLUDED", {"node/test_abs": "no reason"})
    [result] = run_suite({"node/test_abs": load_cases()["node/test_abs"]}, backend="reference").results
    assert result.standing == "failed" and "passes, though it is excluded" in result.problem
