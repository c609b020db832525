"""Index expressions as Triton text: in 32 bits wherever every part fits."""

from __future__ import annotations

from graphc.backends.triton.scope import SCALAR, Code, Scope, Value
from graphc.errors import BackendError
from graphc.ir.symbolic import Atom, Dim, SymbolicInt, interval, simplify, substitute, symbols

_LIMIT = 1 << 31


def place(scope: Scope, index: Dim) -> Dim:
    """An index over axes as one over symbols of places, simplified."""
    bounds = scope.bounds
    return simplify(substitute(index, scope.axes, bounds), bounds)


def is_wide(scope: Scope, index: Dim) -> bool:
    """Whether an index over symbols of places, or a part of it, may need 64 bits."""
    bounds = scope.bounds
    if isinstance(index, int):
        return not -_LIMIT <= index < _LIMIT
    if any(scope.places[name].wide for name in symbols(index)):
        return True
    size = 0
    for monomial, coefficient in index.terms:
        reach = interval(SymbolicInt(((monomial, 1),)) if monomial else 1, bounds)
        if reach is None or reach[1] is None:
            return True
        size += abs(coefficient) * max(abs(reach[0]), abs(reach[1]))
        if any(is_wide(scope, argument) for atom in monomial for argument in atom.arguments):
            return True
    return size >= _LIMIT


def index_value(code: Code, scope: Scope, index: Dim, *, wide: bool | None = None) -> Value:
    """An index over symbols of places as an integer of 32 or, where it is wide, 64 bits.

    Args:
        code: Where divisions are written.
        scope: Has the places, and keeps what was written.
        index: The expression, of `place`.
        wide: Whether to answer 64 bits; where None, only if it is needed.
    """
    if isinstance(index, int):
        return Value(str(index), literal=True)
    return _text(code, scope, index, is_wide(scope, index) if wide is None else wide)


def _text(code: Code, scope: Scope, index: Dim, wide: bool) -> Value:
    if isinstance(index, int):
        return Value(str(index), literal=True)
    parts, dims = [], SCALAR
    for monomial, coefficient in index.terms:
        factors = []
        for atom in monomial:
            factor = _atom(code, scope, atom, wide)
            factors.append(factor.text)
            dims |= factor.dims
        if coefficient != 1 or not factors:
            factors.append(str(coefficient))
        parts.append(" * ".join(factors))
    if len(parts) == 1 and parts[0].isidentifier():
        return Value(parts[0], dims)
    key = f"{'wide ' if wide else ''}{index}"
    found = scope.texts.get(key)
    if found is None:
        found = scope.texts[key] = Value(code.bind(" + ".join(parts).replace("+ -", "- "), "i"), dims)
    return found


def _atom(code: Code, scope: Scope, atom: Atom, wide: bool) -> Value:
    key = f"{'wide ' if wide else ''}{atom}"
    found = scope.texts.get(key)
    if found is not None:
        return found
    if atom.op == "symbol":
        known = scope.places.get(atom.name)
        if known is None:
            raise BackendError(f"{atom.name} has no place in this kernel")
        if known.wide or not wide:
            return Value(known.text, known.dims)
        text, dims = f"tl.cast({known.text}, tl.int64)", known.dims
    else:
        left, right = (_text(code, scope, argument, wide) for argument in map(_plain, atom.arguments))
        dims = left.dims | right.dims
        if atom.op in ("min", "max"):
            text = f"tl.{atom.op}imum({left.text}, {right.text})"
        else:
            text = _division(code, scope, atom, left.text, right.text)
    made = scope.texts[key] = Value(code.bind(text, "i"), dims)
    return made


def _division(code: Code, scope: Scope, atom: Atom, left: str, right: str) -> str:
    """Triton's division and remainder are C's: they are those of index expressions where nothing is negative."""
    reach = interval(_plain(atom.arguments[0]), scope.bounds)
    divisor = interval(_plain(atom.arguments[1]), scope.bounds)
    if reach is not None and reach[0] >= 0 and divisor is not None and divisor[0] > 0:
        return f"{left} {'//' if atom.op == 'floordiv' else '%'} {right}"
    name = "floor_divide" if atom.op == "floordiv" else "floor_remainder"
    return f"{code.helper(name)}({left}, {right}, True)"


def _plain(value: Dim) -> Dim:
    """A constant expression as an integer."""
    return substitute(value, {}) if isinstance(value, SymbolicInt) else value
