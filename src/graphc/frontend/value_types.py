"""TypeProto to types: names of dimensions become symbols, dimensions without a name get one."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx

from graphc.errors import ModelError, OptionError
from graphc.ir import Dim, MapType, OptionalType, SequenceType, TensorType, Type, dtypes, symbol
from graphc.ir.dim_parser import parse_dim
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import substitute, symbols
from graphc.ops.base import UNKNOWN_PREFIX
from graphc.ops.inference import RANK_LIMIT

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HYPHENATED = re.compile(r"[A-Za-z_]\w*(-[A-Za-z_]\w*)+")
"""`batch-size` is one name; a difference is written with spaces or numbers."""
MAX_EXTENT = (1 << 63) - 1

Resolve: TypeAlias = "Callable[[str, str], Dim]"
"""Answers the dimension that the file calls by the first argument (`""` for no name), at the place of the second."""


@dataclass
class DimNames:
    """The symbols of one model and the names that its dimensions have in the file.

    Args:
        bindings: What symbols are bound to; dimensions recalled from now on follow it.
        originals: Name in the file of each symbol; dimensions without a name are not there.
    """

    bindings: Mapping[str, Dim] = field(default_factory=dict)
    originals: dict[str, str] = field(default_factory=dict)
    _by_original: dict[str, Dim] = field(default_factory=dict)
    _symbols: set[str] = field(default_factory=set)

    def declare(self, text: str, place: str) -> Dim:
        """A dimension of a graph input: its name becomes a symbol, or an expression such as `past + 1`."""
        if not text:
            return symbol(self._unique(_identifier(place)))
        found = self._by_original.get(text)
        if found is None:
            found = self._by_original[text] = self._make(text)
        return found

    def recall(self, text: str, place: str) -> Dim:
        """A dimension declared elsewhere: one that inputs have, else an extent that only the data tells."""
        found = self._by_original.get(text)
        if found is None and text:
            found = self._expression(text, known=True)
            if found is not None:
                self._by_original[text] = found
        if found is None:
            return symbol(self._unique(UNKNOWN_PREFIX + _identifier(place)))
        return substitute(found, self.bindings)

    def _make(self, text: str) -> Dim:
        if not _is_symbol(text):
            value = self._expression(text, known=False)
            if value is not None:
                return value
        name = self._unique(_identifier(text))
        self.originals[name] = text
        return symbol(name)

    def _expression(self, text: str, *, known: bool) -> Dim | None:
        """`text` as a number or an expression over symbols; None if it is neither."""
        if _HYPHENATED.fullmatch(text):
            return None
        try:
            value = parse_dim(text)
        except OptionError:
            return None
        if isinstance(value, int):
            return value if 0 <= value <= MAX_EXTENT else None
        names = symbols(value)
        if known and not names <= self._symbols:
            return None
        if not all(_is_symbol(name) for name in names):
            return None
        return substitute(value, {name: self.declare(name, "") for name in names})

    def _unique(self, base: str) -> str:
        name, count = base, 0
        while name in self._symbols:
            count += 1
            name = f"{base}_{count}"
        self._symbols.add(name)
        return name


def _is_symbol(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and not keyword.iskeyword(text) and not text.startswith(UNKNOWN_PREFIX)


def _identifier(text: str) -> str:
    name = re.sub(r"\W+", "_", text[:100], flags=re.ASCII) or "dim"
    return name if _is_symbol(name) else f"d_{name}"


def read_type(proto: onnx.TypeProto, resolve: Resolve, owner: str) -> Type | None:
    """The type that a TypeProto declares; None where it declares nothing.

    Args:
        proto: ONNX's type.
        resolve: Makes dimensions of names.
        owner: Value that has the type; dimensions without a name are called after it.

    Raises:
        ModelError: The type is none that ONNX defines, or is sparse or opaque.
    """
    kind = proto.WhichOneof("value")
    if kind is None:
        return None
    if kind == "tensor_type":
        tensor = proto.tensor_type
        if tensor.elem_type == 0:
            return None
        shape = _read_shape(tensor.shape, resolve, owner) if tensor.HasField("shape") else None
        return TensorType(_dtype(tensor.elem_type, owner), shape)

    def any_extent(text: str, place: str) -> Dim:
        # A name stands for one extent, and the tensors that a sequence or a map holds may have one each.
        return resolve("", place)

    if kind == "sequence_type":
        element = read_type(proto.sequence_type.elem_type, any_extent, owner)
        return None if element is None else SequenceType(element)
    if kind == "optional_type":
        element = read_type(proto.optional_type.elem_type, any_extent, owner)
        return None if element is None else OptionalType(element)
    if kind == "map_type":
        element = read_type(proto.map_type.value_type, any_extent, owner)
        return None if element is None else MapType(_dtype(proto.map_type.key_type, owner), element)
    raise ModelError(
        f"value {owner!r} has a {kind.removesuffix('_type').replace('_', ' ')} type, which graphc does not compile",
        nodes=(owner,),
    )


def _dtype(number: int, owner: str) -> DType:
    try:
        return dtypes.from_onnx(number)
    except OptionError:
        raise ModelError(f"value {owner!r} has the unknown data type number {number}", nodes=(owner,)) from None


def _read_shape(proto: onnx.TensorShapeProto, resolve: Resolve, owner: str) -> tuple[Dim, ...]:
    if len(proto.dim) > RANK_LIMIT:
        raise ModelError(f"value {owner!r} has rank {len(proto.dim)}; {RANK_LIMIT} is the limit", nodes=(owner,))
    dims: list[Dim] = []
    for index, dim in enumerate(proto.dim):
        kind = dim.WhichOneof("value")
        # A negative extent is how some exporters write "unknown".
        if kind == "dim_value" and dim.dim_value >= 0:
            dims.append(dim.dim_value)
        else:
            text = dim.dim_param.strip() if kind == "dim_param" else ""
            if not any(character.isalnum() for character in text):
                # Some exporters write "?" for every dimension that has no name.
                text = ""
            dims.append(resolve(text, f"{owner}_d{index}"))
    return tuple(dims)
