"""Steps of optimizers (ai.onnx.preview.training) as arithmetic on their tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.ir import Builder, Node, Value
from graphc.ops.decomposition import decomposed, scalar_like

DOMAIN = "ai.onnx.preview.training"

_STATES = {"Adam": 2, "Adagrad": 1, "Momentum": 1}
"""Tensors that a step carries on, besides the one that it is about."""

Step = Callable[[Builder, Node, Value, Value, Value, Value, Sequence[Value]], "list[Value]"]
"""New tensor and states from the rate, the count of updates, the tensor, its gradient and its states."""


def _regularized(b: Builder, node: Node, x: Value, gradient: Value) -> Value:
    norm = scalar_like(b, node.float_attribute("norm_coefficient", 0.0), x)
    return b.op("Add", b.op("Mul", norm, x), gradient)


def _like(b: Builder, value: Value, like: Value) -> Value:
    """A rate or a count in the type of a tensor."""
    return b.op("Cast", value, to=like.tensor_type.dtype.onnx)


def _momentum(
    b: Builder, node: Node, rate: Value, count: Value, x: Value, gradient: Value, states: Sequence[Value]
) -> list[Value]:
    slope = _regularized(b, node, x, gradient)
    alpha = scalar_like(b, node.float_attribute("alpha", 0.0), x)
    later = b.op("Greater", count, scalar_like(b, 0, count))
    beta = b.op("Where", later, scalar_like(b, node.float_attribute("beta", 0.0), x), scalar_like(b, 1, x))
    speed = b.op("Add", b.op("Mul", alpha, states[0]), b.op("Mul", beta, slope))
    moved = speed
    if node.str_attribute("mode", "standard") == "nesterov":
        moved = b.op("Add", slope, b.op("Mul", alpha, speed))
    return [b.op("Sub", x, b.op("Mul", _like(b, rate, x), moved)), speed]


def _adagrad(
    b: Builder, node: Node, rate: Value, count: Value, x: Value, gradient: Value, states: Sequence[Value]
) -> list[Value]:
    slope = _regularized(b, node, x, gradient)
    decay = b.op("Mul", _like(b, count, x), scalar_like(b, node.float_attribute("decay_factor", 0.0), x))
    slowed = b.op("Div", _like(b, rate, x), b.op("Add", decay, scalar_like(b, 1, x)))
    squares = b.op("Add", states[0], b.op("Mul", slope, slope))
    size = b.op("Add", b.op("Sqrt", squares), scalar_like(b, node.float_attribute("epsilon", 0.0), x))
    return [b.op("Sub", x, b.op("Div", b.op("Mul", slowed, slope), size)), squares]


def _adam(
    b: Builder, node: Node, rate: Value, count: Value, x: Value, gradient: Value, states: Sequence[Value]
) -> list[Value]:
    alpha, beta = node.float_attribute("alpha", 0.9), node.float_attribute("beta", 0.999)

    def number(value: float) -> Value:
        return scalar_like(b, value, x)

    def mixed(part: float, old: Value, new: Value) -> Value:
        return b.op("Add", b.op("Mul", number(part), old), b.op("Mul", number(1 - part), new))

    slope = _regularized(b, node, x, gradient)
    mean = mixed(alpha, states[0], slope)
    square = mixed(beta, states[1], b.op("Mul", slope, slope))
    size = b.op("Add", b.op("Sqrt", square), number(node.float_attribute("epsilon", 0.0)))
    updates, speed = _like(b, count, x), _like(b, rate, x)
    unbiased = b.op("Sqrt", b.op("Sub", number(1), b.op("Pow", number(beta), updates)))
    corrected = b.op("Div", b.op("Mul", speed, unbiased), b.op("Sub", number(1), b.op("Pow", number(alpha), updates)))
    speed = b.op("Where", b.op("Greater", updates, number(0)), corrected, speed)
    moved = b.op("Sub", x, b.op("Mul", speed, b.op("Div", mean, size)))
    return [b.op("Mul", number(1 - node.float_attribute("norm_coefficient_post", 0.0)), moved), mean, square]


def _stepped(step: Step) -> Callable[[Builder, Node, Sequence[Value | None]], Sequence[Value] | None]:
    def decompose(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
        given = [value for value in inputs if value is not None]
        sets = 2 + _STATES[node.op_type]
        count = (len(given) - 2) // sets
        if len(given) != len(inputs) or len(given) != 2 + count * sets:
            return None
        groups = [given[2 + i * count : 2 + (i + 1) * count] for i in range(sets)]
        results = [step(b, node, given[0], given[1], x, g, states) for x, g, *states in zip(*groups, strict=True)]
        return [value for group in zip(*results, strict=True) for value in group]

    return decompose


for _name, _step in (("Adagrad", _adagrad), ("Adam", _adam), ("Momentum", _momentum)):
    decomposed(_name, _stepped(_step), domain=DOMAIN)
