"""What a cubin says of itself: registers and stack, from the notes that ptxas leaves in its section `.nv.info`.

The records are those that `cuobjdump --dump-resource-usage` shows; NVIDIA does not document them, so tests hold this
reader to that tool.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from graphc.errors import PackageError

_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_RECORD = struct.Struct("<BBH")
_PAIR = struct.Struct("<II")
_SIZED = 4
_REGISTERS, _FRAME = 0x2F, 0x11


@dataclass(frozen=True)
class Resources:
    """What a thread of a kernel needs.

    Args:
        registers: 32-bit registers.
        stack: Bytes of local memory: more than none means that registers were spilled to it.
    """

    registers: int
    stack: int


def resources_of(cubin: bytes) -> Resources:
    """The most that any function of a cubin needs.

    Raises:
        PackageError: These are no bytes of a cubin.
    """
    needs = {_REGISTERS: 0, _FRAME: 0}
    try:
        for attribute, value in _records(cubin):
            needs[attribute] = max(needs[attribute], value)
    except (struct.error, IndexError, ValueError) as error:
        raise PackageError(f"not a cubin: {error}") from error
    return Resources(needs[_REGISTERS], needs[_FRAME])


def _records(cubin: bytes) -> Iterator[tuple[int, int]]:
    if cubin[:4] != b"\x7fELF":
        raise ValueError("no ELF file")
    fields = _HEADER.unpack_from(cubin)
    table, size, count, names = fields[5], fields[10], fields[11], fields[12]
    sections = [_SECTION.unpack_from(cubin, table + size * number) for number in range(count)]
    strings = sections[names][4]
    for name, _, _, _, offset, length, *_ in sections:
        if cubin[strings + name : cubin.index(b"\0", strings + name)] != b".nv.info":
            continue
        place, end = offset, offset + length
        while place < end:
            kind, attribute, bytes_ = _RECORD.unpack_from(cubin, place)
            place += _RECORD.size
            if kind != _SIZED:
                continue
            if attribute in (_REGISTERS, _FRAME):
                yield attribute, _PAIR.unpack_from(cubin, place)[1]
            place += bytes_
