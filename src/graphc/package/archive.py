"""An uncompressed zip whose members start at multiples of 64 bytes, so that they can be mapped where they lie.

The standard library's `zipfile` reads what this writes; it cannot write it (no control of alignment), and in reading
it accepts much that a package never is (compression, encryption, spans). Layout and field names follow PKWARE's
APPNOTE.TXT 6.3, sections 4.3 to 4.5. Zip64 fields are written only where a size or an offset does not fit 32 bits.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from graphc.errors import PackageError

ALIGNMENT = 64
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_STORED = 0
_UTF8_NAMES = 1 << 11
# 1980-01-01 00:00: the zip epoch. The time of a compile is not part of a package.
_TIME, _DATE = 0, (0 << 9) | (1 << 5) | 1
_PADDING_FIELD = 0x6367
_ZIP64_FIELD = 0x0001
_LIMIT32 = 0xFFFFFFFF
_MAX_DIRECTORY = 1 << 24
_MAX_MEMBERS = 1 << 12

Chunks = Iterable[bytes | memoryview]


@dataclass(frozen=True)
class Member:
    """A member's place in the file: `size` bytes at `offset`, their CRC-32, and where its local header stands."""

    name: str
    offset: int
    size: int
    crc: int
    header: int


class ArchiveWriter:
    """Writes members one after the other to a seekable file, then the directory.

    Args:
        file: Opened for writing in binary mode, at position 0.
        zip64_limit: Sizes and offsets from here on are written as zip64; lower in tests.
    """

    def __init__(self, file: BinaryIO, *, zip64_limit: int = _LIMIT32) -> None:
        self._file = file
        self._limit = zip64_limit
        self.members: list[Member] = []

    def add(self, name: str, chunks: Chunks) -> Member:
        """Writes one member.

        Args:
            name: ASCII path with forward slashes.
            chunks: Its bytes in pieces.
        """
        header = self._file.tell()
        name_bytes = name.encode("ascii")
        # The size is unknown before the data is written, so room for zip64 sizes is always left; whether they are used
        # is decided when the header is written a second time.
        extra = 4 + 16
        start = _align(header + _LOCAL.size + len(name_bytes) + extra + 4)
        padding = start - header - _LOCAL.size - len(name_bytes) - extra
        self._file.write(bytes(start - header))
        crc, size = 0, 0
        for chunk in chunks:
            self._file.write(chunk)
            crc = zlib.crc32(chunk, crc)
            size += memoryview(chunk).nbytes
        end = self._file.tell()
        member = Member(name, start, size, crc, header)
        self._file.seek(header)
        self._file.write(self._local_header(member, name_bytes, padding))
        self._file.seek(end)
        self.members.append(member)
        return member

    def _local_header(self, member: Member, name: bytes, padding: int) -> bytes:
        large = member.size >= self._limit
        size = _LIMIT32 if large else member.size
        sizes64 = struct.pack("<2H2Q", _ZIP64_FIELD, 16, member.size, member.size) if large else b""
        filler = padding if large else padding + 20
        extra = sizes64 + struct.pack("<2H", _PADDING_FIELD, filler - 4) + bytes(filler - 4)
        return (
            _LOCAL.pack(
                b"PK\x03\x04",
                45 if large else 20,
                _UTF8_NAMES,
                _STORED,
                _TIME,
                _DATE,
                member.crc,
                size,
                size,
                len(name),
                len(extra),
            )
            + name
            + extra
        )

    def _central_header(self, member: Member) -> bytes:
        wide = [value for value in (member.size, member.size, member.header) if value >= self._limit]
        extra = struct.pack(f"<2H{len(wide)}Q", _ZIP64_FIELD, 8 * len(wide), *wide) if wide else b""
        size = _LIMIT32 if member.size >= self._limit else member.size
        header = _LIMIT32 if member.header >= self._limit else member.header
        name = member.name.encode("ascii")
        version = 45 if wide else 20
        return (
            _CENTRAL.pack(
                b"PK\x01\x02",
                version,
                version,
                _UTF8_NAMES,
                _STORED,
                _TIME,
                _DATE,
                member.crc,
                size,
                size,
                len(name),
                len(extra),
                0,
                0,
                0,
                0,
                header,
            )
            + name
            + extra
        )

    def close(self) -> None:
        """Writes the directory; the file stays open."""
        start = self._file.tell()
        directory = b"".join(self._central_header(member) for member in self.members)
        self._file.write(directory)
        count, size = len(self.members), len(directory)
        if start >= self._limit:
            end64 = self._file.tell()
            self._file.write(_END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start))
            self._file.write(_LOCATOR64.pack(b"PK\x06\x07", 0, end64, 1))
        self._file.write(_END.pack(b"PK\x05\x06", 0, 0, count, count, size, min(start, _LIMIT32), 0))


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def read_directory(data: memoryview) -> dict[str, Member]:
    """The members of an archive that `ArchiveWriter` wrote.

    Args:
        data: The file's bytes.

    Raises:
        PackageError: It is not such an archive, or it is truncated or damaged.
    """
    try:
        members = dict(_read_members(data))
    except struct.error as error:
        raise _damaged("a header is cut short") from error
    claimed = sorted((member.offset, member.offset + member.size) for member in members.values())
    for (_, end), (start, _) in itertools.pairwise(claimed):
        if start < end:
            raise _damaged("two members overlap")
    return members


def read_member(data: memoryview, member: Member) -> bytes:
    """A member's bytes, checked against its CRC-32.

    Args:
        data: The file's bytes.
        member: Of its directory.

    Raises:
        PackageError: They are damaged.
    """
    contents = bytes(data[member.offset : member.offset + member.size])
    if zlib.crc32(contents) != member.crc:
        raise _damaged(f"checksum of {member.name!r} does not match")
    return contents


def _damaged(why: str) -> PackageError:
    return PackageError(f"not a graphc package, or a damaged one: {why}")


def _read_members(data: memoryview) -> Iterator[tuple[str, Member]]:
    count, size, start, end = _find_directory(data)
    if count > _MAX_MEMBERS or size > _MAX_DIRECTORY or start + size > end:
        raise _damaged("the directory is implausible")
    directory = bytes(data[start : start + size])
    place, names = 0, set()
    for _ in range(count):
        fields = _CENTRAL.unpack_from(directory, place)
        signature, _, _, flags, method, _, _, crc, packed, plain, name_length, extra_length, comment = fields[:13]
        header = fields[16]
        if signature != b"PK\x01\x02":
            raise _damaged("a directory entry is missing")
        if method != _STORED or flags & ~_UTF8_NAMES:
            raise _damaged("a member is compressed or encrypted")
        place += _CENTRAL.size
        name = directory[place : place + name_length].decode("ascii", errors="replace")
        extra = directory[place + name_length : place + name_length + extra_length]
        place += name_length + extra_length + comment
        wide = _zip64_values(extra)
        plain = next(wide, -1) if plain == _LIMIT32 else plain
        packed = next(wide, -1) if packed == _LIMIT32 else packed
        header = next(wide, -1) if header == _LIMIT32 else header
        if plain != packed or plain < 0 or not 0 <= header < start or name in names:
            raise _damaged(f"the directory entry of {name!r} contradicts itself")
        names.add(name)
        yield name, _locate(data, name, plain, crc, header, start)


def _find_directory(data: memoryview) -> tuple[int, int, int, int]:
    """Number of members, size and offset of the directory, and where its end record stands."""
    end = len(data) - _END.size
    if end < 0:
        raise _damaged("it is too short")
    # No package has a comment, so the end record is the last thing in the file.
    signature, disk, first_disk, here, count, size, start, comment = _END.unpack_from(data, end)
    if signature != b"PK\x05\x06" or comment or disk or first_disk or here != count:
        raise _damaged("the end of the file is missing")
    locator = end - _LOCATOR64.size
    if locator >= 0:
        signature, _, end64, _ = _LOCATOR64.unpack_from(data, locator)
        if signature == b"PK\x06\x07":
            signature, *_, count, size, start = _END64.unpack_from(data, min(end64, len(data)))
            if signature != b"PK\x06\x06":
                raise _damaged("the zip64 end record is missing")
            end = end64
    return count, size, start, end


def _zip64_values(extra: bytes) -> Iterator[int]:
    place = 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, place)
        if kind == _ZIP64_FIELD:
            yield from struct.unpack_from(f"<{size // 8}Q", extra, place + 4)
        place += 4 + size


def _locate(data: memoryview, name: str, size: int, crc: int, header: int, limit: int) -> Member:
    """The member's data, found behind its local header."""
    fields = _LOCAL.unpack_from(data, header)
    name_length, extra_length = fields[9:]
    start = header + _LOCAL.size
    local_name = bytes(data[start : start + name_length]).decode("ascii", errors="replace")
    if fields[0] != b"PK\x03\x04" or local_name != name:
        raise _damaged(f"the local header of {name!r} does not match its directory entry")
    offset = start + name_length + extra_length
    if offset + size > limit:
        raise _damaged(f"{name!r} reaches beyond the data")
    if offset % ALIGNMENT:
        raise _damaged(f"{name!r} is not aligned to {ALIGNMENT} bytes")
    return Member(name, offset, size, crc, header)
