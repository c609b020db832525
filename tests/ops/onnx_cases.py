"""The ONNX backend suite's single-operator cases: models that no one here wrote, with expected outputs."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests


@cache
def onnx_cases() -> dict[str, TestCase]:
    """Cases with one operator each, by name; those that spell an operator out in others (`_expanded`) are left out."""
    with warnings.catch_warnings():
        # The suite computes its expected outputs as it loads, infinities and all.
        warnings.simplefilter("ignore")
        return {test.name: test for test in load_model_tests(kind="node") if "_expanded" not in test.name}


def datum(given: Any) -> Any:
    """A value of a data set as evaluation takes it: an array, a list or None."""
    if isinstance(given, onnx.TensorProto):
        return numpy_helper.to_array(given)
    if given is None or isinstance(given, list):
        return given
    array = np.asarray(given)
    return array.astype(object) if array.dtype.kind in "UST" else array


def close(found: Any, expected: Any, rtol: float, atol: float) -> str | None:
    """Why `found` is not what was expected; None where it is."""
    if expected is None or found is None:
        return None if found is expected else f"{found!r} instead of {expected!r}"
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{found!r} instead of a list of {len(expected)}"
        problems = [close(f, e, rtol, atol) for f, e in zip(found, expected, strict=True)]
        return next((problem for problem in problems if problem), None)
    if not isinstance(found, np.ndarray):
        return f"{type(found).__name__} instead of an array"
    good = datum(expected)
    if found.dtype != good.dtype or found.shape != good.shape:
        return f"{found.dtype}{found.shape} instead of {good.dtype}{good.shape}"
    if good.dtype.kind in "biuO":
        return None if (found == good).all() else "elements differ"
    wide = np.complex128 if good.dtype.kind == "c" else np.float64
    same = np.allclose(found.astype(wide), good.astype(wide), rtol=rtol, atol=atol, equal_nan=True)
    return None if same else "elements differ"
