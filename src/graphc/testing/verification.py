"""Is a compiled model right? Its outputs beside those of another engine, output by output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import OptionError

SCALE = 1e-4
"""The largest difference over the largest magnitude that passes by default."""


@dataclass(frozen=True)
class Tolerance:
    """How far two results may lie apart.

    Args:
        scale: Largest difference over the largest finite magnitude expected; used where the others are None.
        rtol: Relative part of an elementwise bound `atol + rtol * |expected|`.
        atol: Absolute part of it.
    """

    scale: float = SCALE
    rtol: float | None = None
    atol: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < float("inf"):
                raise OptionError(f"tolerance {name} is {value}; expected a number that is not negative")

    @property
    def is_elementwise(self) -> bool:
        """Whether each element has a bound of its own."""
        return self.rtol is not None or self.atol is not None


@dataclass(frozen=True)
class Difference:
    """How far an array lies from the one expected.

    Args:
        name: Of the output or value.
        type: Dtype and shape expected.
        error: Largest difference over `scale`; infinite where NaN, infinities, integers, shapes or dtypes disagree.
        scale: Largest finite magnitude expected.
        ok: Whether it is within the tolerance.
        place: Index of the worst element; empty for none.
        expected: Its value expected, as text.
        found: Its value, as text.
    """

    name: str
    type: str
    error: float
    scale: float
    ok: bool
    place: tuple[int, ...] = ()
    expected: str = ""
    found: str = ""


def compare_array(name: str, expected: Any, found: Any, tolerance: Tolerance | None = None) -> Difference:
    """Compares one result with the one expected.

    Args:
        name: For the report.
        expected: An array; anything else must be equal.
        found: Likewise.
        tolerance: For floats; everything else must be equal, NaN to NaN, infinity to infinity.
    """
    tolerance = tolerance or Tolerance()
    if not isinstance(expected, np.ndarray):
        same = _equal_objects(expected, found)
        return Difference(name, type(expected).__name__, 0.0 if same else float("inf"), 0.0, same)
    kind = f"{expected.dtype.name}[{', '.join(map(str, expected.shape))}]"
    if not isinstance(found, np.ndarray) or (found.dtype, found.shape) != (expected.dtype, expected.shape):
        got = f"{found.dtype.name}[{', '.join(map(str, found.shape))}]" if isinstance(found, np.ndarray) else str(found)
        return Difference(name, kind, float("inf"), 0.0, False, (), kind, got)
    if not expected.size:
        return Difference(name, kind, 0.0, 0.0, True)
    errors, scale = _errors(expected, found)
    worst = int(np.argmax(errors))
    place = tuple(int(i) for i in np.unravel_index(worst, expected.shape))
    error = float(errors.reshape(-1)[worst])
    ok = _within(expected, found, errors, tolerance) if tolerance.is_elementwise else error <= tolerance.scale
    return Difference(name, kind, error, scale, ok, place, str(expected[place]), str(found[place]))


def compare_outputs(
    expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: Tolerance | None = None
) -> list[Difference]:
    """Compares all outputs, in the order expected; one that is missing differs from everything."""
    return [compare_array(name, value, found.get(name), tolerance) for name, value in expected.items()]


def _equal_objects(expected: Any, found: Any) -> bool:
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return len(expected) == len(found) and all(
            compare_array("", a, b).ok for a, b in zip(expected, found, strict=True)
        )
    return bool(expected == found)


def _errors(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], float]:
    """For each element its distance over the scale, and the scale."""
    if _is_exact(expected):
        return np.where(expected == found, 0.0, np.inf), 0.0
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), found.astype(wide)
    finite = np.isfinite(left)
    magnitudes = np.abs(left[finite])
    scale = float(magnitudes.max()) if magnitudes.size else 0.0
    with np.errstate(invalid="ignore"):
        distance = np.abs(left - right) / (scale or 1.0)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    distance[~finite | ~np.isfinite(right)] = np.inf
    distance[same] = 0.0
    return distance, scale


def _within(
    expected: npt.NDArray[Any], found: npt.NDArray[Any], errors: npt.NDArray[np.float64], tolerance: Tolerance
) -> bool:
    if _is_exact(expected) or not np.isfinite(errors).all():
        return not errors.any()
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), found.astype(wide)
    with np.errstate(invalid="ignore"):
        bound = (tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * np.abs(left)
        near = np.abs(left - right) <= bound
    return bool(np.all(near | (errors == 0.0)))


def _is_exact(array: npt.NDArray[Any]) -> bool:
    """Whether elements must be equal: integers, booleans, strings."""
    return array.dtype.kind in "biuOSUT" or array.dtype.name in ("int4", "uint4", "int2", "uint2")
