"""Patterns: trees of operators with variables, written as one writes the expression.

    x, w = Var("x"), Const("w")
    P.Relu(P.Conv(x, w, group=attr("group", default=1)))
    x * P.Sigmoid(x) | 1.0 / x

Arithmetic on patterns is Add, Sub, Mul, Div, Pow, MatMul and Neg; `p | q` is either of two.

A pattern object that stands at two places means one value at both, so a DAG is written by using a Python name twice.
Operators that the registry calls commutative match their two operands in either order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from graphc.ir import GRAPHC_DOMAIN, Attribute, Tensor
from graphc.passes.rules.predicate import Filled, TensorPredicate


class Pattern:
    """Base of patterns; `p | q` matches where either does, and prefers `p`."""

    def __or__(self, other: Pattern) -> Either:
        # What has a text is one thing written in several ways.
        left = self.options if isinstance(self, Either) and not self.text else (self,)
        right = other.options if isinstance(other, Either) and not other.text else (other,)
        return Either((*left, *right))

    def __add__(self, other: Operand) -> Apply:
        return P.Add(self, other)

    def __radd__(self, other: float) -> Apply:
        return P.Add(other, self)

    def __sub__(self, other: Operand) -> Apply:
        return P.Sub(self, other)

    def __rsub__(self, other: float) -> Apply:
        return P.Sub(other, self)

    def __mul__(self, other: Operand) -> Apply:
        return P.Mul(self, other)

    def __rmul__(self, other: float) -> Apply:
        return P.Mul(other, self)

    def __truediv__(self, other: Operand) -> Apply:
        return P.Div(self, other)

    def __rtruediv__(self, other: float) -> Apply:
        return P.Div(other, self)

    def __pow__(self, other: Operand) -> Apply:
        return P.Pow(self, other)

    def __matmul__(self, other: Pattern) -> Apply:
        return P.MatMul(self, other)

    def __neg__(self) -> Apply:
        return P.Neg(self)


Operand: TypeAlias = "Pattern | float"
"""What an operator is applied to: a pattern, or a number, which stands for a constant filled with it."""


@dataclass(frozen=True, eq=False)
class Var(Pattern):
    """Any value; two variables of one name must be the same value, or equal constants.

    Args:
        name: Name under which the match knows it.
        rank: Number of axes it must have; any if None.
        kinds: Kinds of dtype it may have (`float`, `int`, `uint`, `bool`); any if empty.
        constant: Whether it must be a constant, or must not; either if None.
    """

    name: str
    rank: int | None = None
    kinds: tuple[str, ...] = ()
    constant: bool | None = None


@dataclass(frozen=True, eq=False)
class Const(Pattern):
    """A constant, whose tensor fulfils `where`.

    Args:
        name: Name under which the match knows it.
        where: What must hold of the tensor; anything if None.
    """

    name: str
    where: TensorPredicate | None = None


@dataclass(frozen=True, eq=False)
class Absent(Pattern):
    """An optional input that is not given."""


@dataclass(frozen=True, eq=False)
class Optional(Pattern):
    """An optional input: matches `inner` where the input is given, and nothing where it is not."""

    inner: Pattern


@dataclass(frozen=True, eq=False)
class Rest(Pattern):
    """All inputs from here on, as many as there are; known to the match as a tuple of values."""

    name: str


@dataclass(frozen=True, eq=False)
class Either(Pattern):
    """One of several patterns, tried in order.

    Args:
        options: The patterns.
        text: What it is in a formula, where the options are one thing written in several ways.
    """

    options: tuple[Pattern, ...]
    text: str = ""


@dataclass(frozen=True)
class AttributePattern:
    """An attribute that is bound to a name or constrained.

    Args:
        name: Name under which the match knows it; not kept if empty.
        default: The operator's default, where the attribute may be absent.
        where: What must hold of the value.
        examples: Values that fulfil `where`, for generated instances.
    """

    name: str = ""
    default: Attribute | None = None
    where: Callable[[Any], bool] | None = None
    examples: tuple[Attribute, ...] = ()


AttributeSpec: TypeAlias = "AttributePattern | Attribute"


def attr(
    name: str = "",
    *,
    default: Attribute | None = None,
    where: Callable[[Any], bool] | None = None,
    examples: tuple[Attribute, ...] = (),
) -> AttributePattern:
    """An attribute bound to `name`; see AttributePattern."""
    return AttributePattern(name, default, where, examples)


def fixed(value: Attribute, *, default: Attribute | None = None) -> AttributePattern:
    """An attribute that must equal `value`; where it is absent, `default` must."""
    return AttributePattern("", default, lambda found: bool(found == value), (value,))


@dataclass(frozen=True, eq=False)
class Apply(Pattern):
    """An operator applied to patterns.

    Args:
        op_types: Operator's name, or several that are matched alike.
        inputs: One pattern an input; inputs beyond these must be absent unless the last is a `Rest`.
        attributes: Values or attribute patterns by attribute name; attributes not named may be anything.
        domain: Operator's domain.
        label: Name under which the match knows the node.
        output: Which output of the node the value is.
        private: Whether nothing outside the match may read the node's outputs.
    """

    op_types: tuple[str, ...]
    inputs: tuple[Pattern, ...]
    attributes: Mapping[str, AttributeSpec] = field(default_factory=dict)
    domain: str = ""
    label: str = ""
    output: int = 0
    private: bool = False

    def only_here(self) -> Apply:
        """This pattern, for a node whose value is read by nothing outside the match."""
        return replace(self, private=True)

    def named(self, label: str) -> Apply:
        """This pattern, with the node known to the match as `label`."""
        return replace(self, label=label)

    def out(self, index: int) -> Apply:
        """This pattern, for output `index` of the node."""
        return replace(self, output=index)

    @property
    def text(self) -> str:
        """The operator for messages."""
        prefix = f"{self.domain}::" if self.domain else ""
        return prefix + "|".join(self.op_types)


class Operators:
    """Writes `P.Conv(x, w)` for an operator pattern; one instance a domain: `MY = Operators("my.domain")`."""

    def __init__(self, domain: str) -> None:
        self._domain = domain

    def __getattr__(self, op_type: str) -> Callable[..., Apply]:
        if op_type.startswith("__"):
            raise AttributeError(op_type)
        return self.one_of(op_type)

    def one_of(self, *op_types: str) -> Callable[..., Apply]:
        """An operator pattern that matches any of several operators."""

        def build(*inputs: Operand, **attributes: Any) -> Apply:
            patterns = tuple(p if isinstance(p, Pattern) else Const("", filled(p)) for p in inputs)
            kept = {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}
            return Apply(op_types, patterns, kept, self._domain)

        return build


P = Operators("")
"""Patterns of ai.onnx operators: `P.Mul(x, 1.0)`; a number stands for a constant filled with it."""

GRAPHC = Operators(GRAPHC_DOMAIN)
"""Patterns of the compiler's own operators."""


def filled(value: float, text: str = "") -> TensorPredicate:
    """Tensors whose elements are all `value`, as exactly as their dtype can tell; a formula says `text` for it."""
    return Filled(value, text)


def number(value: float, text: str = "") -> Const:
    """A constant filled with `value`, which a formula calls `text`: `number(math.sqrt(2), "√2")`."""
    return Const("", Filled(value, text))


def maybe(wrap: Callable[..., Apply], inner: Pattern, *others: Pattern | float, **attributes: Any) -> Either:
    """`wrap(inner, ...)` or `inner` alone: an operator that may be left out."""
    return Either((wrap(inner, *others, **attributes), inner))


def literal(spec: AttributeSpec) -> AttributePattern:
    """An attribute specification in its long form."""
    if isinstance(spec, AttributePattern):
        return spec
    if isinstance(spec, Tensor):
        return AttributePattern(where=lambda found: bool(found == spec), examples=(spec,))
    return fixed(spec)


def depth(pattern: Pattern) -> int:
    """Operators on the longest way from the root to a leaf: how far from a change a match may be rooted."""
    if isinstance(pattern, Apply):
        return 1 + max((depth(p) for p in pattern.inputs), default=0)
    if isinstance(pattern, Either):
        return max(depth(p) for p in pattern.options)
    return depth(pattern.inner) if isinstance(pattern, Optional) else 0


def size(pattern: Pattern) -> int:
    """Most operands of operators in one match."""
    if isinstance(pattern, Apply):
        return len(pattern.inputs) + sum(size(p) for p in pattern.inputs)
    if isinstance(pattern, Either):
        return max(size(p) for p in pattern.options)
    return size(pattern.inner) if isinstance(pattern, Optional) else 0


def alternatives(pattern: Pattern) -> tuple[Pattern, ...]:
    """The patterns of which one has to match, in order; the pattern itself where it is no alternative."""
    if isinstance(pattern, Either):
        return tuple(inner for option in pattern.options for inner in alternatives(option))
    return (pattern,)


def roots(pattern: Pattern) -> frozenset[tuple[str, str]]:
    """Domain and name of every operator that can be the root of a match."""
    if isinstance(pattern, Apply):
        return frozenset((pattern.domain, op_type) for op_type in pattern.op_types)
    if isinstance(pattern, Either):
        return frozenset().union(*(roots(option) for option in pattern.options))
    return frozenset()
