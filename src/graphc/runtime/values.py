"""One input's value as kernels and host steps read it: arrays made ready, lists, dicts and None looked through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import InputError
from graphc.package import MAP_KEYS, OPTIONAL, SEQUENCE, TensorSpec, numpy_dtype
from graphc.runtime.memory import READY, Array

DLPACK_CUDA = 2
"""`kDLCUDA` of DLPack: memory of a GPU."""


def refuse_gpu(value: Any, place: str) -> None:
    """Nothing for an array that the CPU reads.

    Raises:
        InputError: `value` lies in the memory of a GPU.
    """
    if hasattr(value, "__cuda_array_interface__") or (
        hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == DLPACK_CUDA
    ):
        raise InputError(
            f"{place} lies in the memory of a GPU; expected an array in the CPU's",
            hint="copy it to the CPU first; a model that a GPU runs takes it as it is",
        )


def collect(spec: TensorSpec, value: Any, adopt: Callable[[Any, str], Any] = refuse_gpu, needs: int = READY) -> Any:
    """The value as its input's type has it: an array, or a list, a dict or None of what the type's wraps say.

    Arrays are C-contiguous, aligned and native; copied only where they are not.

    Args:
        spec: Of the input.
        value: What was given.
        adopt: Makes an array of one in the memory of a GPU, or None where it is not there; of tensors alone.
        needs: Flags of tensors that are not copied, `READY` or fewer.

    Raises:
        InputError: A wrong type, dtype or rank; says where in the value.
    """
    place = f"input {spec.name!r}"
    if not spec.wraps:
        if type(value) is not np.ndarray and spec.dtype != "string" and (found := adopt(value, place)) is not None:
            _check_type(spec, found, place, len(spec.shape))
            return found
        return _array(spec, value, place, len(spec.shape), needs)
    return _wrapped(spec, spec.wraps, value, place)


def _wrapped(spec: TensorSpec, wraps: tuple[str, ...], value: Any, place: str) -> Any:
    if not wraps:
        return _element(spec, value, place)
    wrap, inner = wraps[0], wraps[1:]
    if wrap == OPTIONAL:
        return None if value is None else _wrapped(spec, inner, value, place)
    expected = spec.describe(wraps)
    if wrap == SEQUENCE:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise InputError(f"{place}: expected a list ({expected}), got {type(value).__name__}")
        return [_wrapped(spec, inner, item, f"element {i} of {place}") for i, item in enumerate(value)]
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: expected a dict ({expected}), got {type(value).__name__}")
    found = {}
    for key, item in value.items():
        if not isinstance(key, MAP_KEYS[wrap] | np.integer) or isinstance(key, bool):
            raise InputError(f"{place}: expected keys of {expected}, got {key!r}")
        found[key] = _wrapped(spec, inner, item, f"value at {key!r} of {place}")
    return found


def _element(spec: TensorSpec, value: Any, place: str) -> Array:
    """A tensor inside wraps: of the extents that its type fixes."""
    wanted = spec.elements
    array = _array(spec, value, place, None if wanted is None else len(wanted))
    if wanted is not None and any(extent not in (None, n) for extent, n in zip(wanted, array.shape, strict=True)):
        raise InputError(f"{place}: expected {spec.describe(())}, got shape {list(array.shape)}")
    return array


def _array(spec: TensorSpec, value: Any, place: str, rank: int | None, needs: int = READY) -> Array:
    dtype = numpy_dtype(spec.dtype)
    array = _as_array(spec, value, place)
    if spec.dtype == "string" and array.dtype.kind not in "OUST":
        raise InputError(f"{place}: expected strings, got {array.dtype}")
    _check_type(spec, array, place, rank)
    if spec.dtype == "string":
        return np.ascontiguousarray(array, object).reshape(array.shape)
    if array.dtype is dtype and array.flags.num & needs == needs:
        return array
    ready = np.require(array, dtype, ["C", "ALIGNED"])
    # np.require makes rank 0 of rank 0, but ascontiguousarray inside of it may not keep it.
    return ready.reshape(array.shape) if ready.shape != array.shape else ready


def _check_type(spec: TensorSpec, array: Any, place: str, rank: int | None) -> None:
    dtype = numpy_dtype(spec.dtype)
    if spec.dtype != "string" and array.dtype != dtype and array.dtype.newbyteorder("=") != dtype:
        raise InputError(
            f"{place}: expected dtype {spec.dtype}, got {array.dtype}",
            hint=f"convert it with .astype({spec.dtype!r})" if array.dtype.kind in "biufc" else None,
        )
    if rank not in (None, len(array.shape)):
        raise InputError(f"{place}: expected rank {rank} ({spec}), got shape {list(array.shape)}")


def _as_array(spec: TensorSpec, value: Any, place: str) -> Array:
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    try:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if hasattr(value, "__array__"):
            return np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{place}: {type(value).__name__} cannot be read as an array: {error}") from error
    raise InputError(
        f"{place}: expected a NumPy array or a DLPack object, got {type(value).__name__}",
        hint=f"convert it with np.asarray(value, {spec.dtype!r})" if spec.dtype != "string" else None,
    )
