"""Operators of several results taken apart, so that each result can be computed where it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import Builder, Value
from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Match, P, Refusal, Rest, Var, attr, refuse, rule_set, shape_of
from graphc.passes.simplify.slicing import Range, emit

RULES = rule_set("decompose")


@register_pass
@dataclass(frozen=True)
class Decompose(RulePass):
    """Writes operators of several results as operators of one, which fuse with their readers.

    Before: types are inferred. After: a Split that remains has parts of open extents. Results are the same bits.
    """

    name: ClassVar[str] = "decompose"


@RULES.rule(P.Split(Var("x"), Rest("sizes"), axis=attr("axis", default=0)))
def split_into_slices(m: Match, b: Builder) -> Refusal | tuple[Value, ...]:
    """Split(x) = Slice(x), Slice(x), ..., one for each part."""
    axis = m.attribute("axis") % len(m.shape("x"))
    begin = 0
    parts: list[Value] = []
    for part in m.root.outputs:
        extent = shape_of(part)[axis]
        if not isinstance(extent, int):
            return refuse(f"the extent {extent} of %{part.name} is open")
        parts.append(emit(b, m["x"], {axis: Range(begin, extent, 1)}))
        begin += extent
    return tuple(parts)
