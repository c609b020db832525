"""Random graphs that a rule's pattern matches, grown from the pattern itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import TypeInferenceError
from graphc.frontend.schema import CANONICAL_OPSET
from graphc.ir import Attribute, Builder, Graph, Node, TensorType, Value, dtypes
from graphc.ops.base import Trait, find
from graphc.ops.inference import infer_node
from graphc.passes.rules import (
    Absent,
    Apply,
    Chooser,
    Const,
    Either,
    Every,
    Optional,
    Pattern,
    Rest,
    Rule,
    Together,
    Var,
)
from graphc.passes.rules.pattern import literal
from graphc.testing.choosing import chance
from graphc.testing.samples import MAX_SIZE, SAMPLERS, Operand, Sample, tensor_type, values

OPSET = CANONICAL_OPSET
"""Operator set of random graphs."""


class RejectedError(Exception):
    """The choices made so far lead to no valid graph; draw again."""


def grow_instance(rule: Rule, choose: Chooser) -> Graph:
    """A graph in which the rule's pattern occurs; its conditions may still refuse.

    Raises:
        RejectedError: These choices lead to no valid graph.
    """
    grower = _Grower(rule, choose)
    roots = grower.roots(rule.pattern)
    if not all(isinstance(root.type, TensorType) and root.type.is_static for root in roots):
        raise RejectedError("a root has no static type")
    siblings = dict.fromkeys(v for root in roots if root.producer is not None for v in root.producer.outputs)
    others = [v for v in siblings if v not in roots and isinstance(v.type, TensorType) and chance(choose, 70)]
    outputs = [value if chance(choose, 25) else grower.reader(value) for value in (*roots, *others)]
    if chance(choose, 20):
        interior = [v for node in grower.graph.nodes for v in node.outputs if v not in roots and v.constant is None]
        outputs.extend([choose.pick(interior)] if interior else [])
    grower.graph.outputs = outputs
    return grower.graph


class _Grower:
    def __init__(self, rule: Rule, choose: Chooser) -> None:
        self.graph = Graph("instance", opset=OPSET)
        self.builder = Builder(self.graph, infer=infer_node)
        self.rule = rule
        self.choose = choose
        self.given = self.examples()
        self.values: dict[str, Value | None] = {}
        self.attributes: dict[str, Attribute | None] = {}
        self.places: dict[int, Value] = {}
        self.options: dict[int, Pattern] = {}
        self.behind: list[Value] = []
        """The roots that were made so far."""

    def examples(self) -> Mapping[str, Any]:
        """What the rule's author lets some names stand for."""
        return self.rule.examples(self.choose) if self.rule.examples is not None else {}

    def roots(self, pattern: Pattern) -> list[Value]:
        """The value at each root of a whole pattern."""
        if isinstance(pattern, Together):
            return [self.root(part) for part in pattern.parts]
        if not isinstance(pattern, Every):
            return [self.root(pattern)]
        made = []
        for _ in range(self.choose.integer(pattern.least, pattern.least + 1)):
            made.append(self.root(pattern.one))
            # What is not shared is made anew.
            self.values = {name: value for name, value in self.values.items() if name in pattern.share}
            self.given = self.examples()
            for known in (self.attributes, self.places, self.options):
                known.clear()
        return made

    def root(self, pattern: Pattern) -> Value:
        """The value at one root; what else the graph computes may come between it and the next."""
        made = self.grow(pattern, None)
        assert made is not None, pattern
        self.behind.append(made)
        return made

    def input(self, name: str, type_: TensorType) -> Value:
        """A graph's input; behind a first root now and then what is computed there, even of that root."""
        if type_.dtype.is_float and self.behind and chance(self.choose, 30):
            alike = [value for value in self.behind if value.type == type_]
            if alike and chance(self.choose, 30):
                return self.reader(self.choose.pick(alike))
            return self.reader(self.graph.add_input(self.graph.fresh_name(name), type_))
        return self.graph.add_input(self.graph.fresh_name(name), type_)

    def reader(self, value: Value) -> Value:
        """A node that reads `value` and is in no rule's pattern."""
        kind = value.tensor_type.dtype.kind
        if kind == "bool":
            return self.builder.op("Xor", value, self.builder.constant(True))
        return self.builder.op("Atan" if kind == "float" else "BitwiseNot", value)

    def grow(self, pattern: Pattern, hint: Operand | None) -> Value | None:
        """The value that `pattern` stands for, made where it is not there yet."""
        pattern = self.chosen(pattern)
        if isinstance(pattern, Optional):
            return self.optional(pattern, hint)
        if isinstance(pattern, Absent):
            return None
        if isinstance(pattern, Apply):
            known = self.places.get(id(pattern))
            if known is None:
                known = self.places[id(pattern)] = self.node(pattern)
            return known
        assert isinstance(pattern, Var | Const), pattern
        if pattern.name in self.values:
            return self.values[pattern.name]
        made = self.constant(pattern, hint) if isinstance(pattern, Const) else self.variable(pattern, hint)
        if pattern.name:
            self.values[pattern.name] = made
        return made

    def chosen(self, pattern: Pattern) -> Pattern:
        """The option of an alternative that this instance takes, the same wherever the alternative stands."""
        while isinstance(pattern, Either):
            if id(pattern) not in self.options:
                self.options[id(pattern)] = self.choose.pick(pattern.options)
            pattern = self.options[id(pattern)]
        return pattern

    def optional(self, pattern: Optional, hint: Operand | None) -> Value | None:
        name = pattern.inner.name if isinstance(pattern.inner, Var | Const) else ""
        if name in self.given and self.given[name] is None:
            return None
        wanted = hint is not None or name in self.given or isinstance(self.chosen(pattern.inner), Apply)
        return self.grow(pattern.inner, hint) if wanted and chance(self.choose, 80) else None

    def variable(self, pattern: Var, hint: Operand | None) -> Value:
        given = self.given.get(pattern.name)
        if isinstance(given, TensorType):
            hint = Operand(given)
        elif given is not None:
            return self.example(given)
        if hint is None:
            ranks = (0, 4) if pattern.rank is None else (pattern.rank, pattern.rank)
            hint = Operand(tensor_type(self.choose, ranks=ranks))
        self.check(pattern, hint.type)
        constant = pattern.constant if pattern.constant is not None else hint.array is not None
        if constant:
            return self.builder.constant(self.elements(hint))
        return self.input(pattern.name or "x", hint.type)

    def example(self, given: Any) -> Value:
        """A value that a rule's examples give: an array, or a function that builds it."""
        if callable(given):
            made = given(self.builder)
            assert isinstance(made, Value), made
            return made
        return self.builder.constant(np.asarray(given))

    def check(self, pattern: Var, type_: TensorType) -> None:
        if (pattern.rank is not None and type_.rank != pattern.rank) or (
            pattern.kinds and type_.dtype.kind not in pattern.kinds
        ):
            raise RejectedError(f"{type_} does not suit {pattern}")

    def constant(self, pattern: Const, hint: Operand | None) -> Value:
        given = self.given.get(pattern.name)
        if isinstance(given, TensorType):
            hint = Operand(given)
        elif given is not None:
            return self.example(given)
        if hint is None:
            hint = Operand(TensorType(dtypes.FLOAT32, ()))
        if pattern.where is None:
            return self.builder.constant(self.elements(hint))
        array = pattern.where.sample(hint.type.dtype, hint.type.static_shape, self.choose)
        if array is None:
            raise RejectedError(f"no {hint.type} is {pattern.where}")
        return self.builder.constant(array)

    def elements(self, operand: Operand) -> np.ndarray[Any, Any]:
        return values(self.choose, operand.type) if operand.array is None else operand.array

    def node(self, pattern: Apply) -> Value:
        op_type = self.choose.pick(pattern.op_types)
        inputs = [self.chosen(p) for p in pattern.inputs]
        pivot, value = self.pivot(op_type, inputs)
        sample = self.sample(op_type, value, pivot) or Sample(())
        operands = [self.operand(p, i, pivot, value, sample) for i, p in enumerate(inputs) if not isinstance(p, Rest)]
        if inputs and isinstance(inputs[-1], Rest):
            operands.extend(self.rest(inputs[-1], sample.operands[len(inputs) - 1 :], value, empty=len(inputs) > 1))
        attributes = self.node_attributes(pattern, sample)
        sampler = SAMPLERS.get(op_type)
        count = sampler.outputs(sample) if sampler is not None and sample.operands else 1
        while operands and operands[-1] is None:
            operands.pop()
        node = self.make(op_type, pattern, operands, attributes, max(count, pattern.output + 1))
        made = node.outputs[pattern.output]
        if (
            isinstance(made.type, TensorType)
            and made.type.is_static
            and int(np.prod(made.type.static_shape)) > MAX_SIZE
        ):
            raise RejectedError("too large")
        return made

    def make(
        self, op_type: str, pattern: Apply, operands: list[Value | None], attributes: dict[str, Any], outputs: int
    ) -> Node:
        try:
            made = self.builder.op(op_type, *operands, outputs=outputs, domain=pattern.domain, **attributes)
        except TypeInferenceError as error:
            raise RejectedError(str(error)) from error
        node = made.producer
        assert node is not None, made
        operator = find(node)
        commutative = operator is not None and operator.has(Trait.COMMUTATIVE)
        if commutative and len(operands) == 2 and chance(self.choose, 40):
            node.inputs = node.inputs[::-1]
        return node

    def pivot(self, op_type: str, inputs: Sequence[Pattern]) -> tuple[int, Value | None]:
        """The operand that is made first, from which the others follow."""
        for index, pattern in enumerate(inputs):
            if isinstance(pattern, Apply) or (isinstance(pattern, Var | Const) and self.is_known(pattern)):
                return index, self.grow(pattern, None)
        for index, pattern in enumerate(inputs):
            if isinstance(pattern, Var):
                return index, self.grow(
                    pattern, self.first(op_type, pattern) if len(inputs) < 3 or index == 0 else None
                )
        return 0, None

    def is_known(self, pattern: Var | Const) -> bool:
        return pattern.name in self.values or pattern.name in self.given

    def first(self, op_type: str, pattern: Var | None = None) -> Operand | None:
        sampler = SAMPLERS.get(op_type)
        if sampler is None:
            return None
        for _ in range(8):
            type_ = sampler.first(self.choose)
            if pattern is None or (
                pattern.rank in (None, type_.rank) and (not pattern.kinds or type_.dtype.kind in pattern.kinds)
            ):
                return Operand(type_)
        raise RejectedError(f"no first operand of {op_type} suits {pattern}")

    def sample(self, op_type: str, value: Value | None, pivot: int) -> Sample | None:
        sampler = SAMPLERS.get(op_type)
        if sampler is None:
            return None
        if value is None:
            first = self.first(op_type)
            return None if first is None else sampler.sample(first.type, self.choose)
        if not isinstance(value.type, TensorType) or not value.type.is_static or not sampler.accepts(value.type):
            return None
        sample = sampler.sample(value.type, self.choose)
        if sample is None or pivot == 0:
            return sample
        # Only two operands of one kind can change places: Sub(c, x), Div(1, x).
        symmetric = pivot == 1 and len(sample.operands) == 2
        return Sample(sample.operands[::-1], sample.attributes) if symmetric else None

    def operand(self, pattern: Pattern, index: int, pivot: int, value: Value | None, sample: Sample) -> Value | None:
        if index == pivot and value is not None:
            return value
        hint = sample.operands[index] if index < len(sample.operands) else None
        return self.grow(pattern, hint)

    def rest(
        self, pattern: Rest, hints: Sequence[Operand | None], value: Value | None, *, empty: bool
    ) -> list[Value | None]:
        given = self.given.get(pattern.name)
        if callable(given):
            return list(given(self.builder))
        if given is not None:
            hints = [Operand(item) if isinstance(item, TensorType) else item for item in given]
        elif not hints and not empty:
            raise RejectedError("a variadic operator has no operands")
        made: list[Value | None] = []
        for hint in hints:
            if hint is None:
                made.append(None)
            elif isinstance(hint, Operand) and hint.array is None:
                made.append(self.graph.add_input(self.graph.fresh_name(pattern.name), hint.type))
            else:
                made.append(self.builder.constant(hint.array if isinstance(hint, Operand) else np.asarray(hint)))
        return made

    def node_attributes(self, pattern: Apply, sample: Sample) -> dict[str, Any]:
        attributes: dict[str, Any] = dict(sample.attributes)
        for name, spec in pattern.attributes.items():
            wanted = literal(spec)
            if wanted.name and wanted.name in self.attributes:
                value = self.attributes[wanted.name]
            elif wanted.name and wanted.name in self.given:
                value = self.given[wanted.name]
            else:
                value = attributes.get(name, wanted.default)
                if wanted.where is not None and (not wanted.where(value) or (wanted.examples and value is None)):
                    if not wanted.examples:
                        raise RejectedError(f"no value is known for attribute {name} of {pattern.text}")
                    value = self.choose.pick(wanted.examples)
            attributes[name] = value
            if wanted.name:
                self.attributes[wanted.name] = value
        return attributes
