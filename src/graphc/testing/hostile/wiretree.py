"""A serialized model as a tree of fields that need not make sense: what a mutator edits where a parser would object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import onnx

from graphc.package.varint import encode_varint

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
ROOT: str = onnx.ModelProto.DESCRIPTOR.full_name


@dataclass
class Field:
    """One field as it stands in the file.

    Args:
        owner: Name of the message type that it is a field of.
        number: Field number.
        wire: Wire type.
        value: A number, bytes, or the fields of a submessage.
        lie: Added to the length that is written.
    """

    owner: str
    number: int
    wire: int
    value: int | bytes | list[Field]
    lie: int = 0

    @property
    def name(self) -> str:
        """Name of the field in ONNX's schema; empty where it has none there."""
        found = _descriptors()[self.owner].fields_by_number.get(self.number)
        return "" if found is None else str(found.name)

    @property
    def inner(self) -> str:
        """Message type of the value; empty where it is none."""
        return _message_of(self.owner, self.number)

    def copy(self) -> Field:
        """A field that shares nothing with this one."""
        value = [field.copy() for field in self.value] if isinstance(self.value, list) else self.value
        return replace(self, value=value)


Tree: TypeAlias = "list[Field]"


@cache
def _descriptors() -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name not in found:
            found[descriptor.full_name] = descriptor
            waiting.extend(field.message_type for field in descriptor.fields if field.message_type is not None)
    return found


@cache
def _message_of(owner: str, number: int) -> str:
    field = _descriptors()[owner].fields_by_number.get(number)
    return "" if field is None or field.message_type is None else str(field.message_type.full_name)


def field_number(owner: str, name: str) -> int:
    """Number of a field by its name."""
    return int(_descriptors()[owner].fields_by_name[name].number)


def parse(data: bytes, owner: str = ROOT) -> Tree:
    """The fields of a valid message.

    Raises:
        ValueError: It is none.
    """
    fields: Tree = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes | Tree
        if wire == VARINT:
            value, at = _varint(data, at)
        elif wire in (FIXED64, FIXED32):
            width = 8 if wire == FIXED64 else 4
            value, at = data[at : at + width], at + width
        elif wire == LENGTH:
            length, at = _varint(data, at)
            content, at = data[at : at + length], at + length
            inner = _message_of(owner, number)
            value = parse(content, inner) if inner else content
        else:
            raise ValueError(f"wire type {wire}")
        fields.append(Field(owner, number, wire, value))
    if at > len(data):
        raise ValueError("truncated")
    return fields


_WORD = (1 << 64) - 1
"""Integers below zero are written as the word that holds them."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        octet = data[at]
        value, shift, at = value | (octet & 0x7F) << shift, shift + 7, at + 1
        if octet < 0x80:
            return value, at
    raise ValueError("truncated")


def serialize(fields: Sequence[Field]) -> bytes:
    """The bytes of a tree, lies and all."""
    parts = []
    for field in fields:
        parts.append(encode_varint(field.number << 3 | field.wire))
        if field.wire == VARINT and isinstance(field.value, int):
            parts.append(encode_varint(field.value & _WORD))
            continue
        content = serialize(field.value) if isinstance(field.value, list) else field.value
        content = encode_varint(content & _WORD) if isinstance(content, int) else content
        if field.wire == LENGTH:
            parts.append(encode_varint(max(0, len(content) + field.lie)))
        parts.append(content)
    return b"".join(parts)


def walk(fields: Tree) -> Iterator[tuple[Tree, Field]]:
    """Every field with the list that holds it, from the outside in."""
    for field in fields:
        yield fields, field
        if isinstance(field.value, list):
            yield from walk(field.value)
