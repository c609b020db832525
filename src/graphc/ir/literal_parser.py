"""Reads types, layouts, numbers, tensors and attribute values of the text form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from graphc.errors import OptionError
from graphc.ir import dtypes
from graphc.ir.dim_parser import parse_dim
from graphc.ir.dtypes import DType
from graphc.ir.graph import Attribute
from graphc.ir.layout import ROW_MAJOR, Layout
from graphc.ir.literals import LARGEST_SPLAT, Array, decode, decode_bits, parse_float, parse_layout
from graphc.ir.scanner import Scanner
from graphc.ir.symbolic import Dim
from graphc.ir.tensor import Tensor
from graphc.ir.types import MapType, OptionalType, SequenceType, TensorType, Type

_BYTES = re.compile(r'b"(?:[ !#-\[\]-~]|\\x[0-9a-fA-F]{2})*"')
_NUMBER = re.compile(r"[-+]?(?:inf|nan|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?f?)", re.ASCII)
_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
_ELEMENT = re.compile(rf"true|false|{_NUMBER.pattern}", re.ASCII)
_DTYPE = re.compile(r"[a-z]\w*", re.ASCII)
_TENSOR = re.compile(r"[a-z]\w*\[", re.ASCII)
_BRACKETS = re.compile(r"\[([^\]\n]*)\]")
_BRACES = re.compile(r"\{([^}\n]*)\}")
_KEY = re.compile(r"sha256:[0-9a-f]{16}")
_HEX = re.compile(r"[0-9a-f]*")
_STATIC_SHAPE = re.compile(r"\d+(?:x\d+)*", re.ASCII)
_LARGEST_EXTENT = 10**30


class LiteralParser(Scanner):
    """A scanner that knows what stands for a type and for a value of an attribute.

    Args:
        text: What is read.
        constants: Tensors by the digests that the text refers to; a `constants` block adds to them.
    """

    def __init__(self, text: str, constants: Mapping[str, Tensor]) -> None:
        super().__init__(text)
        self.constants = dict(constants)
        self.references: list[tuple[int, str, TensorType]] = []
        """Where the text refers to which tensor, and of what type it says it is."""

    @contextmanager
    def errors_at(self, position: int) -> Iterator[None]:
        """Makes what goes wrong inside a ParseError at `position`."""
        try:
            yield
        except (OptionError, ValueError) as error:
            self.fail(str(error), position)

    def type(self) -> Type:
        """A tensor, sequence, optional or map type."""
        self.enter()
        result: Type
        if self.accept("seq("):
            result = SequenceType(self.type())
            self.expect(")")
        elif self.accept("optional("):
            result = OptionalType(self.type())
            self.expect(")")
        elif self.accept("map("):
            key = self.dtype()
            self.expect(",")
            result = MapType(key, self.type())
            self.expect(")")
        else:
            result = self.tensor_type()
        self.depth -= 1
        return result

    def dtype(self) -> DType:
        """An element type by its name."""
        start = self.position
        name = self.match(_DTYPE)
        if name is None:
            self.expected("a type such as float32[1x64]")
        with self.errors_at(start):
            return dtypes.from_name(name)

    def tensor_type(self) -> TensorType:
        """An element type, a shape in brackets and, right after it, a layout in braces."""
        dtype = self.dtype()
        found = _BRACKETS.match(self.text, self.position)
        if found is None:
            self.expected("'[' and a shape")
        shape = self.shape(found[1], found.start(1))
        self.position = found.end()
        layout = self.layout(shape) if self.at("{") else ROW_MAJOR
        self.skip()
        return TensorType(dtype, shape, layout)

    def shape(self, text: str, position: int) -> tuple[Dim, ...] | None:
        """Extents from the text at `position`."""
        if text.strip() == "?":
            return None
        if not text.strip():
            return ()
        extents: list[Dim] = []
        for part in text.split("x") if _STATIC_SHAPE.fullmatch(text) else _split_at_commas(text):
            with self.errors_at(position + len(part) - len(part.lstrip())):
                extent = parse_dim(part)
                if isinstance(extent, int) and not 0 <= extent <= _LARGEST_EXTENT:
                    raise OptionError(f"{extent} is no extent")
            extents.append(extent)
            position += len(part) + 1
        return tuple(extents)

    def layout(self, shape: tuple[Dim, ...] | None) -> Layout:
        """A layout of a tensor of `shape` in braces; stops right after them."""
        found = _BRACES.match(self.text, self.position)
        if found is None:
            self.fail("the layout's '}' is missing")
        with self.errors_at(self.position):
            layout = parse_layout(found[1])
            if not layout.is_row_major and (shape is None or not layout.fits(len(shape))):
                raise OptionError(f"layout {layout} does not fit the shape")
        self.position = found.end()
        return layout

    def attribute(self) -> Attribute:
        """An attribute's value that is no graph."""
        if not self.accept("["):
            return self.scalar()
        items = []
        while not self.accept("]"):
            items.append(self.scalar())
            self.separator("]")
        return tuple(items)  # type: ignore[return-value] # the verifier says whether the items are of one kind

    def scalar(self) -> int | float | str | bytes | Tensor | Type:
        """One item of an attribute's value."""
        start = self.position
        if self.at('"'):
            return self.string()
        if self.at('b"'):
            return self.bytes()
        if self.accept("type("):
            kind = self.type()
            self.expect(")")
            return kind
        if self.sees(_TENSOR):
            return self.tensor()
        token = self.match(_NUMBER)
        if token is None:
            self.expected("a number, a string, a tensor, 'type(' or '['")
        with self.errors_at(start):
            return int(token) if _INTEGER.fullmatch(token) else parse_float(token)

    def bytes(self) -> bytes:
        r"""`b"..."` of printable ASCII and `\xNN`."""
        token = self.match(_BYTES)
        if token is None:
            self.expected(r'b"..." of ASCII and \xNN')
        return re.sub(r"\\x(..)", lambda code: chr(int(code[1], 16)), token[2:-1]).encode("latin-1")

    def tensor_kind(self) -> tuple[TensorType, int]:
        """Type and number of elements of a tensor that is written down."""
        start = self.position
        kind = self.tensor_type()
        if not kind.is_static or kind.layout != ROW_MAJOR:
            self.fail(f"a tensor has a static, row-major type, not {kind}", start)
        return kind, math.prod(kind.static_shape)

    def tensor(self) -> Tensor:
        """A type and elements between angle brackets."""
        kind, size = self.tensor_kind()
        start = self.position
        if not self.accept("<"):
            self.expected("'<' and elements")
        if self.at("..."):
            self.fail("the elements are left out of this text; print with constants='digest' or 'embed'")
        if self.sees(_KEY):
            tensor = self.reference(kind)
        elif self.keyword("bits"):
            digits = self.match(_HEX) or ""
            with self.errors_at(start):
                tensor = _tensor(kind, decode_bits(kind.dtype, bytes.fromhex(digits), size))
        elif self.keyword("splat"):
            if size > LARGEST_SPLAT:
                self.fail(f"a splat of {size} elements is too large", start)
            tensor = _tensor(kind, np.repeat(self.elements(kind.dtype, 1, start), size))
        else:
            tensor = _tensor(kind, self.elements(kind.dtype, size, start))
        self.expect(">")
        return tensor

    def elements(self, dtype: DType, size: int, start: int) -> Array:
        """`size` elements with commas between; `start` is where their tensor begins."""
        texts: list[str] = []
        strings: list[str | bytes] = []
        while not self.at(">"):
            if dtype is dtypes.STRING:
                strings.append(self.bytes() if self.at('b"') else self.string())
            else:
                token = self.match(_ELEMENT)
                texts.append(token if token is not None else self.expected(f"an element of {dtype}"))
            self.separator(">")
        count = len(texts) + len(strings)
        if count != size:
            self.fail(f"the shape has {size} elements, {count} are given", start)
        with self.errors_at(start):
            return np.array(strings, dtype=object) if dtype is dtypes.STRING else decode(dtype, texts)

    def key(self) -> str:
        """The digest that refers to a tensor."""
        token = self.match(_KEY)
        if token is None:
            self.expected("'sha256:' and 16 hexadecimal digits")
        return token.removeprefix("sha256:")

    def reference(self, kind: TensorType) -> Tensor:
        """A tensor that the text refers to: one given by the caller, or one that comes later in the text."""
        position, key = self.position, self.key()
        self.references.append((position, key, kind))
        given = self.constants.get(key)
        return given or Tensor(kind.dtype, kind.static_shape, lambda: self.constants[key].array())

    def check_references(self) -> None:
        """Fails where a tensor that the text refers to is not given or is of another type."""
        for position, key, kind in self.references:
            tensor = self.constants.get(key)
            if tensor is None:
                self.fail(
                    f"no tensor is given for sha256:{key}; pass constants=collect_constants(graph), "
                    "or print with constants='embed'",
                    position,
                )
            if (tensor.dtype, tensor.shape) != (kind.dtype, kind.shape):
                self.fail(f"the tensor given for sha256:{key} is {tensor}", position)


def _tensor(kind: TensorType, flat: Array) -> Tensor:
    return Tensor.of(flat.reshape(kind.static_shape), kind.dtype)


def _split_at_commas(text: str) -> list[str]:
    """Parts of `text` between the commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
