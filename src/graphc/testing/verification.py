"""Is a compiled model right? Its outputs beside those of another engine, output by output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from graphc.errors import OptionError
from graphc.ir.dtypes import from_numpy

SCALE = 1e-4
"""The largest difference over the largest magnitude that passes by default."""

_SCALES = {"tf32": 5e-3, "fp16": 2e-2, "bf16": 1e-1}
"""The same where floats are computed in fewer bits."""


def scale_of(precision: str) -> float:
    """What passes by default of a package that was compiled with `--precision`."""
    return _SCALES.get(precision.partition(",")[0], SCALE)


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


def told_tolerance(precision: str, scale: float | None, rtol: float | None, atol: float | None) -> Tolerance:
    """The tolerance that options say, for a package of a precision: its own scale where they say none."""
    return Tolerance(scale_of(precision) if scale is None else scale, rtol, atol)


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


@dataclass(frozen=True)
class Statistics:
    """How two arrays of one shape differ.

    Args:
        elements: How many there are.
        differing: How many of them are not equal (NaN equals NaN).
        max_abs: Largest difference of two finite elements.
        max_rel: Largest difference over the magnitude expected, where that is not zero.
        max_ulp: Largest distance in representable numbers of the dtype; 0 for what is no float.
        nan_expected: NaN among the elements expected.
        nan_found: NaN among those found.
        infinite_expected: Infinities among those expected.
        infinite_found: Infinities among those found.
        histogram: For each decade of the relative error, its lower end as a power of ten, and how many elements it has.
        where: Least and largest index of a differing element along each axis; empty where none differs.
    """

    elements: int
    differing: int
    max_abs: float
    max_rel: float
    max_ulp: float
    nan_expected: int
    nan_found: int
    infinite_expected: int
    infinite_found: int
    histogram: tuple[tuple[int, int], ...] = ()
    where: tuple[tuple[int, int], ...] = ()


_LEAST_DECADE = -16


def error_statistics(expected: Any, found: Any) -> Statistics | None:
    """Statistics of what was found beside what was expected; None where they are no numeric arrays of one shape."""
    if not isinstance(expected, np.ndarray) or not isinstance(found, np.ndarray) or expected.shape != found.shape:
        return None
    if expected.dtype.kind in "OSUTc" or found.dtype.kind in "OSUTc" or not expected.size:
        return None
    left, right = expected.astype(np.float64), found.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    finite = np.isfinite(left) & np.isfinite(right)
    with np.errstate(all="ignore"):
        distance = np.where(finite, np.abs(left - right), 0.0)
        relative = np.where(finite & (left != 0), distance / np.abs(left), 0.0)
        decades = np.floor(np.log10(relative[relative > 0])).clip(_LEAST_DECADE, None).astype(int)
    steps = _ulp(left, expected.dtype)
    apart = np.argwhere(~same)
    levels, counts = np.unique(decades, return_counts=True)
    return Statistics(
        elements=expected.size,
        differing=len(apart),
        max_abs=float(distance.max()),
        max_rel=float(relative.max()),
        max_ulp=float((distance / steps).max()) if steps is not None else 0.0,
        nan_expected=int(np.isnan(left).sum()),
        nan_found=int(np.isnan(right).sum()),
        infinite_expected=int(np.isinf(left).sum()),
        infinite_found=int(np.isinf(right).sum()),
        histogram=tuple(zip(levels.tolist(), counts.tolist(), strict=True)),
        where=tuple(zip(apart.min(0).tolist(), apart.max(0).tolist(), strict=True)) if len(apart) else (),
    )


def _ulp(values: npt.NDArray[np.float64], dtype: Any) -> npt.NDArray[np.float64] | None:
    """The distance from each value's magnitude to the next representable one; None for what is no float."""
    kind = from_numpy(dtype)
    if not kind.is_float:
        return None
    limits: Any = ml_dtypes.finfo(kind.numpy)  # type: ignore[no-untyped-call]
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log2(np.maximum(np.abs(np.where(np.isfinite(values), values, 1.0)), 1e-300)))
        steps = np.exp2(exponent - int(limits.nmant))
    result: npt.NDArray[np.float64] = np.maximum(steps, float(limits.smallest_subnormal))
    return result


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
    flat, other = np.ascontiguousarray(expected).reshape(-1), np.ascontiguousarray(found).reshape(-1)
    scale = _scale(flat)
    worst, error, ok = 0, 0.0, True
    for start in range(0, flat.size, _CHUNK):
        left, right = flat[start : start + _CHUNK], other[start : start + _CHUNK]
        errors = _errors(left, right, scale)
        at = int(np.argmax(errors))
        if errors[at] > error:
            worst, error = start + at, float(errors[at])
        if tolerance.is_elementwise:
            ok = ok and _within(left, right, errors, tolerance)
    place = tuple(int(i) for i in np.unravel_index(worst, expected.shape))
    ok = ok if tolerance.is_elementwise else error <= tolerance.scale
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


_CHUNK = 1 << 16
"""Elements compared at once: what a comparison needs beside the arrays is a few times as much, in double precision."""


def _scale(expected: npt.NDArray[Any]) -> float:
    """The largest finite magnitude."""
    if _is_exact(expected):
        return 0.0
    largest = 0.0
    for start in range(0, expected.size, _CHUNK):
        part = expected[start : start + _CHUNK]
        part = np.abs(part.astype(np.complex128 if part.dtype.kind == "c" else np.float64))
        largest = max(largest, float(np.max(part, initial=0.0, where=np.isfinite(part))))
    return largest


def _errors(expected: npt.NDArray[Any], found: npt.NDArray[Any], scale: float) -> npt.NDArray[np.float64]:
    """For each element its distance over the scale."""
    if _is_exact(expected):
        unequal: npt.NDArray[np.float64] = np.where(expected == found, 0.0, np.inf)
        return unequal
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), found.astype(wide)
    with np.errstate(invalid="ignore"):
        # Of arrays of rank 0 NumPy answers scalars, in which nothing can be put.
        distance = np.asarray(np.abs(left - right) / (scale or 1.0))
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    distance[~np.isfinite(left) | ~np.isfinite(right)] = np.inf
    distance[same] = 0.0
    result: npt.NDArray[np.float64] = distance
    return result


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
