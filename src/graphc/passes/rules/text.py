"""Patterns as text, the way their formulas are written on paper."""

from __future__ import annotations

from typing import Any

from graphc.ir import Tensor
from graphc.passes.rules.pattern import (
    Absent,
    Apply,
    AttributePattern,
    Const,
    Either,
    Every,
    Optional,
    Pattern,
    Rest,
    Together,
    Var,
)
from graphc.passes.rules.predicate import Filled

_INFIX = {"Add": ("+", 1), "Sub": ("-", 1), "Mul": ("*", 2), "Div": ("/", 2), "MatMul": ("@", 2), "Pow": ("^", 4)}
_NEGATED = 3


def formula(left: Pattern, right: Pattern) -> str:
    """`x + 0 = x - 0 = x`: every form that the left side has at its root, and what takes its place."""
    options = left.options if isinstance(left, Either) and not left.text else (left,)
    forms = dict.fromkeys(form for option in options for form in _forms(option))
    return " = ".join([*forms, text(right)])


def text(pattern: Pattern, above: int = 0) -> str:
    """A pattern in infix form.

    Args:
        pattern: The pattern.
        above: How strongly the operator around it binds; weaker ones within get parentheses.
    """
    match pattern:
        case Var() | Const():
            return _leaf(pattern)
        case Absent():
            return "_"
        case Optional():
            return f"[{text(pattern.inner)}]"
        case Rest():
            return f"*{pattern.name}"
        case Either():
            # Behind the root, one way to write a thing stands for all.
            return f"({pattern.text})" if pattern.text and above else pattern.text or text(pattern.options[0], above)
        case Together():
            return ", ".join(map(text, pattern.parts))
        case Every():
            return f"{text(pattern.one)}, …"
        case Apply():
            return _apply(pattern, "|".join(pattern.op_types), above)
    raise AssertionError(f"{pattern} is no pattern")


def _forms(option: Pattern) -> list[str]:
    if isinstance(option, Apply):
        return [_apply(option, op_type, 0) for op_type in option.op_types]
    return [text(option)]


def _leaf(pattern: Var | Const) -> str:
    if pattern.name or not isinstance(pattern, Const):
        return pattern.name
    where = pattern.where
    return (where.text or format(where.value, "g")) if isinstance(where, Filled) else str(where)


def _apply(pattern: Apply, op_type: str, above: int) -> str:
    if op_type in _INFIX and len(pattern.inputs) == 2 and not pattern.domain:
        sign, strength = _INFIX[op_type]
        left, right = pattern.inputs
        # Operands of equal strength stand without parentheses on the left alone: x - (y - z).
        tighter = 0 if op_type in ("Add", "Mul") else 1
        written = f"{text(left, strength)} {sign} {text(right, strength + tighter)}"
        return f"({written})" if strength < above else written
    if op_type == "Neg" and len(pattern.inputs) == 1 and not pattern.domain:
        written = f"-{text(pattern.inputs[0], _NEGATED + 1)}"
        return f"({written})" if above else written
    prefix = f"{pattern.domain}::" if pattern.domain else ""
    output = f".{pattern.output}" if pattern.output else ""
    return f"{prefix}{op_type}{_attributes(pattern)}({', '.join(map(text, pattern.inputs))}){output}"


def _attributes(pattern: Apply) -> str:
    written = [shown for name, spec in pattern.attributes.items() if (shown := _attribute(name, spec))]
    return f"[{', '.join(written)}]" if written else ""


def _attribute(name: str, spec: Any) -> str:
    if not isinstance(spec, AttributePattern):
        return f"{name}={'…' if isinstance(spec, Tensor) else _value(spec)}"
    if spec.name:
        return spec.name if spec.name == name else f"{name}={spec.name}"
    return f"{name}={'|'.join(map(_value, spec.examples))}" if spec.examples else ""


def _value(value: Any) -> str:
    return format(value, ".4g") if isinstance(value, float) else str(value)
