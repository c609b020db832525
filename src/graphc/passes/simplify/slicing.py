"""Slices that take everything, and slices of slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.passes.rules import Const, Match, Optional, P, Refusal, Var, refuse
from graphc.passes.rules.conditions import keeps_shape
from graphc.passes.simplify.base import SIMPLIFY

x = Var("x")


@dataclass(frozen=True)
class Range:
    """Indices `start, start + step, ...`, `count` of them, all inside the axis."""

    start: int
    count: int
    step: int


def ranges(m: Match, suffix: str, shape: tuple[int, ...]) -> dict[int, Range]:
    """What a Slice takes of each axis it names; the constants are called `starts`, `ends`, `axes`, `steps` + suffix."""
    starts = m.integers(f"starts{suffix}")
    ends = m.integers(f"ends{suffix}")
    axes = m.integers(f"axes{suffix}") if m.get(f"axes{suffix}") is not None else list(range(len(starts)))
    steps = m.integers(f"steps{suffix}") if m.get(f"steps{suffix}") is not None else [1] * len(starts)
    found: dict[int, Range] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis % len(shape)
        taken = range(*slice(start, _open_end(end, step, shape[place]), step).indices(shape[place]))
        found[place] = Range(taken.start, len(taken), step)
    return found


def _open_end(end: int, step: int, extent: int) -> int | None:
    """ONNX's end as Python's: with a negative step, an end before the first element means all the way."""
    return None if step < 0 and end < -extent else end


@SIMPLIFY.rule(
    P.Slice(x, Const("starts"), Const("ends"), Optional(Const("axes")), Optional(Const("steps"))),
    when=keeps_shape("x"),
    examples=lambda choose: {
        "x": TensorType(dtypes.FLOAT32, (2, 3)),
        "starts": [0],
        "ends": choose.pick(([3], [2], [2**40])),
        "axes": choose.pick(([1], [-1])),
        "steps": [1],
    },
)
def slice_of_everything(m: Match, b: Builder) -> Value | Refusal:
    """Slice(x, everything) = x."""
    if m.get("steps") is not None and np.any(m.array("steps") < 0):
        return refuse("an axis is reversed")
    return m["x"]


@SIMPLIFY.rule(
    P.Slice(
        P.Slice(x, Const("starts1"), Const("ends1"), Optional(Const("axes1")), Optional(Const("steps1"))).only_here(),
        Const("starts2"),
        Const("ends2"),
        Optional(Const("axes2")),
        Optional(Const("steps2")),
    ).named("outer")
)
def slice_of_slice(m: Match, b: Builder) -> Value | Refusal:
    """Slice(Slice(x)) = Slice(x)."""
    if not m.type("x").is_static:
        return refuse(f"%{m['x'].name} has open extents")
    shape = m.type("x").static_shape
    inner = ranges(m, "1", shape)
    middle = tuple(inner[axis].count if axis in inner else extent for axis, extent in enumerate(shape))
    outer = ranges(m, "2", middle)
    merged: dict[int, Range] = {}
    for axis in sorted({*inner, *outer}):
        first = inner.get(axis, Range(0, shape[axis], 1))
        second = outer.get(axis, Range(0, first.count, 1))
        merged[axis] = Range(first.start + second.start * first.step, second.count, first.step * second.step)
    return emit(b, m["x"], merged)


def emit(b: Builder, value: Value, taken: dict[int, Range]) -> Value:
    """A Slice that takes these ranges."""
    taken = {axis: r if r.count else Range(0, 0, 1) for axis, r in taken.items()}
    ends = []
    for found in taken.values():
        end = found.start + found.count * found.step
        # An end before the first element, written plainly, would count from the back.
        ends.append(end if end >= 0 else np.iinfo(np.int64).min)
    columns = ([r.start for r in taken.values()], ends, list(taken), [r.step for r in taken.values()])
    names = ("starts", "ends", "axes", "steps")
    constants = [b.constant(np.array(c, np.int64), name=n) for n, c in zip(names, columns, strict=True)]
    return b.op("Slice", value, *constants)
