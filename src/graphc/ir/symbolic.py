"""Integer expressions over named symbols: extents of tensors, and index expressions of tensor expressions.

An expression is kept as a polynomial with integer coefficients over atoms. An atom is a symbol, or a floor division,
floor remainder, minimum or maximum of expressions. Two equal polynomials are equal objects, so `2*n + n == 3*n` holds
without a prover. Functions that combine dimensions accept and return plain `int` wherever the value is known.

The quasi-affine part (`//` and `%` by constants with bounded symbols) follows the usual rules of loop-index
simplification: with `0 <= r < c`, `(c*q + r) // c == q` and `(c*q + r) % c == r`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from graphc.errors import OptionError

Dim: TypeAlias = "int | SymbolicInt"
"""An integer that is known, or an expression over symbols."""

Bounds: TypeAlias = Mapping[str, "tuple[int, int | None]"]
"""Inclusive lower and upper bound of each symbol; `None` where there is no upper bound."""


@dataclass(frozen=True, order=True)
class Atom:
    """A factor of a monomial: a symbol (`op == "symbol"`) or an opaque integer function of expressions.

    Args:
        op: One of `symbol`, `floordiv`, `mod`, `min`, `max`.
        name: The symbol's name; empty otherwise.
        arguments: Two expressions in text-ordered form; empty for a symbol.
    """

    op: str
    name: str
    arguments: tuple[SymbolicInt, ...] = ()

    def __str__(self) -> str:
        if self.op == "symbol":
            return self.name
        left, right = (str(a) for a in self.arguments)
        if self.op in ("min", "max"):
            return f"{self.op}({left}, {right})"
        sign = "//" if self.op == "floordiv" else "%"
        return f"({_bracket(self.arguments[0])}{sign}{_bracket(self.arguments[1])})"


Monomial: TypeAlias = tuple[Atom, ...]

_MOST_PRODUCTS = 10_000
"""Bounds the work that a hostile product of sums can ask for."""


@dataclass(frozen=True)
class SymbolicInt:
    """A polynomial: `terms` maps sorted monomials to non-zero coefficients, in sorted order; `()` is the constant."""

    terms: tuple[tuple[Monomial, int], ...]

    def __lt__(self, other: SymbolicInt) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        cached = self.__dict__.get("_hash")
        if cached is None:
            cached = hash(self.terms)
            object.__setattr__(self, "_hash", cached)
        return int(cached)

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return add(self, multiply(-1, other))

    def __rsub__(self, other: Dim) -> Dim:
        return add(other, multiply(-1, self))

    def __neg__(self) -> Dim:
        return multiply(-1, self)

    def __mul__(self, other: Dim) -> Dim:
        return multiply(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __str__(self) -> str:
        cached = self.__dict__.get("_text")
        if cached is None:
            cached = _format(self)
            object.__setattr__(self, "_text", cached)
        return str(cached)

    __repr__ = __str__


_MAX_DIVISION_STEPS = 64
"""Terms of a quotient of polynomials; extents have a few."""


def symbol(name: str) -> SymbolicInt:
    """The expression that is the symbol `name`."""
    return SymbolicInt((((Atom("symbol", name),), 1),))


def _terms(value: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(value, SymbolicInt):
        return value.terms
    return (((), int(value)),) if value else ()


def _make(terms: Mapping[Monomial, int]) -> Dim:
    kept = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return SymbolicInt(tuple(sorted(kept.items(), key=_term_order)))


def _term_order(term: tuple[Monomial, int]) -> tuple[int, str]:
    monomial, _ = term
    return (-len(monomial), "*".join(map(str, monomial)))


def add(left: Dim, right: Dim) -> Dim:
    """`left + right`."""
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    total = dict(_terms(left))
    for monomial, coefficient in _terms(right):
        total[monomial] = total.get(monomial, 0) + coefficient
    return _make(total)


def multiply(left: Dim, right: Dim) -> Dim:
    """`left * right`.

    Raises:
        OptionError: Both are sums of so many terms that no real shape has them.
    """
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    left_terms, right_terms = _terms(left), _terms(right)
    if len(left_terms) * len(right_terms) > _MOST_PRODUCTS:
        raise OptionError(f"product of dimensions with {len(left_terms)} and {len(right_terms)} terms is too large")
    total: dict[Monomial, int] = {}
    for m1, c1 in left_terms:
        for m2, c2 in right_terms:
            monomial = tuple(sorted(m1 + m2, key=str))
            total[monomial] = total.get(monomial, 0) + c1 * c2
    return _make(total)


def _function(op: str, left: Dim, right: Dim) -> SymbolicInt:
    arguments = (_as_expression(left), _as_expression(right))
    return SymbolicInt((((Atom(op, "", arguments),), 1),))


def _as_expression(value: Dim) -> SymbolicInt:
    return value if isinstance(value, SymbolicInt) else SymbolicInt(_terms(value))


def _lower(value: Dim) -> Dim:
    """A constant polynomial as `int`."""
    if isinstance(value, SymbolicInt) and all(not monomial for monomial, _ in value.terms):
        return sum(coefficient for _, coefficient in value.terms)
    return value


def floordiv(left: Dim, right: Dim, bounds: Bounds | None = None) -> Dim:
    """`left // right`, rounding toward minus infinity; `bounds` let the remainder be dropped.

    Raises:
        OptionError: `right` is zero.
    """
    if right == 0:
        raise OptionError(f"division of dimension {left} by zero")
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    if right == 1:
        return left
    if left == right:
        return 1
    if left == 0:
        return 0
    if isinstance(right, int):
        whole, rest = _split_multiples(left, right)
        if whole != 0:
            return add(whole, floordiv(rest, right, bounds))
        extent = interval(left, bounds)
        if extent is not None and extent[1] is not None and right > 0:
            low, high = extent[0] // right, extent[1] // right
            if low == high:
                return low
        inner = _nested_floordiv(left, right)
        if inner is not None:
            return floordiv(inner[0], inner[1], bounds)
        if right > 0:
            reduced = _common_factor(left, right, bounds)
            if reduced is not None:
                return floordiv(reduced[0], reduced[1], bounds)
    else:
        quotient = _exact_quotient(left, right)
        if quotient is not None:
            return quotient
    return _function("floordiv", left, right)


def mod(left: Dim, right: Dim, bounds: Bounds | None = None) -> Dim:
    """`left % right`, with the sign of `right`; `bounds` let it be dropped where `0 <= left < right`.

    Raises:
        OptionError: `right` is zero.
    """
    if right == 0:
        raise OptionError(f"remainder of dimension {left} by zero")
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    if right == 1 or left == right or left == 0:
        return 0
    if isinstance(right, int):
        _, rest = _split_multiples(left, right)
        if isinstance(rest, int):
            return rest % right
        extent = interval(rest, bounds)
        if extent is not None and extent[1] is not None and right > 0 and extent[0] // right == extent[1] // right:
            return add(rest, -right * (extent[0] // right))
        if right > 0:
            reduced = _common_factor(rest, right, bounds)
            if reduced is not None:
                scale = right // reduced[1]
                low = add(rest, multiply(-scale, reduced[0]))
                return add(multiply(scale, mod(reduced[0], reduced[1], bounds)), low)
        return _function("mod", rest, right)
    if _exact_quotient(left, right) is not None:
        return 0
    return _function("mod", left, right)


def _split_multiples(value: Dim, divisor: int) -> tuple[Dim, Dim]:
    """`(q, r)` with `value == divisor*q + r`, taking into q every term that `divisor` divides."""
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, coefficient in _terms(value):
        if monomial == ():
            quotient, remainder = divmod(coefficient, divisor)
            whole[monomial], rest[monomial] = quotient, remainder
        elif coefficient % divisor == 0:
            whole[monomial] = coefficient // divisor
        else:
            rest[monomial] = coefficient
    return _make(whole), _make(rest)


def _common_factor(value: Dim, divisor: int, bounds: Bounds | None) -> tuple[Dim, int] | None:
    """`(c*a + b) // (c*d)` is `a // d` where `0 <= b < c`: answers `(a, d)`, or None."""
    from math import gcd

    terms = _terms(value)
    for factor in sorted({gcd(c, divisor) for m, c in terms if m} - {1}, reverse=True):
        high = _make({m: c // factor for m, c in terms if c % factor == 0})
        low = _make({m: c for m, c in terms if c % factor})
        extent = interval(low, bounds)
        if extent is not None and extent[0] >= 0 and extent[1] is not None and extent[1] < factor:
            return high, divisor // factor
    return None


def _nested_floordiv(left: Dim, right: int) -> tuple[Dim, int] | None:
    """`(a // b) // c` is `a // (b*c)` for positive constants."""
    if isinstance(left, SymbolicInt) and len(left.terms) == 1 and right > 0:
        monomial, coefficient = left.terms[0]
        if coefficient == 1 and len(monomial) == 1 and monomial[0].op == "floordiv":
            inner = _lower(monomial[0].arguments[1])
            if isinstance(inner, int) and inner > 0:
                return _lower(monomial[0].arguments[0]), inner * right
    return None


def _exact_quotient(left: Dim, right: SymbolicInt | int) -> Dim | None:
    """`left / right` where that is a polynomial: long division by the leading term, which must leave nothing."""
    if isinstance(right, int):
        return None
    divisor, scale = right.terms[0]
    quotient: Dim = 0
    for _ in range(_MAX_DIVISION_STEPS):
        if left == 0:
            return quotient
        monomial, coefficient = _terms(left)[0]
        rest = list(monomial)
        for atom in divisor:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % scale:
            return None
        term = _make({tuple(rest): coefficient // scale})
        quotient = add(quotient, term)
        left = add(left, multiply(-1, multiply(term, right)))
    return None


def minimum(left: Dim, right: Dim) -> Dim:
    """The smaller of two dimensions."""
    return _extreme("min", min, left, right)


def maximum(left: Dim, right: Dim) -> Dim:
    """The larger of two dimensions."""
    return _extreme("max", max, left, right)


def _extreme(op: str, choose: Callable[[int, int], int], left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return choose(left, right)
    difference = add(left, multiply(-1, right))
    if isinstance(difference, int):
        return left if choose(difference, 0) == difference else right
    first, second = sorted((_as_expression(left), _as_expression(right)))
    return _function(op, _lower(first), _lower(second))


def product(dims: Iterable[Dim]) -> Dim:
    """The product of `dims`; 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = multiply(result, dim)
    return result


def symbols(value: Dim) -> frozenset[str]:
    """Names of the symbols that occur in `value`."""
    if isinstance(value, int):
        return frozenset()
    found: set[str] = set()
    for monomial, _ in value.terms:
        for atom in monomial:
            if atom.op == "symbol":
                found.add(atom.name)
            for argument in atom.arguments:
                found |= symbols(argument)
    return frozenset(found)


def substitute(value: Dim, replacements: Mapping[str, Dim], bounds: Bounds | None = None) -> Dim:
    """`value` with symbols replaced; simplified again, with `bounds` of the symbols that remain."""
    if isinstance(value, int):
        return value
    total: Dim = 0
    for monomial, coefficient in value.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = multiply(term, _substitute_atom(atom, replacements, bounds))
        total = add(total, term)
    return total


def _substitute_atom(atom: Atom, replacements: Mapping[str, Dim], bounds: Bounds | None) -> Dim:
    if atom.op == "symbol":
        found = replacements.get(atom.name)
        return symbol(atom.name) if found is None else found
    left, right = (substitute(_lower(a), replacements, bounds) for a in atom.arguments)
    if atom.op == "floordiv":
        return floordiv(left, right, bounds)
    if atom.op == "mod":
        return mod(left, right, bounds)
    return minimum(left, right) if atom.op == "min" else maximum(left, right)


def simplify(value: Dim, bounds: Bounds) -> Dim:
    """`value` rebuilt under `bounds`, so that divisions and remainders of bounded terms fall away."""
    return _recombined(substitute(value, {}, bounds))


def _recombined(value: Dim) -> Dim:
    """`c*(x // c) + x % c` is `x`: what splitting an index and flattening it again leaves."""
    for monomial, scale in _terms(value):
        if len(monomial) != 1 or monomial[0].op != "mod":
            continue
        whole, divisor = (_lower(argument) for argument in monomial[0].arguments)
        if not isinstance(divisor, int):
            continue
        quotient = floordiv(whole, divisor)
        terms = dict(_terms(value))
        if all(terms.get(m) == c * scale * divisor for m, c in _terms(quotient)):
            rest = add(multiply(-scale * divisor, quotient), multiply(-scale, _make({monomial: 1})))
            return _recombined(add(add(value, rest), multiply(scale, whole)))
    return value


def evaluate(value: Dim, bindings: Mapping[str, int]) -> int:
    """The integer that `value` is under `bindings`.

    Raises:
        OptionError: A symbol has no binding.
    """
    result = substitute(value, bindings)
    if not isinstance(result, int):
        raise OptionError(f"no value is bound for {', '.join(sorted(symbols(result)))} in {value}")
    return result


def interval(value: Dim, bounds: Bounds | None) -> tuple[int, int | None] | None:
    """Inclusive bounds of `value`, or None where a symbol is unbounded below or a term's sign is unknown."""
    if isinstance(value, int):
        return value, value
    low, high = 0, 0
    unbounded = False
    for monomial, coefficient in value.terms:
        least, most = 1, 1
        infinite = False
        for atom in monomial:
            extent = _atom_interval(atom, bounds)
            if extent is None or extent[0] < 0:
                return None
            least *= extent[0]
            if extent[1] is None:
                infinite = True
            else:
                most *= extent[1]
        if infinite:
            if coefficient < 0:
                return None
            unbounded = True
            low += coefficient * least
        elif coefficient >= 0:
            low, high = low + coefficient * least, high + coefficient * most
        else:
            low, high = low + coefficient * most, high + coefficient * least
    return low, None if unbounded else high


def _atom_interval(atom: Atom, bounds: Bounds | None) -> tuple[int, int | None] | None:
    if atom.op == "symbol":
        return None if bounds is None else bounds.get(atom.name)
    left, right = (_lower(a) for a in atom.arguments)
    if atom.op in ("floordiv", "mod"):
        if not isinstance(right, int) or right <= 0:
            return None
        inner = interval(left, bounds)
        if atom.op == "mod":
            return 0, right - 1
        if inner is None:
            return None
        return inner[0] // right, None if inner[1] is None else inner[1] // right
    a, b = interval(left, bounds), interval(right, bounds)
    if a is None or b is None:
        return None
    choose = min if atom.op == "min" else max
    if a[1] is None or b[1] is None:
        known = b[1] if a[1] is None else a[1]
        return choose(a[0], b[0]), known if atom.op == "min" else None
    return choose(a[0], b[0]), choose(a[1], b[1])


def is_natural(value: Dim, bounds: Bounds | None) -> bool:
    """Whether `value >= 0` can be shown: by the bounds of its symbols, and by `d * (x // d) <= x`."""
    rounded: Dim = 0
    for monomial, coefficient in _terms(value):
        term = _make({monomial: coefficient})
        if coefficient < 0 and len(monomial) == 1 and monomial[0].op == "floordiv":
            whole, divisor = (_lower(argument) for argument in monomial[0].arguments)
            if isinstance(divisor, int) and divisor > 0 and coefficient % divisor == 0:
                term = multiply(coefficient // divisor, whole)
        rounded = add(rounded, term)
    if rounded != value:
        # What was rounded down may have been a multiple of another such part.
        return is_natural(rounded, bounds)
    low_high = interval(value, bounds)
    if low_high is not None:
        return low_high[0] >= 0
    return False


def typical(value: Dim, bounds: Bounds, usual: int = 128) -> int:
    """`value` where each symbol is `usual`, or as near to it as its bounds allow: what costs are weighed by."""

    def extent(name: str) -> int:
        low, high = bounds.get(name, (0, None))
        near = max(1, usual // step_of(name))
        return max(low, near if high is None else min(near, high))

    return evaluate(value, {name: extent(name) for name in symbols(value)})


def in_steps(name: str, step: int) -> SymbolicInt:
    """The symbol for how many steps a symbol is, where only multiples of `step` are its values."""
    return symbol(f"{name}_by_{step}")


def step_of(name: str) -> int:
    """The step of a symbol that `in_steps` made; 1 for any other."""
    _, found, step = name.rpartition("_by_")
    return int(step) if found and step.isdecimal() and 0 < int(step) <= LARGEST_STEP else 1


LARGEST_STEP = 64
"""Of `in_steps`."""


def linear_coefficient(value: Dim, name: str) -> int | None:
    """The coefficient of symbol `name` if `value` is `c*name + rest` with `name` absent from `rest`; else None."""
    if isinstance(value, int):
        return 0
    coefficient = 0
    for monomial, c in value.terms:
        names = [name in symbols(SymbolicInt((((atom,), 1),))) for atom in monomial]
        if not any(names):
            continue
        if len(monomial) != 1 or monomial[0].op != "symbol":
            return None
        coefficient = c
    return coefficient


def _bracket(value: SymbolicInt) -> str:
    text = str(value)
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _format(value: SymbolicInt) -> str:
    parts = []
    for monomial, coefficient in value.terms:
        factors = [str(atom) for atom in monomial]
        if coefficient != 1 or not factors:
            factors.insert(0, str(coefficient))
        if coefficient == -1 and monomial:
            factors[0:1] = []
            parts.append("-" + "*".join(factors))
        else:
            parts.append("*".join(factors))
    return " + ".join(parts).replace("+ -", "- ") or "0"
