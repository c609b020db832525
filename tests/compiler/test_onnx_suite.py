"""The ONNX backend suite through the whole compile: models that no one here wrote, run from their packages."""

from __future__ import annotations

from typing import Any

import pytest

import graphc
from graphc.errors import UnsupportedError
from tests.compiler.agreement import WIDTHS, target_or_skip
from tests.ops.onnx_cases import close, datum, onnx_cases
from tests.ops.test_onnx_suite import NOT_RUN, TOLERANCE

CASES = sorted(onnx_cases().keys() - NOT_RUN.keys())
SAMPLE = 29
"""Every so many cases are in the fast run."""
FLOAT32 = 1e-5
"""Rounding of float32 sums in another order than the suite's."""


def tolerances(case: Any, expected: Any) -> tuple[float, float]:
    least = max(TOLERANCE.get(str(getattr(expected, "dtype", "")), 0.0), FLOAT32)
    return max(case.rtol, least), max(case.atol, least)


def check(name: str, target: str) -> None:
    case = onnx_cases()[name]
    assert case.model is not None and case.data_sets is not None
    if any(not value.type.HasField("tensor_type") for value in case.model.graph.input):
        with pytest.raises(UnsupportedError, match="takes tensors only"):
            graphc.compile(case.model)
        return
    with graphc.compile(case.model, target=target, verify=True, threads=2) as module:
        for inputs, outputs in case.data_sets:
            found = module([datum(given) for given in inputs])
            for (label, array), wanted in zip(found.items(), outputs, strict=True):
                expected = datum(wanted)
                problem = close(array, expected, *tolerances(case, expected))
                assert problem is None, f"{label}: {problem}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES[::SAMPLE])
def test_some_cases(name: str) -> None:
    check(name, "cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", WIDTHS)
@pytest.mark.parametrize("name", CASES)
def test_every_case(name: str, target: str) -> None:
    check(name, target_or_skip(target))
