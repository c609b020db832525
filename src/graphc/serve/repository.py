"""The repository as it lies on disk: models, their versions, and what their files look like from outside.

REPOSITORY/mnist/1/model.graphc       a package, or model.onnx with its external data
REPOSITORY/mnist/1/check.npz          optional: inputs, and the outputs that the version must give for them
REPOSITORY/mnist/model.toml           optional: how the model is served
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from graphc.errors import RepositoryError
from graphc.serve import model_file

MODEL_SUFFIXES = (".graphc", ".onnx")
CHECK = "check.npz"
_COSTS = ".costs.json"
_MAX_FILES = 10_000

Snapshot: TypeAlias = "tuple[tuple[str, int, int, int], ...]"
"""What a folder's files look like: name, bytes, time of change, inode. Equal snapshots are taken for equal contents."""


@dataclass(frozen=True)
class ModelFolder:
    """A model in the repository.

    Attributes:
        name: Of the model.
        path: Its folder.
        settings: What its `model.toml` looks like; empty without.
        versions: What each version's folder looks like.
    """

    name: str
    path: Path
    settings: Snapshot
    versions: Mapping[int, Snapshot]


def scan(root: Path) -> dict[str, ModelFolder]:
    """The models by name: folders whose names do not begin with a dot.

    Raises:
        RepositoryError: The repository cannot be read.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise RepositoryError(
            f"cannot read the repository {str(root)!r}: {error.strerror}",
            hint="it is a folder of models, each a folder of versions: REPOSITORY/mnist/1/model.graphc",
        ) from error
    found = {name: look(root, name) for name in names}
    return {name: folder for name, folder in found.items() if folder is not None}


def look(root: Path, name: str) -> ModelFolder | None:
    """One model; None where the repository has none of this name.

    Raises:
        RepositoryError: Its folder cannot be read.
    """
    path = root / name
    if name in ("", ".", "..") or name.startswith(".") or "/" in name or "\0" in name:
        return None
    try:
        numbers = sorted(int(entry.name) for entry in os.scandir(path) if _is_version(entry.name) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RepositoryError(f"cannot read {str(path)!r}: {error.strerror}") from error
    settings = tuple(_entry(path / model_file.NAME, model_file.NAME))
    return ModelFolder(name, path, settings, {number: snapshot(path / str(number)) for number in numbers})


def snapshot(folder: Path) -> Snapshot:
    """What the files of a version look like.

    Raises:
        RepositoryError: The folder holds more files than any model has.
    """
    found: list[tuple[str, int, int, int]] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or name.endswith(_COSTS):
                continue
            path = Path(place, name)
            found += _entry(path, str(path.relative_to(folder)))
        if len(found) > _MAX_FILES:
            raise RepositoryError(f"{str(folder)!r} holds more than {_MAX_FILES} files: it is no version of a model")
    return tuple(sorted(found))


def find_model(folder: Path, *, compile_only: bool = False) -> Path:
    """The one package or model of a version's folder.

    Args:
        folder: Of the version.
        compile_only: Whether packages are refused.

    Raises:
        RepositoryError: There is none, there are several, or it is a package and those are refused.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(MODEL_SUFFIXES) and name[0] != ".")
    except OSError as error:
        raise RepositoryError(f"cannot read {str(folder)!r}: {error.strerror}") from error
    if not names:
        raise RepositoryError(f"{str(folder)!r} holds neither a package (.graphc) nor a model (.onnx)")
    if len(names) > 1:
        raise RepositoryError(
            f"{str(folder)!r} holds {' and '.join(names)}", hint="a version is one package or one model"
        )
    if compile_only and names[0].endswith(".graphc"):
        raise RepositoryError(
            f"{str(folder / names[0])!r} is a package, and this server compiles what it runs (--compile-only)",
            hint="put the ONNX model there instead",
        )
    return folder / names[0]


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name[0] != "0" and len(name) < 19


def _entry(path: Path, name: str) -> Iterator[tuple[str, int, int, int]]:
    try:
        status = path.stat()
    except OSError:
        # Gone since its folder was listed: the next look will tell.
        return
    yield name, status.st_size, status.st_mtime_ns, status.st_ino
