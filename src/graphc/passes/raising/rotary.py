"""Rotary position embedding from its pieces.

    x * cos(a) + rotated * sin(a)    with a = Concat(f, f) and rotated = Concat(-x[half:], x[:half]), last axis

is RotaryEmbedding(x, cos(f), sin(f)): the angles are the same for both halves, so that half of them will do.
"""

from __future__ import annotations

import numpy as np

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.ir.symbolic import floordiv
from graphc.passes.raising.base import RAISE
from graphc.passes.rules import Apply, Chooser, Const, Match, Optional, P, Pattern, Refusal, Var, attr, refuse, shape_of

x = Var("x", rank=4, kinds=("float",))
frequencies = Var("f", kinds=("float",))
LAST = attr(where=lambda axis: axis in (-1, 2, 3), examples=(-1,))


def _part(name: str) -> Apply:
    constants = (Const(f"{name} starts"), Const(f"{name} ends"), Const(f"{name} axes"))
    return P.Slice(x, *constants, Optional(Const(f"{name} steps"))).named(name)


def _angles(function: str) -> Pattern:
    """Cosines or sines of the doubled angles, with an axis for the heads put in at some point."""
    doubled = P.Concat(frequencies, frequencies, axis=LAST)
    return P.one_of("Unsqueeze", "Reshape")(P.one_of(function)(doubled), Var("heads axis")).named(function)


rotated = P.Concat(-_part("second"), _part("first"), axis=attr(where=lambda a: a in (-1, 3), examples=(-1, 3)))


def _examples(choose: Chooser) -> dict[str, object]:
    batch, heads, positions, half = (choose.integer(1, 3) for _ in range(4))
    return {
        "x": TensorType(dtypes.FLOAT32, (batch, heads, positions, 2 * half)),
        "f": TensorType(dtypes.FLOAT32, (batch, positions, half)),
        "heads axis": [batch, 1, positions, 2 * half],
        "first starts": [0],
        "first ends": [half],
        "first axes": [3],
        "first steps": [1],
        "second starts": [half],
        "second ends": [np.iinfo(np.int64).max],
        "second axes": [-1],
        "second steps": [1],
    }


@RAISE.rule(x * _angles("Cos") + rotated * _angles("Sin"), examples=_examples)
def rotary(m: Match, b: Builder) -> Value | Refusal:
    """x * cos(Concat(f, f)) + Concat(-x₂, x₁) * sin(Concat(f, f)) = RotaryEmbedding(x, cos(f), sin(f))."""
    batch, _, positions, size = m.shape("x")
    if not isinstance(size, int) or size % 2:
        return refuse(f"the last axis of {size} elements has no two halves")
    half = floordiv(size, 2)
    if m.shape("f") != (batch, positions, half):
        return refuse(f"the angles of shape {list(m.shape('f'))} are not one for each batch, position and pair")
    for function in ("Cos", "Sin"):
        if shape_of(m.node(function).output) != (batch, 1, positions, size):
            return refuse("the angles do not get an axis for the heads")
    for name, begin in (("first", 0), ("second", half)):
        if not _takes_half(m, name, begin, size):
            return refuse("what is rotated are not the two halves")
    return b.op("RotaryEmbedding", m["x"], b.op("Cos", m["f"]), b.op("Sin", m["f"]))


def _takes_half(m: Match, name: str, begin: object, size: int) -> bool:
    """Whether the Slice called `name` takes half of the last axis, from `begin` on."""
    starts, ends, axes = (m.integers(f"{name} {part}") for part in ("starts", "ends", "axes"))
    steps = m.integers(f"{name} steps") if m.get(f"{name} steps") is not None else [1]
    if len(starts) != 1 or axes[0] % 4 != 3 or steps != [1]:
        return False
    taken = range(*slice(starts[0], ends[0]).indices(size))
    return (taken.start, len(taken)) == (begin, size // 2)
