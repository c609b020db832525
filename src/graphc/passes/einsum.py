"""Einsums written as sums, transposes and matrix products, which have kernels and which other passes know.

The labels of two operands fall into four kinds: in both and in the result (a batch), in both and summed (contracted),
and in one operand alone (rows, columns). Ordered so, a contraction is a batch of matrix products.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.ir import Builder, TensorType, Value
from graphc.ir.dtypes import FLOAT32
from graphc.ops.contraction import Equation, parse_equation
from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Match, P, Refusal, Rest, Var, attr, refuse, rule_set
from graphc.passes.rules.predicate import Chooser

RULES = rule_set("einsum")


@register_pass
@dataclass(frozen=True)
class Einsums(RulePass):
    """Writes Einsum as ReduceSum, Transpose, Reshape and MatMul.

    Before: types are inferred. After: an Einsum that remains takes diagonals, broadcasts, contracts nothing, is of
    integers or has open extents. Results differ by the order of sums only.
    """

    name: ClassVar[str] = "einsum"


Labels = tuple[str, ...]


@dataclass(frozen=True)
class _Problem:
    """An equation over operands of known extents, none of which is broadcast or read along a diagonal."""

    operands: tuple[Labels, ...]
    output: Labels
    extents: Mapping[str, int]

    def size(self, labels: Sequence[str]) -> int:
        """Elements of a tensor with these labels."""
        return math.prod(self.extents[label] for label in labels)

    def shape(self, labels: Sequence[str]) -> tuple[int, ...]:
        """Extents of a tensor with these labels."""
        return tuple(self.extents[label] for label in labels)


def _problem(equation: Equation, kinds: Sequence[TensorType]) -> _Problem | Refusal:
    extents: dict[str, int] = {}
    for labels, kind in zip(equation.operands, kinds, strict=True):
        if not kind.is_static:
            return refuse("extents are open")
        if not kind.dtype.is_float:
            return refuse(f"products of {kind.dtype} have no kernel of their own")
        if len(set(labels)) < len(labels):
            return refuse("a diagonal is taken")
        for label, extent in zip(labels, kind.static_shape, strict=True):
            if extents.setdefault(label, extent) != extent:
                return refuse("an operand is broadcast")
    return _Problem(equation.operands, equation.output, extents)


def _summed(b: Builder, x: Value, labels: Labels, kept: set[str]) -> tuple[Value, Labels]:
    """`x` without the labels that are not kept."""
    axes = [axis for axis, label in enumerate(labels) if label not in kept]
    if not axes:
        return x, labels
    return b.op("ReduceSum", x, b.constant(np.array(axes)), keepdims=0), tuple(n for n in labels if n in kept)


def _ordered(b: Builder, x: Value, labels: Sequence[str], wanted: Sequence[str]) -> Value:
    order = tuple(labels.index(label) for label in wanted)
    return x if order == tuple(range(len(order))) else b.op("Transpose", x, perm=order)


def _shaped(b: Builder, x: Value, found: Sequence[int], wanted: Sequence[int]) -> Value:
    return x if tuple(found) == tuple(wanted) else b.op("Reshape", x, b.constant(np.array(wanted, np.int64)))


def _examples(*equations: tuple[str, Sequence[str]]) -> Any:
    """Instances of a few equations, with operands called by the names given."""

    def choose(choose: Chooser) -> Mapping[str, Any]:
        equation, names = choose.pick(equations)
        extents = {label: choose.integer(1, 4) for label in string.ascii_lowercase}
        terms = equation.split("->")[0].split(",")
        operands = [TensorType(FLOAT32, tuple(extents[label] for label in term)) for term in terms]
        given = dict(zip(names, operands, strict=True)) if len(names) == len(operands) else {names[0]: operands}
        return {"equation": equation, **given}

    return choose


@RULES.rule(
    P.Einsum(Var("x"), equation=attr("equation")),
    examples=_examples(("abc->cb", "x"), ("abc->", "x"), ("ab->ba", "x"), ("abc", "x")),
)
def of_one(m: Match, b: Builder) -> Value | Refusal:
    """Einsum(x) = Transpose(ReduceSum(x))."""
    problem = _problem(parse_equation(_text(m), [len(m.shape("x"))]), [m.type("x")])
    if isinstance(problem, Refusal):
        return problem
    total, labels = _summed(b, m["x"], problem.operands[0], set(problem.output))
    return _ordered(b, total, labels, problem.output)


def _text(m: Match) -> str:
    found = m.attribute("equation")
    return found.decode() if isinstance(found, bytes) else str(found)


@RULES.rule(
    P.Einsum(Var("x"), Var("y"), equation=attr("equation")),
    examples=_examples(
        ("ab,bc->ac", "xy"),
        ("bqhd,bkhd->bhqk", "xy"),
        ("abcd,cde->eab", "xy"),
        ("abe,bcd->c", "xy"),
        ("ab,ab->a", "xy"),
        ("ab,cb->ca", "xy"),
    ),
)
def of_two(m: Match, b: Builder) -> Value | Refusal:
    """Einsum(x, y) = Transpose(MatMul(Transpose(x), Transpose(y)))."""
    equation = parse_equation(_text(m), [len(m.shape("x")), len(m.shape("y"))])
    problem = _problem(equation, [m.type("x"), m.type("y")])
    if isinstance(problem, Refusal):
        return problem
    left, right = problem.operands
    if not any(label not in problem.output for label in left if label in right):
        return refuse("nothing is contracted")
    sides = [(m["x"], left, right), (m["y"], right, left)]
    batch = tuple(label for label in problem.output if label in left and label in right)
    lines = [tuple(label for label in problem.output if label in own and label not in other) for _, own, other in sides]
    if problem.output != (*batch, *lines[0], *lines[1]) and problem.output == (*batch, *lines[1], *lines[0]):
        sides.reverse()
        lines.reverse()
    inner = tuple(label for label in left if label in right and label not in problem.output)
    operands = []
    for position, (value, own, other) in enumerate(sides):
        total, labels = _summed(b, value, own, {*other, *problem.output})
        wanted = (*batch, *lines[0], *inner) if position == 0 else (*batch, *inner, *lines[1])
        groups = (lines[0], inner) if position == 0 else (inner, lines[1])
        matrix = (*problem.shape(batch), *(problem.size(group) for group in groups))
        operands.append(_shaped(b, _ordered(b, total, labels, wanted), problem.shape(wanted), matrix))
    product = b.op("MatMul", *operands)
    made = (*batch, *lines[0], *lines[1])
    found = (*problem.shape(batch), problem.size(lines[0]), problem.size(lines[1]))
    return _ordered(b, _shaped(b, product, found, problem.shape(made)), made, problem.output)


@RULES.rule(
    P.Einsum(Rest("operands"), equation=attr("equation")),
    examples=_examples(("ab,bc,cd->ad", ["operands"]), ("ab,cb,ca,d->dc", ["operands"])),
)
def of_many(m: Match, b: Builder) -> Value | Refusal:
    """Einsum(x, y, z, ...) = Einsum(Einsum(x, y), z, ...), the pair with the smallest product first."""
    operands = m.rest("operands")
    if len(operands) < 3:
        return refuse("there are no three operands")
    kinds = [value.tensor_type for value in operands]
    problem = _problem(parse_equation(_text(m), [len(kind.dims) for kind in kinds]), kinds)
    if isinstance(problem, Refusal):
        return problem
    if len(problem.extents) > len(string.ascii_letters):
        return refuse(f"there are {len(problem.extents)} labels")
    letters = dict(zip(problem.extents, string.ascii_letters, strict=False))

    def kept(pair: tuple[int, int]) -> Labels:
        """Labels of a pair that something else needs."""
        others = {label for i, labels in enumerate(problem.operands) if i not in pair for label in labels}
        both = dict.fromkeys((*problem.operands[pair[0]], *problem.operands[pair[1]]))
        return tuple(label for label in both if label in others or label in problem.output)

    def text(operands: Sequence[Labels], output: Labels) -> str:
        terms = ("".join(letters[label] for label in labels) for labels in (*operands, output))
        *inputs, result = terms
        return f"{','.join(inputs)}->{result}"

    pair = min(itertools.combinations(range(len(operands)), 2), key=lambda pair: problem.size(kept(pair)))
    first = b.op(
        "Einsum",
        *(operands[i] for i in pair),
        equation=text([problem.operands[i] for i in pair], kept(pair)),
    )
    rest = [i for i in range(len(operands)) if i not in pair]
    labels = [kept(pair), *(problem.operands[i] for i in rest)]
    return b.op("Einsum", first, *(operands[i] for i in rest), equation=text(labels, problem.output))
