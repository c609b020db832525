"""Integers and field types of protobuf's wire format, for those who walk messages without parsing them.

Format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Types that fields have on the wire; the others are obsolete."""


def encode_varint(value: int) -> bytes:
    """A non-negative integer in base 128, least digits first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes | memoryview, place: int, end: int) -> tuple[int, int]:
    """The integer at a place, and the place behind it.

    Args:
        data: A message.
        place: Where the integer begins.
        end: Where the message ends.

    Raises:
        ValueError: It is cut off, or longer than the ten bytes of a 64-bit integer.
    """
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise ValueError("a number is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number is longer than 10 bytes")
