"""The structures that Python and native/launcher.c share, as the launcher declares them."""

from __future__ import annotations

import ctypes

import numpy as np

VERSION = 1
"""`GRAPHC_ABI` of native/launcher.c: raised with every change of what is declared here."""

# Bases: arena, weights, then the call's arrays (inputs, outputs), then object slots.
ARENA, WEIGHTS, FIRST_ARRAY = 0, 1, 2
ARGUMENT = np.dtype([("base", "<i8"), ("offset", "<i8")])
STEP = np.dtype([("kernel", "<u8"), ("arguments", "<u8"), ("dims", "<u8"), ("argument_count", "<i8")])


class Call(ctypes.Structure):
    """`Call` of native/launcher.c."""

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
