"""A `.graphc` file: writing it in one atomic step, and reading it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphc.errors import PackageError
from graphc.package.archive import ArchiveWriter, Chunks, Member, read_directory, read_member
from graphc.package.cuda import CudaCode, cubin_member, cubin_name
from graphc.package.manifest import Manifest
from graphc.package.safetensors import Blob, WeightsBuilder, read_header

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
MODEL = "model.onnx"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that appears at `path` whole when the block ends, and not at all when it raises or is interrupted.

    Raises:
        PackageError: The folder cannot be written to.
    """
    target = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise PackageError(f"cannot write {str(target)!r}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            # mkstemp makes files private; a package is an ordinary file.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            yield file
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise PackageError(f"cannot write {str(target)!r}: {error.strerror}") from error
        raise


def _umask() -> int:
    # Python can only read the mask by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_package(
    path: str | os.PathLike[str],
    manifest: Manifest,
    *,
    files: Mapping[str, bytes],
    weights: WeightsBuilder,
    model: bytes | None = None,
) -> Manifest:
    """Writes a package; equal arguments give equal bytes.

    Args:
        path: Where it goes; replaced only when the package is whole.
        manifest: Its hashes and weights size are filled in here.
        files: Members that hold code, by name: what `manifest.code` names, and what that names.
        weights: The weights region that the manifest's locations point into.
        model: The source model to embed, for compiling further variants where it is loaded.

    Returns:
        The manifest as written.

    Raises:
        PackageError: The file cannot be written, or lacks code that the manifest names.
    """
    if missing := {code.member for code in manifest.code.values()} - files.keys():
        raise PackageError(f"the manifest names {', '.join(sorted(missing))}; the files are {', '.join(sorted(files))}")
    members: dict[str, Chunks] = {WEIGHTS: weights.chunks()}
    members |= {name: [files[name]] for name in sorted(files)}
    if model is not None:
        members[MODEL] = [model]
    with atomic_file(path) as file:
        archive = ArchiveWriter(file)
        hashes = {}
        for name, chunks in members.items():
            hasher = hashlib.sha256()
            archive.add(name, _hashed(chunks, hasher))
            hashes[name] = hasher.hexdigest()
        complete = dataclasses.replace(manifest, hashes=hashes, weights_size=weights.size)
        archive.add(MANIFEST, [complete.to_json().encode("ascii")])
        archive.close()
    return complete


def _hashed(chunks: Chunks, hasher: hashlib._Hash) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


def _map(path: Path, private: bool) -> memoryview:
    """The file's bytes, mapped read-only for as long as somebody holds a view of them."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise PackageError("the file is empty")
        if not private:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        data = memoryview(mmap.mmap(-1, size))
        filled = 0
        while filled < size and (count := file.readinto(data[filled : filled + _CHUNK])):
            filled += count
        if filled < size:
            raise PackageError(f"the file became shorter while it was read: {filled} of {size} bytes")
        return data.toreadonly()


_CHUNK = 64 << 20


class Package:
    """A package opened for reading. The file may be replaced meanwhile; the one opened stays.

    Args:
        path: The file.
        private: Copy it into memory, so that not even who writes into the file changes what was opened.

    Attributes:
        path: The file.
        manifest: What it says about itself.

    Raises:
        PackageError: No such file, not a package, damaged, or of another format version.
    """

    def __init__(self, path: str | os.PathLike[str], *, private: bool = False) -> None:
        self.path = Path(path)
        try:
            self._data = _map(self.path, private)
            self._members = read_directory(self._data)
            self.manifest = Manifest.from_json(self.read(MANIFEST))
            self._weights, self._blobs = self._find_weights()
        except PackageError as error:
            raise PackageError(f"{str(self.path)!r}: {error.message}", hint=error.hint) from error
        except OSError as error:
            raise PackageError(f"cannot read {str(self.path)!r}: {error.strerror}") from error

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._data)

    @property
    def digest(self) -> str:
        """sha256 of the manifest, which holds the hashes of all else: equal digests, equal contents."""
        return hashlib.sha256(self.read(MANIFEST)).hexdigest()

    @property
    def members(self) -> Mapping[str, Member]:
        """Every member by name."""
        return self._members

    def member(self, name: str) -> Member:
        """The member `name`.

        Raises:
            PackageError: There is none.
        """
        if name not in self._members:
            raise PackageError(f"the package has no {name!r}")
        return self._members[name]

    def read(self, name: str) -> bytes:
        """The bytes of a member, checked against its CRC-32.

        Raises:
            PackageError: There is none, or it is damaged.
        """
        return read_member(self._data, self.member(name))

    def code(self, isa: str) -> bytes:
        """The shared library of an instruction set, or the `kernels.json` of a GPU, checked against its hash.

        Raises:
            PackageError: There is none, or it is damaged.
        """
        return self._read_checked(self.manifest.code[isa].member)

    def cuda(self, architecture: str) -> CudaCode:
        """What the kernels of a GPU launch, checked against the steps that call them.

        Raises:
            PackageError: There is no such code, it is damaged, or a step calls what is not there.
        """
        name = self.manifest.code[architecture].member
        code = CudaCode.from_json(self.code(architecture))
        try:
            if code.architecture != architecture:
                raise PackageError(f"it is for {code.architecture}")
            for launch in code.launches:
                self.member(cubin_member(architecture, launch.cubin))
            for step in self.manifest.kernel_steps(architecture):
                code.check_call(step.symbol, len(step.arguments), len(step.dims))
        except PackageError as error:
            raise PackageError(f"{str(self.path)!r}: {name}: {error.message}", hint=error.hint) from error
        return code

    def cubin(self, architecture: str, name: str) -> bytes:
        """The cubin that a launch of `architecture` names, checked against its hash.

        Raises:
            PackageError: There is none, or it is damaged.
        """
        member = cubin_member(architecture, name)
        data = self._read_checked(member)
        if cubin_name(data) != name:
            # A process loads what packages share by this name once.
            raise PackageError(f"{str(self.path)!r}: {member} is another cubin", hint="the package is damaged")
        return data

    def _read_checked(self, name: str) -> bytes:
        data = self.read(name)
        self._check_hash(name, hashlib.sha256(data).hexdigest())
        return data

    @property
    def weights(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The weights region that locations point into: uint8, read-only, memory-mapped, aligned to 64 bytes."""
        return self._weights

    @property
    def blobs(self) -> Mapping[str, Blob]:
        """The tensors in the weights region by name."""
        return self._blobs

    def _find_weights(self) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], dict[str, Blob]]:
        member = self.member(WEIGHTS)
        data = np.frombuffer(self._data, np.uint8, member.size, member.offset)
        blobs, start = read_header(data)
        region = data[start:]
        if len(region) != self.manifest.weights_size:
            raise PackageError(f"{len(region)} bytes of weights; the manifest says {self.manifest.weights_size}")
        return region, blobs

    def verify(self) -> None:
        """Checks every member against its hash: reads the whole file.

        Raises:
            PackageError: A member is damaged; names it.
        """
        for name in self._members.keys() - {MANIFEST}:
            member, hasher = self._members[name], hashlib.sha256()
            hasher.update(self._data[member.offset : member.offset + member.size])
            self._check_hash(name, hasher.hexdigest())

    def _check_hash(self, name: str, found: str) -> None:
        if self.manifest.hashes.get(name) != found:
            raise PackageError(
                f"{str(self.path)!r}: the contents of {name} do not match their hash",
                hint="the package is damaged; copy or compile it again",
            )
