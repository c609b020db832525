"""Model files at the level of protobuf's wire format: large payloads are lifted out before the parser sees the file.

The protobuf library copies every byte string it parses and takes at most 2 GB. So the file is walked once along the
fields of `ModelProto`; each large `raw_data` is replaced by a short ticket, and the parser gets what remains. The walk
costs one step per field, descends only into large messages, and says where a damaged file stops making sense.
Format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import onnx

from graphc.errors import ModelError
from graphc.package.varint import BYTES, FIXED32, FIXED64, VARINT, encode_varint, read_varint

LIFT_BYTES = 4096
"""Payloads of at least this size are lifted; smaller messages are not even looked into."""
MAX_FIELDS = 500_000
"""Fields of one file outside lifted payloads: what a parser would turn into objects."""
MAX_DEPTH = 100
"""Nesting of messages; protobuf's own limit."""


@dataclass
class Payloads:
    """Payloads lifted out of a file, found again by the tickets left in their place.

    A ticket starts with random bytes, so that no file can hold one by itself.
    """

    nonce: bytes = field(default_factory=lambda: os.urandom(16))
    views: list[memoryview] = field(default_factory=list)

    def put(self, view: memoryview) -> bytes:
        """Keeps `view`; answers its ticket."""
        self.views.append(view)
        return self.nonce + len(self.views).to_bytes(8, "little")

    def get(self, data: bytes) -> memoryview:
        """The payload that `data` is the ticket of, or `data` itself."""
        if len(data) == 24 and data.startswith(self.nonce):
            return self.views[int.from_bytes(data[16:], "little") - 1]
        return memoryview(data)


@dataclass(frozen=True)
class _Message:
    """What the walk needs to know of a message type: its name, submessages and liftable payloads by field number."""

    name: str
    children: Mapping[int, str]
    payloads: frozenset[int]


def _schema() -> dict[str, _Message]:
    found: dict[str, _Message] = {}
    waiting: list[Any] = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name in found:
            continue
        inner = {f.number: f.message_type for f in descriptor.fields if f.message_type is not None}
        payloads = frozenset(f.number for f in descriptor.fields if f.name == "raw_data")
        found[descriptor.full_name] = _Message(
            descriptor.name, {number: message.full_name for number, message in inner.items()}, payloads
        )
        waiting.extend(inner.values())
    return found


_MESSAGES = _schema()
_ROOT: str = onnx.ModelProto.DESCRIPTOR.full_name


class _Walk:
    def __init__(self, data: memoryview, payloads: Payloads) -> None:
        self.data = data
        self.payloads = payloads
        self.fields = 0

    def fail(self, place: int, message: str) -> NoReturn:
        raise ModelError(
            f"the file is not a valid ONNX model: at byte {place} of {len(self.data)}, {message}",
            hint="it is damaged or incomplete; compare its size and checksum with the original and copy it again",
        )

    def varint(self, place: int, end: int) -> tuple[int, int]:
        try:
            return read_varint(self.data, place, end)
        except ValueError as error:
            self.fail(place, str(error))

    def message(self, start: int, end: int, name: str, depth: int) -> list[memoryview | bytes] | None:
        """Chunks of the message without its large payloads; None where nothing was lifted."""
        message = _MESSAGES[name]
        if depth > MAX_DEPTH:
            self.fail(start, f"messages are nested deeper than {MAX_DEPTH} levels")
        chunks: list[memoryview | bytes] = []
        copied = place = start
        while place < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                self.fail(place, f"there are more than {MAX_FIELDS:,} fields, so this is no model that can be compiled")
            begin = place
            tag, place = self.varint(place, end)
            number, kind = tag >> 3, tag & 7
            if number == 0:
                self.fail(begin, f"a field of {message.name} has number 0")
            if kind == VARINT:
                _, place = self.varint(place, end)
            elif kind == FIXED64:
                place += 8
            elif kind == FIXED32:
                place += 4
            elif kind == BYTES:
                size, place = self.varint(place, end)
                if size > end - place:
                    self.fail(
                        begin, f"field {number} of {message.name} should have {size} bytes and {end - place} are left"
                    )
                replacement = self.payload(message, number, place, size, depth) if size >= LIFT_BYTES else None
                if replacement is not None:
                    length = sum(len(chunk) for chunk in replacement)
                    chunks += [self.data[copied:begin], encode_varint(tag) + encode_varint(length), *replacement]
                    copied = place + size
                place += size
            else:
                self.fail(begin, f"field {number} of {message.name} has the unknown wire type {kind}")
            if place > end:
                self.fail(begin, f"field {number} of {message.name} is cut off")
        if copied == start:
            return None
        return [*chunks, self.data[copied:end]]

    def payload(
        self, message: _Message, number: int, place: int, size: int, depth: int
    ) -> list[memoryview | bytes] | None:
        if number in message.payloads:
            return [self.payloads.put(self.data[place : place + size])]
        child = message.children.get(number)
        return None if child is None else self.message(place, place + size, child, depth + 1)


def lift_payloads(data: memoryview) -> tuple[bytes, Payloads]:
    """Splits a serialized ModelProto into one without large payloads, and the payloads as views of `data`.

    Raises:
        ModelError: The bytes are not in protobuf's format, or hold more fields than any model does.
    """
    payloads = Payloads()
    walk = _Walk(data, payloads)
    chunks = walk.message(0, len(data), _ROOT, 1)
    return b"".join(chunks) if chunks is not None else bytes(data), payloads
