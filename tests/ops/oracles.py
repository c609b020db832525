"""Random data, and what implementations from outside make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphc.ir import SymbolicInt, TensorType, dtypes
from graphc.ops import evaluate_expression, express
from tests.ops.differential import Case, check

seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 5), max_size=4).map(tuple)
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -1.0, 1.0)


def outside(subject: Case) -> list[Any]:
    """Outputs by ONNX Runtime, or by onnx.reference where ONNX Runtime has no kernel for these dtypes."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, NotImplemented

    try:
        return subject.onnxruntime()
    except (Fail, InvalidGraph, NotImplemented, RuntimeError):
        return subject.reference()


def numbers(seed: int, shape: tuple[int, ...], dtype: str, *, special: bool = False, scale: float = 2.0) -> Any:
    """Random elements of `dtype`; with `special`, some floats are NaN, infinite, zero or half-way."""
    random = np.random.default_rng(seed)
    kind = dtypes.from_name(dtype)
    if kind.kind == "bool":
        return random.integers(0, 2, shape).astype(np.bool_)
    if kind.is_integer:
        low = -9 if kind.kind == "int" else 0
        return random.integers(low, 10, shape).astype(kind.numpy)
    data = random.standard_normal(shape) * scale
    if special:
        data = np.where(random.random(shape) < 0.3, random.choice(SPECIAL, shape), data)
    return np.asarray(data).astype(kind.numpy)


def whole_range(seed: int, shape: tuple[int, ...], dtype: str) -> Any:
    """Random integers over all of `dtype`."""
    kind = dtypes.from_name(dtype).numpy
    info = np.iinfo(kind)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype=kind, endpoint=True)


@st.composite
def broadcastable(draw: st.DrawFn, count: int) -> tuple[tuple[int, ...], ...]:
    """Shapes that broadcast with each other."""
    whole = draw(shapes)
    found = []
    for _ in range(count):
        start = draw(st.integers(0, len(whole)))
        found.append(tuple(draw(st.sampled_from((1, extent))) for extent in whole[start:]))
    return tuple(found)


def check_late(subject: Case) -> None:
    """Checks a node whose output extents only the run time tells; its expression runs with them bound."""
    check(subject, outside, expression=False, shapes=False)
    wanted = subject.evaluate()
    bindings: dict[str, int] = {}
    for value, array in zip(subject.node.outputs, wanted, strict=True):
        assert isinstance(value.type, TensorType)
        for dim, extent in zip(value.type.dims, array.shape, strict=True):
            if isinstance(dim, SymbolicInt):
                bindings[str(dim)] = extent
    expressions = express(subject.node)
    assert expressions is not None
    for expression, array in zip(expressions, wanted, strict=True):
        found = evaluate_expression(expression, subject.arrays, bindings)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
