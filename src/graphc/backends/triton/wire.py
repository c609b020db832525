"""Messages between a process and a worker that it started: JSON and bytes, over pipes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Message: TypeAlias = tuple[dict[str, Any], list[bytes]]
"""What is said, and the bytes that go with it."""

_LENGTH = struct.Struct("<Q")


def pack(header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> list[bytes]:
    """A message, as pieces to be written one after the other.

    Args:
        header: Of what JSON has; `sizes` is taken.
        blobs: Bytes that go with it.
    """
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode()
    return [_LENGTH.pack(len(text)), text, *blobs]


def unpack(read: Callable[[int], bytes]) -> Message:
    """The next message.

    Args:
        read: Answers exactly so many bytes; raises EOFError where no more come.
    """
    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    header: dict[str, Any] = json.loads(read(length))
    return header, [read(size) for size in header.pop("sizes")]
