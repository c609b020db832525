"""TensorProto to lazy Tensor: sizes are checked against the data at hand before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx

from graphc.errors import ModelError, OptionError
from graphc.frontend.external import ExternalData, ExternalFiles
from graphc.frontend.packing import packed_bytes, unpack_codes
from graphc.frontend.wire import Payloads
from graphc.ir import Tensor, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.inference import RANK_LIMIT

Array: TypeAlias = np.ndarray[Any, Any]

KEEP_BYTES = 1 << 16
"""Tensors up to this size stay in memory once read."""
MAX_DENSE_BYTES = 1 << 31
"""Largest dense form of a sparse tensor: its size is not backed by bytes in the file."""

_STORAGE: dict[str, tuple[str, int]] = {
    "float32": ("float_data", 1),
    "complex64": ("float_data", 2),
    "float64": ("double_data", 1),
    "complex128": ("double_data", 2),
    "int64": ("int64_data", 1),
    "uint32": ("uint64_data", 1),
    "uint64": ("uint64_data", 1),
}
"""Typed field and entries per element of each dtype; `int32_data` and one for all others."""
_PACKED_FIELDS = (2, 4)
"""Widths whose elements share entries of `int32_data` as they share bytes; 6-bit elements have an entry each."""


@dataclass(frozen=True)
class TensorReader:
    """Reads the tensors of one model.

    Args:
        payloads: Where large `raw_data` went.
        files: The model's external data.
    """

    payloads: Payloads
    files: ExternalFiles

    def read(self, proto: onnx.TensorProto, owner: str) -> Tensor:
        """The tensor, whose elements are read when asked for.

        Args:
            proto: ONNX's tensor.
            owner: Initializer or node that holds it, for messages.

        Raises:
            ModelError: Dtype, shape and data do not fit each other, or the data cannot be read safely.
        """
        label = _Label(owner)
        dtype = self._dtype(proto, label)
        shape = _shape(proto.dims, label)
        if proto.HasField("segment"):
            label.fail("is stored in segments, which no exporter writes", "export the model again")
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            return self._external(proto, dtype, shape, label)
        if dtype is dtypes.STRING:
            return _strings(proto, shape, label)
        if proto.HasField("raw_data"):
            return _from_bytes(self.payloads.get(proto.raw_data), dtype, shape, label)
        return _from_fields(proto, dtype, shape, label)

    def read_sparse(self, proto: onnx.SparseTensorProto, owner: str) -> Tensor:
        """The dense form of a sparse tensor.

        Raises:
            ModelError: The parts do not fit each other, or the dense form is larger than `MAX_DENSE_BYTES`.
        """
        label = _Label(owner)
        values = self.read(proto.values, owner)
        indices = self.read(proto.indices, owner)
        shape = _shape(proto.dims, label)
        count = values.size
        if indices.dtype is not dtypes.INT64 or indices.shape not in ((count,), (count, len(shape))):
            label.fail(f"has indices {indices} for {count} values of shape {list(shape)}")
        if math.prod(shape) * values.dtype.itemsize > MAX_DENSE_BYTES:
            label.fail(f"of shape {list(shape)} would take more than {MAX_DENSE_BYTES >> 30} GB in dense form")
        places = indices.array()
        if places.ndim == 1:
            inside = bool(np.all((places >= 0) & (places < math.prod(shape))))
        else:
            inside = bool(np.all((places >= 0) & (places < np.array(shape, np.int64))))
        if not inside:
            label.fail(f"has an index outside its shape {list(shape)}")

        def load() -> Array:
            dense: Array = np.zeros(shape, values.dtype.numpy)
            if values.dtype is dtypes.STRING:
                dense.fill("")
            if places.ndim == 1:
                dense.reshape(-1)[places] = values.array().reshape(-1)
            else:
                dense[tuple(places.T)] = values.array().reshape(-1)
            return dense

        return Tensor(values.dtype, shape, load)

    def _dtype(self, proto: onnx.TensorProto, label: _Label) -> DType:
        try:
            return dtypes.from_onnx(proto.data_type)
        except OptionError:
            label.fail(f"has the unknown data type number {proto.data_type}")

    def _external(self, proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], label: _Label) -> Tensor:
        if dtype is dtypes.STRING:
            label.fail("holds strings in external data, which ONNX does not allow")
        needed = packed_bytes(dtype, math.prod(shape))
        data = self.files.read(ExternalData.of(proto, label.owner), needed)
        return _from_bytes(data, dtype, shape, label)


@dataclass(frozen=True)
class _Label:
    owner: str

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        raise ModelError(f"tensor {self.owner!r} {message}", nodes=(self.owner,), hint=hint)


def _shape(dims: Any, label: _Label) -> tuple[int, ...]:
    if len(dims) > RANK_LIMIT:
        label.fail(f"has rank {len(dims)}; {RANK_LIMIT} is the limit")
    shape = tuple(int(d) for d in dims)
    if any(extent < 0 for extent in shape):
        label.fail(f"has a negative extent in its shape {list(shape)}")
    return shape


def _from_bytes(data: memoryview, dtype: DType, shape: tuple[int, ...], label: _Label) -> Tensor:
    count = math.prod(shape)
    needed = packed_bytes(dtype, count)
    if data.nbytes != needed:
        label.fail(f"of type {dtype}{list(shape)} needs {needed} bytes of data and has {data.nbytes}")
    return Tensor(dtype, shape, lambda: unpack(data, dtype, shape), keep=needed <= KEEP_BYTES)


def unpack(data: memoryview | bytes, dtype: DType, shape: tuple[int, ...]) -> Array:
    """ONNX's raw bytes as an array: a view where alignment and packing allow one."""
    count = math.prod(shape)
    if dtype.bits < 8:
        codes = unpack_codes(data, dtype.bits, count)
        return _decode(codes, dtype).reshape(shape)
    if dtype is dtypes.BOOL:
        return np.not_equal(np.frombuffer(data, np.uint8), 0).reshape(shape)
    array: Array = np.frombuffer(data, dtype.numpy.newbyteorder("<") if dtype.numpy.isbuiltin == 1 else dtype.numpy)
    return (array if array.flags.aligned else array.copy()).reshape(shape)


def _decode(codes: np.ndarray[Any, np.dtype[np.uint8]], dtype: DType) -> Array:
    """Elements narrower than a byte from their bit patterns, one code a byte."""
    if dtype.kind == "int":
        sign = 1 << (dtype.bits - 1)
        return ((codes.astype(np.int8) ^ sign) - sign).astype(dtype.numpy)
    if dtype.kind == "uint":
        return codes.astype(dtype.numpy)
    return codes.view(dtype.numpy)


def _from_fields(proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], label: _Label) -> Tensor:
    name, per_element = _STORAGE.get(dtype.name, ("int32_data", 1))
    values = getattr(proto, name)
    count = math.prod(shape)
    needed = packed_bytes(dtype, count) if dtype.bits in _PACKED_FIELDS else count * per_element
    if len(values) != needed:
        if not values and not any(len(getattr(proto, other)) for other in ("float_data", "int32_data", "int64_data")):
            label.fail(
                f"of type {dtype}{list(shape)} holds no data",
                "the weights were left out or are stored in another file; export the model with its weights",
            )
        label.fail(f"of type {dtype}{list(shape)} needs {needed} entries in {name} and has {len(values)}")
    return Tensor(dtype, shape, _loader(values, dtype, shape), keep=needed * 4 <= KEEP_BYTES)


def _loader(values: Any, dtype: DType, shape: tuple[int, ...]) -> Callable[[], Array]:
    def load() -> Array:
        if dtype.kind == "complex":
            part = np.float32 if dtype is dtypes.COMPLEX64 else np.float64
            return np.array(values, part).view(dtype.numpy).reshape(shape)
        if dtype.bits in _PACKED_FIELDS:
            return unpack(np.array(values, np.int64).astype(np.uint8).tobytes(), dtype, shape)
        if dtype.name in _STORAGE:
            return np.array(values, dtype.numpy).reshape(shape)
        wide: Array = np.array(values, np.int64)
        if dtype is dtypes.BOOL:
            return np.not_equal(wide, 0).reshape(shape)
        if dtype.kind in ("int", "uint"):
            return wide.astype(dtype.numpy).reshape(shape)
        # Floating types of up to 16 bits are stored as their bit patterns.
        codes: Array = wide & (2**dtype.bits - 1)
        return codes.astype(np.uint16 if dtype.bits == 16 else np.uint8).view(dtype.numpy).reshape(shape)

    return load


def _strings(proto: onnx.TensorProto, shape: tuple[int, ...], label: _Label) -> Tensor:
    if len(proto.string_data) != math.prod(shape):
        label.fail(f"of shape {list(shape)} needs {math.prod(shape)} strings and has {len(proto.string_data)}")

    def load() -> Array:
        array = np.empty(len(proto.string_data), object)
        array[:] = [text.decode("utf-8", "surrogateescape") for text in proto.string_data]
        return array.reshape(shape)

    return Tensor(dtypes.STRING, shape, load, keep=True)
