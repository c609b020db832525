"""Calls that repeat, without Python's bytecode between them: a built-in function made of native/shortcut.c.

A call of a small model spends more time in Python than in kernels. What such a call does is the same every time: look
at the arrays, allocate the outputs, run the table. The package's library does it in C, through CPython's stable ABI and
the layout of arrays that NumPy's C API fixes; both are looked at here before they are relied on.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.runtime import abi
from graphc.runtime.memory import DATA_OFFSET, READY, Array, address

if TYPE_CHECKING:
    from graphc.runtime.context import LibraryContext

_METH_FASTCALL = 0x0080
_BYTES = ctypes.POINTER(ctypes.c_uint8)

Function = Callable[[Any], dict[str, Any] | None]
"""Takes what a call takes; answers the outputs by name, or None for a call that must go the long way."""


class _Definition(ctypes.Structure):
    """`PyMethodDef` of CPython."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Owner(np.ndarray[Any, np.dtype[np.uint8]]):
    """Bytes that begin with a `Shortcut`, and all that it points to: what the built-in function has as its `self`."""

    kept: tuple[Any, ...]


def build(context: LibraryContext, entry: int) -> Function | None:
    """The short way of a program's calls; None where the interpreter is of another kind.

    Args:
        context: Of a program that is one range of kernels; the function's own from here on.
        entry: Address of `graphc_shortcut` in the program's library.
    """
    python = _interpreter()
    call = context.whole
    if python is None or call is None:
        return None
    program = context.program
    inputs = (abi.InputRow * program.input_count)()
    outputs = (abi.OutputRow * program.output_count)()
    kept: list[Any] = [context, python, inputs, outputs]
    for row, (name, shape, dtype) in zip(inputs, program.input_rows, strict=True):
        if shape is None:
            return None
        extents = (ctypes.c_int64 * len(shape))(*shape)
        kept.append(extents)
        row.name, row.dtype, row.rank = name, dtype, len(shape)
        row.shape = ctypes.cast(extents, ctypes.POINTER(ctypes.c_int64))
        if (value := program.variant.values.get(name)) is not None:
            row.value, row.value_bytes = value, len(value)
    for slot, (name, written, dtype) in zip(outputs, program.outputs, strict=True):
        slot.name, slot.arguments = name, (written, dtype)
    shortcut = abi.Shortcut(
        call,
        ctypes.addressof(python),
        np.empty,
        ctypes.cast(inputs, ctypes.POINTER(abi.InputRow)),
        ctypes.cast(outputs, ctypes.POINTER(abi.OutputRow)),
        program.input_count,
        program.output_count,
        call.arrays,
        READY,
        0,
    )
    definition = _Definition(b"call", entry, _METH_FASTCALL, None)
    owner = np.ctypeslib.as_array(ctypes.cast(ctypes.byref(shortcut), _BYTES), (ctypes.sizeof(shortcut),)).view(_Owner)
    owner.kept = (*kept, shortcut, definition)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    function: Function = make(ctypes.addressof(definition), owner, None)
    return function


@cache
def _interpreter() -> Any:
    """`Interpreter` of native/shortcut.c for this process; None where objects or arrays are laid out differently."""
    if sys.implementation.name != "cpython" or object.__basicsize__ != 16 or not DATA_OFFSET or not _arrays_known():
        return None
    if not all(hasattr(ctypes.pythonapi, name) for name in abi.INTERPRETER):
        return None
    functions = [getattr(ctypes.pythonapi, name) for name in abi.INTERPRETER]
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
    objects = [id(thing) for thing in (None, dict, list, tuple, np.ndarray)]
    return (ctypes.c_void_p * (len(addresses) + len(objects)))(*addresses, *objects)


def _arrays_known() -> bool:
    """Whether array objects are laid out as `abi.ArrayObject` says."""
    probes: tuple[Array, ...] = (np.arange(7), np.zeros((3, 5), np.float32)[1:, ::2], np.array(True))
    for probe in probes:
        found = abi.ArrayObject.from_address(id(probe))
        if (
            found.type != id(np.ndarray)
            or found.data != address(probe)
            or found.rank != probe.ndim
            or tuple(found.shape[: probe.ndim]) != probe.shape
            or tuple(found.strides[: probe.ndim]) != probe.strides
            or found.dtype != id(probe.dtype)
            or found.flags != probe.flags.num
        ):
            return False
    return True
