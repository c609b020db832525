"""Reading a model: from a path, from bytes or from a ModelProto, with a clear word about what else a file may be."""

from __future__ import annotations

import codecs
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from google.protobuf.message import DecodeError

from graphc.errors import ModelError
from graphc.frontend.wire import Payloads, lift_payloads

ModelSource: TypeAlias = "str | os.PathLike[str] | bytes | memoryview | onnx.ModelProto"
"""What `import_model` reads."""

MAX_NESTING = 50
"""Graphs inside each other; each takes three levels of messages."""
MAP_BYTES = 16 << 20
"""Files of at least this size are memory-mapped; smaller ones are read, so that rewriting them cannot disturb us."""

_EXPORT = "export the model as ONNX first"
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive", "unpack it, or if it is a PyTorch checkpoint, export the model as ONNX"),
    (0, b"\x80\x02", "a Python pickle", _EXPORT),
    (0, b"\x80\x04", "a Python pickle", _EXPORT),
    (0, b"\x89HDF\r\n", "an HDF5 (Keras) file", _EXPORT),
    (0, b"GGUF", "a GGUF file", _EXPORT),
    (0, b"\x1f\x8b", "gzip-compressed", "decompress it first"),
    (0, b"\xfd7zXZ", "xz-compressed", "decompress it first"),
    (0, b"\x7fELF", "an executable or a shared library", "pass the .onnx file"),
    (4, b"ORTM", "an ONNX Runtime .ort file", "pass the ONNX model that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it to ONNX first"),
    (8, b'{"', "a safetensors file", _EXPORT),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
)


@dataclass(frozen=True)
class LoadedModel:
    """A parsed model and where its data lies.

    Args:
        proto: The model; large payloads are tickets into `payloads`.
        payloads: Large `raw_data`.
        folder: Folder that external data is relative to; None where the model did not come from a file.
        name: The file's name, for messages.
    """

    proto: onnx.ModelProto
    payloads: Payloads
    folder: Path | None
    name: str


def read_source(source: ModelSource, folder: str | os.PathLike[str] | None = None) -> LoadedModel:
    """Parses a model without copying its weights.

    Args:
        source: Path, serialized model, or model.
        folder: Folder of external data; that of the path if None.

    Raises:
        ModelError: There is no such file, or it is not an ONNX model.
    """
    base = None if folder is None else Path(folder)
    if isinstance(source, onnx.ModelProto):
        return LoadedModel(_refuse_bytes(source, "the model"), Payloads(), base, "model")
    if isinstance(source, bytes | bytearray | memoryview):
        proto, payloads = _parse(memoryview(source).cast("B"), "the model")
        return LoadedModel(_refuse_bytes(proto, "the model"), payloads, base, "model")
    if not isinstance(source, str | os.PathLike):
        raise ModelError(f"a model is given as a path, bytes or an onnx.ModelProto, not as {type(source).__name__}")
    path = Path(source)
    proto, payloads = _parse(open_view(path), f"{str(path)!r}")
    return LoadedModel(
        _refuse_bytes(proto, repr(path.name)), payloads, path.parent if base is None else base, path.name
    )


def open_view(path: Path) -> memoryview:
    """The bytes of a regular file: mapped if large, read if small.

    Raises:
        ModelError: The file cannot be opened, or is a folder, a device or a pipe.
    """
    try:
        # Not blocking: opening a pipe must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {str(path)!r}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot open {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    try:
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            raise ModelError(f"{str(path)!r} is a folder", hint="pass the .onnx file in it")
        if not stat.S_ISREG(facts.st_mode):
            raise ModelError(f"{str(path)!r} is not a regular file")
        if facts.st_size >= MAP_BYTES:
            return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return memoryview(file.read())
    finally:
        os.close(descriptor)


def _parse(data: memoryview, name: str) -> tuple[onnx.ModelProto, Payloads]:
    _refuse_other_formats(bytes(data[:512]), len(data), name)
    proto = onnx.ModelProto()
    try:
        rest, payloads = lift_payloads(data)
        proto.ParseFromString(rest)
    except ModelError as error:
        raise ModelError(f"{name}: {error.message}", hint=error.hint) from error
    except DecodeError as error:
        raise ModelError(
            f"{name} is not a valid ONNX model: {error}",
            hint="the file is damaged; compare its checksum with the original and copy it again",
        ) from error
    return proto, payloads


def _refuse_bytes(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    bad = _undecodable(proto, 0)
    if bad is not None:
        raise ModelError(f"{name} holds a name that is not UTF-8: {bad!r}", hint="the file is damaged")
    return proto


def _undecodable(message: Any, depth: int) -> bytes | None:
    """A string field that is not UTF-8, which protobuf hands out as bytes; None where there is none."""
    if depth > 3 * MAX_NESTING:
        raise ModelError(f"graphs are nested deeper than {MAX_NESTING} levels")
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in value if field.is_repeated else (value,):
                if isinstance(text, bytes):
                    return text[:40]
        elif field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                found = _undecodable(inner, depth + 1)
                if found is not None:
                    return found
    return None


def _refuse_other_formats(head: bytes, size: int, name: str) -> None:
    if size == 0:
        raise ModelError(f"{name} is empty", hint="the download or the export did not finish; make the file again")
    for offset, signature, what, hint in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            raise ModelError(f"{name} is not an ONNX model: it is {what}", hint=hint)
    if head.lstrip()[:1] == b"<":
        raise ModelError(
            f"{name} is not an ONNX model: it is an HTML or XML page",
            hint="the download got a web page instead of the file; use the direct link",
        )
    text = _printable(head)
    if text:
        raise ModelError(f"{name} is not an ONNX model: it is text ({text[:40]!r})", hint="pass the .onnx file")


def _printable(head: bytes) -> str:
    """`head` as text if it is nothing else; a serialized model has control characters among its first bytes."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return ""
    text = " ".join(text.split())
    return text if text.isprintable() else ""
