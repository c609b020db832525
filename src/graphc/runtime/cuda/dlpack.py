"""DLPack for arrays in a GPU's memory, which NumPy's own does not take: https://dmlc.github.io/dlpack/latest/c_api.html."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

from graphc.package import numpy_dtype

_CUDA = 2
_NAME, _USED = b"dltensor", b"used_dltensor"
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_BFLOAT = 4


class _Tensor(ctypes.Structure):
    """`DLTensor`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """`DLManagedTensor`."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_python.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))

_exported: dict[int, tuple[Any, ...]] = {}
"""What consumers of exported arrays hold, by the address of its structure."""


class Imported:
    """An array that another library exported; the memory is its own until nobody holds this.

    Attributes:
        address: Of the first element.
        shape: Its extents.
        strides: In elements; None where the array is row-major.
        dtype: Of its elements.
    """

    def __init__(self, capsule: Any) -> None:
        managed = _Managed.from_address(_python.PyCapsule_GetPointer(capsule, _NAME))
        # From here on this, not the capsule, gives the memory back.
        _python.PyCapsule_SetName(capsule, _USED)
        weakref.finalize(self, _give_back, managed)
        tensor = managed.tensor
        self.address = (tensor.data or 0) + tensor.byte_offset
        self.shape = tuple(tensor.shape[: tensor.ndim])
        self.strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
        self.dtype = _dtype(tensor.code, tensor.bits, tensor.lanes)


def export(owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: int) -> Any:
    """A capsule of a row-major array.

    Args:
        owner: Of the memory; held until the consumer gives it back.
        address: Of the first element.
        shape: Its extents.
        dtype: Of its elements.
        device: Number of the GPU.

    Raises:
        BufferError: DLPack has no such dtype.
    """
    # Dtypes that NumPy did not define may be of its kinds: an 8-bit float says that it is an "f".
    own = _CODES.get(dtype.kind) if dtype.isbuiltin == 1 else None
    code = _BFLOAT if dtype == numpy_dtype("bfloat16") else own
    if code is None:
        raise BufferError(f"DLPack has no dtype {dtype}")
    extents = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    tensor = _Tensor(address, _CUDA, device, len(shape), code, 8 * dtype.itemsize, 1, extents, None, 0)
    managed = _Managed(tensor, None, _delete)
    _exported[ctypes.addressof(managed)] = managed, owner, extents
    return _python.PyCapsule_New(ctypes.addressof(managed), _NAME, ctypes.cast(_forget, ctypes.c_void_p))


def _delete_exported(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


def _forget_capsule(capsule: int) -> None:
    """The end of a capsule: of its array too, where nobody took it."""
    if _is_valid(capsule, _NAME):
        _exported.pop(_pointer_of(capsule, _NAME), None)


_delete = _Deleter(_delete_exported)
_forget = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_forget_capsule)


def _give_back(managed: Any) -> None:
    if managed.deleter:
        managed.deleter(ctypes.byref(managed))


def _dtype(code: int, bits: int, lanes: int) -> np.dtype[Any]:
    kinds = {number: kind for kind, number in _CODES.items()}
    if lanes != 1 or bits % 8 or (code != _BFLOAT and code not in kinds):
        raise BufferError(f"an array of DLPack's type {code} with {bits} bits and {lanes} lanes")
    if code == _BFLOAT:
        return numpy_dtype("bfloat16")
    dtype: np.dtype[Any] = np.dtype(f"{kinds[code]}{bits // 8}")
    return dtype
