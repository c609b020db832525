"""Replacements that are patterns: the right side of a formula, built from what the left side matched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.errors import OptionError
from graphc.ir import Builder, Value
from graphc.passes.base import Refusal, refuse
from graphc.passes.rules.match import Match, shape_of, tensor_type
from graphc.passes.rules.pattern import Apply, AttributePattern, Const, Either, Pattern, Together, Var, literal
from graphc.passes.rules.predicate import Filled
from graphc.passes.rules.text import text


def template(left: Pattern, right: Pattern) -> Callable[[Match, Builder], Value | tuple[Value, ...] | Refusal]:
    """A function that builds `right` for a match of `left`, and refuses where that is of another shape or dtype.

    Raises:
        OptionError: `right` has something that `left` does not bind, or that cannot be built.
    """
    olds = left.parts if isinstance(left, Together) else (left,)
    news = right.parts if isinstance(right, Together) else (right,)
    if len(olds) != len(news):
        raise OptionError(f"a formula has {len(olds)} on its left side and {len(news)} on its right")
    bound = _names(left)
    for part in news:
        _check(part, bound)

    def build(m: Match, b: Builder) -> Value | tuple[Value, ...] | Refusal:
        made: dict[int, Value] = {}
        answer = []
        for old, part in zip(m.roots or (m.root.output,), news, strict=True):
            value, wanted = _build(part, m, b, made), tensor_type(old)
            if shape_of(value) != shape_of(old) or tensor_type(value).dtype != wanted.dtype:
                return refuse(f"the result is {wanted}, but {text(part)} is {value.type}")
            answer.append(value)
        return tuple(answer) if m.roots else answer[0]

    return build


def _names(pattern: Pattern) -> set[str]:
    """Values and attributes that every match of a pattern binds."""
    match pattern:
        case Var() | Const():
            return {pattern.name}
        case Either():
            return set.intersection(*map(_names, pattern.options))
        case Together():
            return set().union(*map(_names, pattern.parts))
        case Apply():
            attributes = (spec.name for spec in pattern.attributes.values() if isinstance(spec, AttributePattern))
            return {*attributes}.union(*map(_names, pattern.inputs))
    return set()


def _check(pattern: Pattern, bound: set[str]) -> None:
    match pattern:
        case Var() | Const() if pattern.name:
            if pattern.name not in bound:
                raise OptionError(f"a formula's right side has {pattern.name!r}, which its left side does not bind")
        case Const(where=Filled()):
            pass
        case Apply(op_types=(_,), output=0):
            for inner in pattern.inputs:
                _check(inner, bound)
            for name, spec in pattern.attributes.items():
                known = not isinstance(spec, AttributePattern) or (spec.name in bound if spec.name else spec.examples)
                if not known:
                    raise OptionError(f"attribute {name} on a formula's right side has no value")
        case _:
            raise OptionError(f"a formula's right side cannot have {text(pattern)}: it is to be built")


def _build(pattern: Pattern, m: Match, b: Builder, made: dict[int, Value]) -> Value:
    if isinstance(pattern, Var | Const) and pattern.name:
        return m[pattern.name]
    if id(pattern) not in made:
        if isinstance(pattern, Apply):
            inputs = [_build(inner, m, b, made) for inner in pattern.inputs]
            attributes: dict[str, Any] = {}
            for name, spec in pattern.attributes.items():
                long = literal(spec)
                attributes[name] = m.attribute(long.name) if long.name else long.examples[0]
            made[id(pattern)] = b.op(pattern.op_types[0], *inputs, domain=pattern.domain, **attributes)
        else:
            assert isinstance(pattern, Const) and isinstance(pattern.where, Filled), pattern
            made[id(pattern)] = b.constant(np.array(pattern.where.value).astype(m.output.dtype.numpy))
    return made[id(pattern)]
