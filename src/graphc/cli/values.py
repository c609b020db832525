"""What `--value` says inputs always are; and how a variant is told from others of its package."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphc.errors import InputError, OptionError
from graphc.package import (
    Manifest,
    TensorSpec,
    Variant,
    describe_ranges,
    format_value,
    numpy_dtype,
    parameter_values,
)

if TYPE_CHECKING:
    from graphc.compiler.program import Program

Values: TypeAlias = dict[str, list[Any]]
"""What `--value` gives: for each input, one value or several (a variant each), as numbers and nested lists."""

Array: TypeAlias = npt.NDArray[Any]


def parse_values(texts: list[str]) -> Values:
    """What `--value` options say.

    Raises:
        OptionError: One of them is malformed, or a name is given twice.
    """
    values: Values = {}
    for text in texts:
        # Names may hold an equals sign; values do not.
        name, equals, given = text.rpartition("=")
        try:
            found = json.loads(f"[{given}]")
        except ValueError:
            found = []
        if not equals or not name or not found:
            raise OptionError(
                f"--value {text}: expected NAME=VALUE, with numbers, true, false, and lists of them in brackets",
                hint="for example --value axes=[1], --value k=3 or --value 'sizes=[1,3,64,64],[1,3,128,128]'",
            )
        if name in values:
            raise OptionError(
                f"--value {name} is given twice", hint=f"several values are one option: --value {name}=...,{given}"
            )
        values[name] = found
    return values


def compile_values(options: argparse.Namespace) -> dict[str, Any]:
    """What `--value` options say, as `values=` of a compile takes it."""
    return {name: given[0] if len(given) == 1 else given for name, given in parse_values(options.values).items()}


def value_arrays(values: Values, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The first value given for each input, as an array to call a model with.

    Raises:
        InputError: The model has no such input, or it takes no such value.
    """
    found = {}
    known = {spec.name: spec for spec in specs}
    for name, given in values.items():
        if name not in known:
            raise InputError(f"--value {name}: the model has no such input; its inputs are {', '.join(known)}")
        found[name] = _array(known[name], given[0])
    return found


def _array(spec: TensorSpec, given: Any) -> Array:
    try:
        return np.array(given, numpy_dtype(spec.dtype))
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"--value {spec.name}: {given!r} is no value of {spec}: {error}") from error


def allows_values(manifest: Manifest, values: Values, variant: Variant) -> bool:
    """Whether a variant is for one of the values given, or for any."""
    specs = {spec.name: spec for spec in manifest.inputs}
    for name, given in values.items():
        own = variant.values.get(name)
        if name in specs and own is not None and own not in [_array(specs[name], one).tobytes() for one in given]:
            return False
    return True


def describe_variant(manifest: Manifest, variant: Variant) -> str:
    """As `describe`, for a variant of a manifest."""
    return describe(variant.bindings, parameter_values(manifest, variant), manifest.parameters)


def describe_program(program: Program, parameters: Sequence[str] = ()) -> str:
    """As `describe`, for a program that a compile has made."""
    if not program.is_open:
        return describe(program.bindings, program.values, parameters)
    bounds = program.graph.bounds
    return describe_ranges({name: bounds.get(name, (value, value)) for name, value in program.bindings.items()})


def describe(bindings: Mapping[str, int], values: Mapping[str, Array], parameters: Sequence[str] = ()) -> str:
    """`batch=1, axes=[1]`, or `fixed shapes` where nothing is bound; `any axes` of parameters that are open."""
    parts = [f"{name}={value}" for name, value in sorted(bindings.items())]
    parts += [f"{name}={format_value(value)}" for name, value in values.items()]
    parts += [f"any {name}" for name in parameters if name not in values]
    return ", ".join(parts) or "fixed shapes"
