"""What a call may give for sequences, optionals and maps, and what is said of what it may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.errors import InputError, PackageError
from graphc.package import TensorSpec
from graphc.runtime.values import collect

PAIRS = TensorSpec("x", "float32", (), ("sequence",), (None, 2))
MAYBE = TensorSpec("x", "int64", (), ("optional", "sequence"), None)
SCORES = TensorSpec("x", "float32", (), ("sequence", "map(string)"), ())
F32 = np.float32


def test_types_read_as_onnx_writes_them() -> None:
    assert str(PAIRS) == "x: seq(float32[?, 2])"
    assert str(MAYBE) == "x: optional(seq(int64[...]))"
    assert str(SCORES) == "x: seq(map(string, float32[]))"
    assert str(TensorSpec("x", "float32", ("n", 3))) == "x: float32[n, 3]"


def test_arrays_inside_are_made_ready() -> None:
    backwards = np.arange(6, dtype=">f4").reshape(3, 2)[::-1]
    first, second = collect(PAIRS, (backwards, np.zeros((0, 2), F32)))
    assert first.dtype == F32 and first.flags.c_contiguous and first.tolist() == [[4, 5], [2, 3], [0, 1]]
    assert second.shape == (0, 2)
    assert collect(PAIRS, []) == []
    assert collect(MAYBE, None) is None
    assert [array.shape for array in collect(MAYBE, [np.zeros(3, np.int64), np.int64(1)])] == [(3,), ()]
    assert collect(SCORES, [{"cat": F32(0.5)}, {}])[0]["cat"] == 0.5


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        (PAIRS, np.zeros((2, 2), F32), r"expected a list \(seq\(float32\[\?, 2\]\)\), got ndarray"),
        (PAIRS, "ab", "expected a list"),
        (PAIRS, None, "expected a list"),
        (PAIRS, [np.zeros((1, 2), F32), np.zeros((1, 3), F32)], r"element 1 of input 'x': expected float32\[\?, 2\]"),
        (PAIRS, [np.zeros(2, F32)], "element 0 of input 'x': expected rank 2"),
        (PAIRS, [np.zeros((1, 2))], "expected dtype float32, got float64"),
        (PAIRS, [[1.0, 2.0]], "expected a NumPy array"),
        (SCORES, [{1: F32(0)}], r"element 0 of input 'x': expected keys of map\(string"),
        (SCORES, [[F32(0)]], "expected a dict"),
        (SCORES, [{"cat": np.zeros(2, F32)}], "value at 'cat' of element 0 of input 'x': expected rank 0"),
    ],
)
def test_what_does_not_fit_says_where(spec: TensorSpec, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        collect(spec, value)


@pytest.mark.parametrize(
    "wrong",
    [{"wraps": ("list",)}, {"wraps": ("map(float32)",)}, {"wraps": ("sequence",), "shape": (2,)}, {"elements": (-1,)}],
)
def test_damaged_types_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PackageError):
        TensorSpec(**{"name": "x", "dtype": "float32", "shape": (), **wrong})
