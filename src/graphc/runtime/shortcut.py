"""Calls that repeat, without Python's bytecode between them: a built-in function made of native/shortcut.c.

A call of a small model spends more time in Python than in kernels. What such a call does is the same every time: look
at the arrays, allocate the outputs, run the table. The package's library does it in C, through CPython's stable ABI,
NumPy's C API and the layout of arrays that it fixes; all are looked at here before they are relied on.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.package import KernelStep, Step
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


BRIEF_BYTES = 1 << 17
"""Traffic that takes a core a microsecond or two."""
BRIEF_OPERATIONS = 100_000
"""Arithmetic that does."""


def _is_brief(steps: Sequence[Step]) -> bool:
    """Whether handing the interpreter to other threads meanwhile, and asking for it back, gains nobody anything."""
    kernels = [step for step in steps if isinstance(step, KernelStep) and step.bytes]
    whole = len(kernels) == len(steps)
    return whole and sum(k.bytes for k in kernels) <= BRIEF_BYTES and sum(k.flops for k in kernels) <= BRIEF_OPERATIONS


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
        if written is None:
            return None
        lengths = (ctypes.c_ssize_t * len(written))(*written)
        kept.append(lengths)
        slot.name, slot.dtype, slot.rank = name, dtype, len(written)
        slot.shape = ctypes.cast(lengths, ctypes.POINTER(ctypes.c_ssize_t))
    shortcut = abi.Shortcut(
        call,
        ctypes.addressof(python),
        ctypes.cast(inputs, ctypes.POINTER(abi.InputRow)),
        ctypes.cast(outputs, ctypes.POINTER(abi.OutputRow)),
        program.input_count,
        program.output_count,
        call.arrays,
        READY,
        _is_brief(program.variant.steps),
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
    if (array_new := _array_function(abi.ARRAY_NEW)) is None or not _makes_arrays(array_new):
        return None
    functions = [getattr(ctypes.pythonapi, name) for name in abi.INTERPRETER]
    addresses = [*(ctypes.cast(function, ctypes.c_void_p).value for function in functions), array_new]
    objects = [id(thing) for thing in (None, dict, list, tuple, np.ndarray)]
    return (ctypes.c_void_p * (len(addresses) + len(objects)))(*addresses, *objects)


def _array_function(position: int) -> int | None:
    """Address of a function of NumPy's C API; None where NumPy does not say."""
    capsule = getattr(getattr(np, "_core", None), "_multiarray_umath", None)
    table = getattr(capsule, "_ARRAY_API", None)
    if table is None:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.c_void_p.from_address(pointer(table, None) + position * ctypes.sizeof(ctypes.c_void_p)).value


def _makes_arrays(address: int) -> bool:
    """Whether what lies there makes the arrays that `PyArray_NewFromDescr` makes."""
    new = ctypes.PYFUNCTYPE(
        ctypes.py_object,
        *(ctypes.py_object, ctypes.py_object, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t)),
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p),
    )(address)
    dtype, extents = np.dtype(np.float32), (3, 5)
    # It takes over a reference.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dtype))
    made = new(np.ndarray, dtype, len(extents), (ctypes.c_ssize_t * len(extents))(*extents), None, None, 0, None)
    return type(made) is np.ndarray and made.shape == extents and made.dtype is dtype and made.flags.carray


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
