"""External data: tensors in files beside the model, which a hostile model must not use to read anything else."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn

import onnx

from graphc.errors import ModelError
from graphc.frontend.source import open_view


@dataclass(frozen=True)
class ExternalData:
    """Where a tensor's bytes lie.

    Args:
        owner: The tensor, for messages.
        location: File, relative to the model's folder.
        offset: First byte.
        length: Number of bytes; None where it is the tensor's size.
    """

    owner: str
    location: str
    offset: int = 0
    length: int | None = None

    @staticmethod
    def of(proto: onnx.TensorProto, owner: str) -> ExternalData:
        """Reads the entries of a tensor.

        Raises:
            ModelError: There is no location, or offset or length are no natural numbers.
        """
        entries = {entry.key: entry.value for entry in proto.external_data}
        data = ExternalData(owner, entries.get("location", ""))
        if not data.location:
            data.fail("has external data without a location")
        numbers: dict[str, int] = {}
        for key in ("offset", "length"):
            text = entries.get(key)
            if text is not None:
                if not (text.isascii() and text.isdigit() and len(text) <= 19):
                    data.fail(f"has external data with the {key} {text[:40]!r}")
                numbers[key] = int(text)
        return ExternalData(owner, data.location, numbers.get("offset", 0), numbers.get("length"))

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        """Raises ModelError that names the tensor."""
        raise ModelError(f"tensor {self.owner!r} {message}", nodes=(self.owner,), hint=hint)


@dataclass
class ExternalFiles:
    """The data files of one model, each opened once.

    Args:
        folder: The model's folder; None where the model did not come from a file.
    """

    folder: Path | None
    _views: dict[str, memoryview] = field(default_factory=dict)

    def read(self, data: ExternalData, needed: int) -> memoryview:
        """A tensor's bytes, memory-mapped where the file is large.

        Args:
            data: Where they lie.
            needed: How many dtype and shape ask for.

        Raises:
            ModelError: The location leaves the folder or is no regular file, or the file is too short.
        """
        if data.length is not None and data.length != needed:
            data.fail(f"needs {needed} bytes and its external data has a length of {data.length}")
        view = self._views.get(data.location)
        if view is None:
            view = self._views[data.location] = open_view(self._resolve(data))
        if data.offset > len(view) or needed > len(view) - data.offset:
            data.fail(
                f"needs {needed} bytes at offset {data.offset} of {data.location!r}, which has {len(view)}",
                "the file is incomplete or belongs to another model; copy it again",
            )
        return view[data.offset : data.offset + needed]

    def _resolve(self, data: ExternalData) -> Path:
        location = data.location
        if self.folder is None:
            data.fail(
                f"lies in external data {location!r}, and a model given as bytes has no folder",
                "pass the model's path, or its folder as `folder=`",
            )
        if (
            "\0" in location
            or "\\" in location
            or ".." in PurePosixPath(location).parts
            or PurePosixPath(location).is_absolute()
            or PureWindowsPath(location).drive
        ):
            data.fail(
                f"has external data at {location!r}, which is not a path inside the model's folder",
                "external data must lie in the model's folder or below it",
            )
        try:
            root = os.path.realpath(self.folder, strict=True)
            path = os.path.realpath(os.path.join(root, location), strict=True)
        except FileNotFoundError:
            data.fail(
                f"lies in external data {location!r}, and there is no such file in {str(self.folder)!r}",
                "copy the data file beside the model",
            )
        except OSError as error:
            data.fail(f"has external data {location!r} that cannot be opened: {error.strerror}")
        if os.path.commonpath([root, path]) != root:
            data.fail(
                f"has external data {location!r}, a link that leaves the model's folder",
                "copy the data file itself into the model's folder",
            )
        if not os.path.isfile(path):
            data.fail(f"has external data {location!r}, which is no regular file")
        return Path(path)
