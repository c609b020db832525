"""Findings as files: a model and its inputs beside it, to be tried again whenever."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphc.errors import ModelError
from graphc.frontend import read_model
from graphc.ir import TensorType
from graphc.ops.base import Array
from graphc.package import atomic_file


def keep(folder: Path, name: str, model: bytes, feeds: Mapping[str, Array]) -> Path:
    """Writes `NAME-<hash>.onnx` and, beside it, the inputs as `.npz`; answers the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(model).hexdigest()[:12]}.onnx"
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **{key: _plain(array) for key, array in feeds.items()})
    with atomic_file(path.with_suffix(".npz")) as file:
        file.write(content.getvalue())
    with atomic_file(path) as file:
        file.write(model)
    return path


def entries(paths: Iterable[Path]) -> list[Path]:
    """Models among some files and folders.

    Raises:
        ModelError: A path is no model, or has no inputs beside it.
    """
    found: list[Path] = []
    for path in paths:
        found += sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    for path in found:
        if not path.is_file():
            raise ModelError(f"there is no model {str(path)!r}")
        if not path.with_suffix(".npz").is_file():
            raise ModelError(f"{path.name!r} has no inputs beside it: {path.with_suffix('.npz').name!r} is missing")
    return found


def load(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model that was kept, and its inputs by name.

    Raises:
        ModelError: The files are not what `keep` wrote.
    """
    proto = onnx.ModelProto.FromString(path.read_bytes())
    feeds: dict[str, Any] = {}
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        for value in read_model(proto).graph.inputs:
            if value.name not in arrays or not isinstance(value.type, TensorType):
                raise ModelError(f"{path.with_suffix('.npz').name!r} lacks input {value.name!r}")
            array, wanted = arrays[value.name], value.type.dtype.numpy
            feeds[value.name] = array if array.dtype == wanted else _original(array, wanted)
    return proto, feeds


def _plain(array: Array) -> Array:
    """An array of a dtype that NumPy itself has, so that a file without pickles holds it."""
    if array.dtype.kind == "O":
        return array.astype(np.str_)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.isbuiltin != 1 else array


def _original(array: Array, wanted: Any) -> Array:
    return array.astype(wanted) if array.dtype.kind == "U" else array.view(wanted)
