"""Tensors in and out of protobuf messages without copies: at the top level of a message, fields are just bytes.

protobuf would copy each tensor twice on its way in and three times on its way out. Concatenated messages are merged,
says its encoding, so that a message can be its small fields, written by protobuf, followed by its tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import RequestError, RequestTooLargeError
from graphc.package.varint import BYTES, FIXED32, FIXED64, VARINT, encode_varint, read_varint
from graphc.serve.protocol.tensors import Buffer


def lift(data: bytes, number: int, most: int) -> tuple[bytes, list[memoryview]]:
    """Splits a message into all but one of its repeated bytes fields, and that field's values as views.

    Args:
        data: A serialized message.
        number: Of the field.
        most: Fields that the message may have at its top level.

    Raises:
        RequestError: The bytes are not in protobuf's format.
        RequestTooLargeError: It has more fields than that.
    """
    view = memoryview(data)
    kept: list[memoryview] = []
    lifted: list[memoryview] = []
    place, end, start = 0, len(data), 0
    for _ in range(most + 1):
        if place == end:
            break
        begin = place
        key, place = _varint(data, place, end)
        kind = key & 7
        if kind == BYTES:
            size, place = _varint(data, place, end)
            if size > end - place:
                raise RequestError("the message is no protobuf: a field goes on behind its end")
            if key >> 3 == number:
                kept.append(view[start:begin])
                lifted.append(view[place : place + size])
                start = place + size
            place += size
        elif kind == VARINT:
            _, place = _varint(data, place, end)
        elif kind in (FIXED32, FIXED64):
            place += 4 if kind == FIXED32 else 8
        else:
            raise RequestError(f"the message is no protobuf: a field has wire type {kind}")
        if place > end:
            raise RequestError("the message is no protobuf: a field goes on behind its end")
    else:
        raise RequestTooLargeError(f"the message has more than {most} fields, the server's limit")
    if not lifted:
        return data, []
    kept.append(view[start:])
    return b"".join(kept), lifted


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    try:
        return read_varint(data, place, end)
    except ValueError as error:
        raise RequestError("the message is no protobuf: a number goes on behind its end") from error


def lower(head: bytes, number: int, values: Sequence[Buffer]) -> bytes:
    """A message of small fields, with values of a repeated bytes field after them."""
    parts: list[Buffer] = [head]
    tag = encode_varint(number << 3 | BYTES)
    for value in values:
        parts.append(tag + encode_varint(len(value)))
        parts.append(value)
    return b"".join(parts)
