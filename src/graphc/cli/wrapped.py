"""Sequences, optionals and maps in files of NumPy, which hold arrays by name: `x[0]`, `x[1]`, `scores[cat]`.

An empty sequence or map is the name `x[]` with an array of no elements; an optional that is None has no name at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import InputError
from graphc.package import MAP_KEYS, OPTIONAL, SEQUENCE, TensorSpec

Arrays = dict[str, npt.NDArray[Any]]

NOTHING = np.empty(0, np.uint8)
"""What stands at the name of an empty sequence or map."""


def flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays of a value and their names; None where an optional is nothing."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from flatten(f"{name}[{key}]", item)
        if not value:
            yield f"{name}[]", NOTHING
    else:
        yield name, value if value is None else np.asarray(value)


def gather(specs: Sequence[TensorSpec], arrays: Arrays) -> dict[str, Any]:
    """Inputs of arrays by names as `flatten` makes them; names that are no part of an input stay as they are.

    Raises:
        InputError: An index of a sequence is missing, or a key does not fit a map.
    """
    found: dict[str, Any] = dict(arrays)
    for spec in specs:
        if not spec.wraps:
            continue
        parts = [name for name in arrays if name == spec.name or name.startswith(f"{spec.name}[")]
        if parts:
            for name in parts:
                del found[name]
            found[spec.name] = _gather(spec, spec.name, spec.wraps, {name: arrays[name] for name in parts})
    return found


def _gather(spec: TensorSpec, name: str, wraps: tuple[str, ...], arrays: Arrays) -> Any:
    while wraps and wraps[0] == OPTIONAL:
        wraps = wraps[1:]
    if not wraps:
        if arrays.keys() != {name}:
            raise InputError(f"{min(arrays)!r} is no part of input {spec}", hint=f"expected {name!r}")
        return arrays[name]
    groups: dict[str, Arrays] = {}
    for place, array in arrays.items():
        key, bracket, _ = place[len(name) + 1 :].partition("]")
        if not bracket or place[len(name)] != "[":
            raise InputError(f"{place!r} is no part of input {spec}", hint=f"expected {name}[0], for example")
        groups.setdefault(key, {})[place] = array
    if groups.keys() == {""}:
        return [] if wraps[0] == SEQUENCE else {}
    items = {key: _gather(spec, f"{name}[{key}]", wraps[1:], group) for key, group in groups.items()}
    if wraps[0] != SEQUENCE:
        return {_key(spec, wraps[0], key): item for key, item in items.items()}
    for index in range(len(items)):
        if str(index) not in items:
            raise InputError(
                f"input {spec}: there is no {name}[{index}], but {', '.join(f'{name}[{k}]' for k in items)}"
            )
    return [items[str(index)] for index in range(len(items))]


def _key(spec: TensorSpec, wrap: str, text: str) -> Any:
    try:
        return MAP_KEYS[wrap](text)
    except ValueError:
        raise InputError(f"input {spec}: {text!r} is no key of a {wrap}") from None
