"""The structures that Python and native/ share, as native/ declares them."""

from __future__ import annotations

import ctypes

import numpy as np

VERSION = 5
"""`GRAPHC_ABI` of native/launcher.h: raised with every change of what is declared here."""

# Bases: arena, weights, then the call's arrays (inputs, outputs), then object slots, then places that loops set.
ARENA, WEIGHTS, FIRST_ARRAY = 0, 1, 2
ARGUMENT = np.dtype([("base", "<i8"), ("offset", "<i8")])
STEP = np.dtype([("kernel", "<u8"), ("arguments", "<u8"), ("dims", "<u8"), ("argument_count", "<i8")])
COPY, BRANCH, LOOP, RAISE = range(4)
"""What rows without kernel do, as native/control.c names them."""


class Call(ctypes.Structure):
    """`Call` of native/launcher.h."""

    _fields_ = (
        ("steps", ctypes.c_void_p),
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("bases", ctypes.c_void_p),
        ("arrays", ctypes.c_void_p),
        ("first_array", ctypes.c_int64),
        ("array_count", ctypes.c_int64),
        ("data_offset", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("stamps", ctypes.c_void_p),
    )


class ArrayObject(ctypes.Structure):
    """`PyArrayObject_fields` of NumPy's C API, where CPython's objects have a head of two words."""

    _fields_ = (
        ("references", ctypes.c_ssize_t),
        ("type", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("base", ctypes.c_void_p),
        ("dtype", ctypes.c_void_p),
        ("flags", ctypes.c_int),
    )


INTERPRETER = (
    "Py_IncRef",
    "Py_DecRef",
    "PyDict_New",
    "PyDict_GetItem",
    "PyDict_Size",
    "PyDict_SetItem",
    "PyList_GetItem",
    "PyList_Size",
    "PyTuple_GetItem",
    "PyTuple_Size",
    "PyErr_Clear",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
)
"""The functions at the head of `Interpreter` of native/shortcut.c; one of NumPy's and five objects follow."""
ARRAY_NEW = 94
"""Of `PyArray_NewFromDescr` in the table of NumPy's C API, whose order is fixed."""


class InputRow(ctypes.Structure):
    """`Input` of native/shortcut.c."""

    _fields_ = (
        ("name", ctypes.py_object),
        ("dtype", ctypes.py_object),
        ("rank", ctypes.c_int64),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("value", ctypes.c_char_p),
        ("value_bytes", ctypes.c_int64),
    )


class OutputRow(ctypes.Structure):
    """`Output` of native/shortcut.c."""

    _fields_ = (
        ("name", ctypes.py_object),
        ("dtype", ctypes.py_object),
        ("rank", ctypes.c_int64),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
    )


class Shortcut(ctypes.Structure):
    """`Shortcut` of native/shortcut.c."""

    _fields_ = (
        ("call", Call),
        ("python", ctypes.c_void_p),
        ("inputs", ctypes.POINTER(InputRow)),
        ("outputs", ctypes.POINTER(OutputRow)),
        ("input_count", ctypes.c_int64),
        ("output_count", ctypes.c_int64),
        ("arrays", ctypes.c_void_p),
        ("ready", ctypes.c_int64),
        ("brief", ctypes.c_int64),
        ("busy", ctypes.c_int64),
    )
