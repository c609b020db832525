"""Values of inputs given to a compile: checked against the inputs, and put into the graph as constants."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import OptionError
from graphc.ir import Builder, Graph, TensorType, Value
from graphc.package import PARAMETER_ELEMENTS

Array = np.ndarray[Any, Any]


def expand_values(values: Mapping[str, Any] | None, inputs: Sequence[Value]) -> list[dict[str, Array]]:
    """One set of values for each variant: every combination of the values listed for inputs.

    Args:
        values: `{"axes": [1], "k": 3}`; a list of such values, of one rank more, is a variant each.
        inputs: The model's inputs.

    Raises:
        OptionError: There is no such input, or it takes no such value; says what it takes.
    """
    if values is not None and not isinstance(values, Mapping):
        raise OptionError(f"values is {values!r}; expected a dictionary, e.g. {{'axes': [1]}}")
    known = {value.name: value for value in inputs}
    varied: dict[str, list[Array]] = {}
    for name, given in (values or {}).items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"its inputs are {', '.join(known)}"
            raise OptionError(f"the model has no input {name!r} to give a value", hint=hint)
        distinct = {(array.shape, array.tobytes()): array for array in _alternatives(known[name], given)}
        varied[name] = list(distinct.values())
    return [dict(zip(varied, choice, strict=True)) for choice in itertools.product(*varied.values())]


def bind_values(graph: Graph, values: Mapping[str, Array]) -> None:
    """Puts constants in the place of inputs, which stay inputs that nothing reads. Types are to be inferred anew."""
    for value in graph.inputs:
        if value.name in values:
            builder = Builder(graph, before=next(iter(graph.nodes), None))
            value.replace_all_uses(builder.constant(values[value.name], value.tensor_type.dtype, name=value.name))


def shapes_of(values: Mapping[str, Array], inputs: Sequence[Value]) -> dict[str, list[int]]:
    """Shapes that values give to inputs whose own shapes are open."""
    return {
        value.name: list(values[value.name].shape)
        for value in inputs
        if value.name in values and not (isinstance(value.type, TensorType) and value.type.is_static)
    }


def _alternatives(value: Value, given: Any) -> list[Array]:
    kind = value.type
    if not isinstance(kind, TensorType) or kind.dtype.kind in ("string", "complex"):
        raise OptionError(f"input {value.name!r} is {kind}, which no value can be given for")
    rank = None if kind.shape is None else len(kind.shape)
    try:
        depth = np.ndim(given)
    except ValueError:
        # A list of values of several lengths.
        depth = (rank or 0) + 1
    if rank is None or depth == rank:
        return [_converted(value, kind, given)]
    if depth != rank + 1 or not isinstance(given, Sequence | np.ndarray) or not len(given):
        raise OptionError(f"input {value.name!r} is {kind}; {given!r} is no value of it, and no list of values")
    return [_converted(value, kind, one) for one in given]


def _converted(value: Value, kind: TensorType, given: Any) -> Array:
    """A value as an array of the input's dtype, if nothing is lost on the way."""

    def refuse(why: str) -> OptionError:
        return OptionError(f"input {value.name!r} cannot be {given!r}: {why}", hint=f"the input is {kind}")

    try:
        array = np.asarray(given)
    except ValueError as error:
        raise refuse("it is no tensor") from error
    if not array.size:
        # NumPy takes an empty list for floats.
        array = array.astype(kind.dtype.numpy)
    if array.size > PARAMETER_ELEMENTS:
        raise refuse(f"a value to compile for has at most {PARAMETER_ELEMENTS} elements")
    shape = kind.shape or ()
    if kind.shape is not None and (
        len(shape) != array.ndim
        or any(isinstance(dim, int) and dim != extent for dim, extent in zip(shape, array.shape, strict=True))
    ):
        raise refuse(f"its shape is {list(array.shape)}")
    if array.dtype != kind.dtype.numpy:
        allowed = {"bool": "b", "float": "iuf", "int": "iu"}["float" if kind.dtype.is_float else _plain_kind(kind)]
        if array.dtype.kind not in allowed:
            raise refuse(f"it is of {array.dtype}")
        converted = array.astype(kind.dtype.numpy)
        # As Python's integers: NumPy's wrap around on the way there and back.
        if not kind.dtype.is_float and list(map(int, converted.flat)) != list(map(int, array.flat)):
            raise refuse(f"{kind.dtype} does not hold it")
        array = converted
    return np.ascontiguousarray(array).reshape(array.shape)


def _plain_kind(kind: TensorType) -> str:
    return "bool" if kind.dtype.kind == "bool" else "int"
