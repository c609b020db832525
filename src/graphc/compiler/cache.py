"""The cache of compiled objects: one file per kernel, named by the hash of all that decides its bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from graphc.errors import PackageError
from graphc.runtime.folders import cache_folder

_MAGIC = b"graphc-object-1\n"


def variant_path(key: str, group: str = "") -> Path:
    """Where a package compiled on demand is kept; its folder exists when this returns.

    Args:
        key: Hash of all that decides its contents.
        group: Hash of what it shares with others of which only some are kept (`keep_newest`).

    Raises:
        PackageError: The cache folder cannot be made.
    """
    folder = cache_folder() / "variants"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PackageError(
            f"cannot make the cache folder {str(folder)!r}: {error.strerror}", hint="set GRAPHC_CACHE to another folder"
        ) from error
    return folder / (f"{group}-{key}.graphc" if group else f"{key}.graphc")


def keep_newest(path: Path, count: int) -> None:
    """Removes the oldest packages of the group of `path`, up to `count`; what a process has open stays readable."""
    group = path.name.partition("-")[0]
    with contextlib.suppress(OSError):
        ages = sorted((other.stat().st_mtime_ns, other) for other in path.parent.glob(f"{group}-*.graphc"))
        for _, other in ages[:-count]:
            other.unlink(missing_ok=True)


class ObjectCache:
    """Object files by key. Safe for concurrent processes: entries appear whole or not at all, and check themselves.

    Args:
        folder: Where to keep them; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.hits = 0
        self.misses = 0

    def get(self, key: str) -> bytes | None:
        """The object stored under `key`, or None; a damaged entry counts as absent."""
        if self.folder is None:
            return None
        try:
            data = self._path(key).read_bytes()
        except OSError:
            self.misses += 1
            return None
        body = data[len(_MAGIC) + 32 :]
        if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + 32]:
            self.misses += 1
            return None
        self.hits += 1
        return body

    def put(self, key: str, data: bytes) -> None:
        """Stores an object. A cache that cannot be written (full disk, no permission) is no reason to fail."""
        if self.folder is None:
            return
        path = self._path(key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_MAGIC + hashlib.sha256(data).digest() + data)
                os.replace(name, path)
            except BaseException:
                os.unlink(name)
                raise

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / "objects" / key[:2] / f"{key}.o"
