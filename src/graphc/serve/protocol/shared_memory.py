"""Tensors in POSIX shared memory of clients on the same machine, by regions that they registered.

Regions are read and written by file offset, not mapped: a client that truncates its file then gets an error, where a
mapping would end the server with SIGBUS, and a client that writes during a run cannot change what was checked.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.errors import ForbiddenError, RequestError, RequestTooLargeError
from graphc.serve.protocol.tensors import Buffer

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/?([A-Za-z0-9_][A-Za-z0-9_.\-]{0,254})\Z")
_MOST = 1 << 40


@dataclass(frozen=True)
class Region:
    """A registered part of a shared memory object.

    Attributes:
        name: What requests call it.
        key: The object's name, as `shm_open` takes it.
        offset: Where it starts in the object, in bytes.
        byte_size: Its size.
        file: Descriptor of the object.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    file: int


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: in which region, from which byte of it on, and how many bytes there are for it."""

    region: str
    offset: int
    byte_size: int


class SharedMemory:
    """The regions that clients registered. Safe to use from several threads.

    Args:
        allowed: Whether clients may register regions.
        most: How many.
    """

    def __init__(self, *, allowed: bool = False, most: int = 256) -> None:
        self.allowed = allowed
        self._most = most
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Makes a part of a shared memory object known as a region.

        Raises:
            ForbiddenError: The server was started without it.
            RequestError: The name is taken, there is no such object, or it is smaller than said.
        """
        if not self.allowed:
            raise ForbiddenError(
                "registering shared memory is off on this server", hint="start it with --allow-shared-memory"
            )
        match = _KEY.match(key) if isinstance(key, str) else None
        if match is None:
            raise RequestError(f"key {key!r:.80} is no name of a shared memory object", hint="as in /my_tensors")
        if not isinstance(name, str) or not 0 < len(name) <= 255:
            raise RequestError("a region's name has 1 to 255 characters")
        offset, byte_size = _size("offset", offset), _size("byte_size", byte_size)
        if not byte_size:
            raise RequestError(f"region {name!r}: byte_size must be above 0")
        file = self._open(key, match[1])
        try:
            held = os.fstat(file)
            if not stat.S_ISREG(held.st_mode) or held.st_size < offset + byte_size:
                raise RequestError(
                    f"shared memory {key!r} has {held.st_size} bytes; the region {name!r} ends at {offset + byte_size}"
                )
            with self._lock:
                if name in self._regions:
                    raise RequestError(
                        f"shared memory region {name!r} is registered already", hint="unregister it first"
                    )
                if len(self._regions) >= self._most:
                    raise RequestTooLargeError(f"{self._most} shared memory regions are registered, the server's limit")
                self._regions[name] = Region(name, key, offset, byte_size, file)
        except BaseException:
            os.close(file)
            raise

    @staticmethod
    def _open(key: str, name: str) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(_FOLDER / name, flags)
        except OSError as error:
            raise RequestError(f"no shared memory object {key!r} that the server may open: {error.strerror}") from None

    def unregister(self, name: str = "") -> None:
        """Forgets a region, or all of them where the name is empty; that there is none is no error."""
        with self._lock:
            gone = list(self._regions.values()) if not name else [r for r in [self._regions.get(name)] if r]
            for region in gone:
                del self._regions[region.name]
                os.close(region.file)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """The regions, or one of them: `name`, `key`, `offset`, `byte_size`.

        Raises:
            RequestError: There is none of that name.
        """
        with self._lock:
            regions = list(self._regions.values()) if not name else [self._find(name)]
        return [{"name": r.name, "key": r.key, "offset": r.offset, "byte_size": r.byte_size} for r in regions]

    def read(self, place: Place) -> Buffer:
        """A copy of the bytes at a place.

        Raises:
            RequestError: No such region, the place is outside of it, or the object was truncated.
        """
        data = bytearray(self._checked(place).byte_size and place.byte_size)
        with self._lock:
            region = self._checked(place)
            start = region.offset + place.offset
            found = 0
            while found < len(data):
                count = os.preadv(region.file, [memoryview(data)[found:]], start + found)
                if not count:
                    raise RequestError(f"shared memory {region.key!r} is smaller than when it was registered")
                found += count
        return data

    def write(self, place: Place, data: Buffer) -> None:
        """Writes bytes to a place.

        Raises:
            RequestError: No such region, the place is outside of it or too small, or the object was truncated.
        """
        if len(data) > place.byte_size:
            raise RequestError(
                f"an output takes {len(data)} bytes, and has {place.byte_size} in shared memory region {place.region!r}"
            )
        with self._lock:
            region = self._checked(place)
            start = region.offset + place.offset
            if os.fstat(region.file).st_size < start + len(data):
                raise RequestError(f"shared memory {region.key!r} is smaller than when it was registered")
            written = 0
            while written < len(data):
                written += os.pwrite(region.file, memoryview(data)[written:], start + written)

    def close(self) -> None:
        """Forgets all regions."""
        self.unregister()

    def _find(self, name: str) -> Region:
        try:
            return self._regions[name]
        except KeyError:
            raise RequestError(f"no shared memory region {name!r:.80} is registered") from None

    def _checked(self, place: Place) -> Region:
        region = self._find(place.region)
        if place.offset + place.byte_size > region.byte_size:
            raise RequestError(
                f"bytes {place.offset} to {place.offset + place.byte_size} are outside of shared memory region "
                f"{region.name!r}, which has {region.byte_size}"
            )
        return region


def place_of(parameters: dict[str, Any]) -> Place | None:
    """Where a tensor's parameters say that it lies; None where they do not name a region.

    Raises:
        RequestError: An ill-typed region, offset or size.
    """
    region = parameters.get("shared_memory_region")
    if region is None:
        return None
    if not isinstance(region, str):
        raise RequestError(f"shared_memory_region must be a name, got {region!r:.80}")
    offset = _size("shared_memory_offset", parameters.get("shared_memory_offset", 0))
    return Place(region, offset, _size("shared_memory_byte_size", parameters.get("shared_memory_byte_size")))


def _size(what: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise RequestError(f"{what} must be a number of bytes, got {value!r:.80}")
    return value
