"""Tensor to TensorProto: within the model, or in a file beside it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
import onnx

from graphc.frontend.packing import pack_codes
from graphc.ir import Tensor, dtypes
from graphc.ir.dtypes import DType

Array: TypeAlias = np.ndarray[Any, Any]

SMALL_BYTES = 1024
"""Tensors up to this size stay within the model; shape arithmetic must be readable without the data file."""
PAGE = 4096
"""Alignment of large tensors in a data file, so that each can be mapped by itself."""


class TensorWriter(Protocol):
    """Where an exporter puts the elements of constants."""

    def __call__(self, tensor: Tensor, name: str) -> onnx.TensorProto:
        """The tensor as ONNX's message."""


def write_inline(tensor: Tensor, name: str) -> onnx.TensorProto:
    """A TensorProto that holds the elements."""
    proto = onnx.TensorProto(name=name, data_type=tensor.dtype.onnx, dims=tensor.shape)
    if tensor.dtype is dtypes.STRING:
        proto.string_data.extend(_encoded(item) for item in tensor.array().reshape(-1))
    else:
        proto.raw_data = pack(tensor.array(), tensor.dtype)
    return proto


@dataclass
class DataFile:
    """A data file that grows as tensors are written.

    Args:
        file: Open for writing, at its start.
        location: Its name beside the model.
    """

    file: IO[bytes]
    location: str

    def __call__(self, tensor: Tensor, name: str) -> onnx.TensorProto:
        """Appends the elements; answers a TensorProto that points to them."""
        if tensor.dtype is dtypes.STRING or tensor.nbytes <= SMALL_BYTES:
            return write_inline(tensor, name)
        data = pack(tensor.array(), tensor.dtype)
        self.file.write(b"\0" * (-self.file.tell() % PAGE))
        entries = {"location": self.location, "offset": str(self.file.tell()), "length": str(len(data))}
        self.file.write(data)
        proto = onnx.TensorProto(name=name, data_type=tensor.dtype.onnx, dims=tensor.shape)
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            proto.external_data.add(key=key, value=value)
        return proto


def pack(array: Array, dtype: DType) -> bytes:
    """An array as ONNX's raw bytes: little-endian, elements narrower than a byte packed from the low bits up."""
    if dtype.bits < 8:
        flat = array.reshape(-1)
        codes: Array = (flat.astype(np.int8) if dtype.is_integer else flat).view(np.uint8) & (2**dtype.bits - 1)
        return pack_codes(codes, dtype.bits)
    if sys.byteorder == "big":
        array = array.byteswap()
    return bytes(array.tobytes())


def _encoded(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogateescape")
