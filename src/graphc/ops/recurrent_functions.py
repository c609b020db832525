"""Activation functions that recurrent layers name, in NumPy and as scalar expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphc.ir import Node
from graphc.ops.base import Array
from graphc.ops.expr import Scalar, call, const, select

Activation: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True)
class Function:
    """An activation function by its parameters' defaults; None for a parameter that it does not have."""

    apply: Callable[[Array, float, float], Array]
    express: Callable[[Scalar, Scalar, Scalar], Scalar]
    alpha: float | None = None
    beta: float | None = None


@dataclass(frozen=True)
class Chosen:
    """A function with its parameters."""

    function: Function
    alpha: float
    beta: float

    def apply(self, x: Array) -> Array:
        """The function of every element, in the dtype of `x`."""
        return np.asarray(self.function.apply(x, self.alpha, self.beta)).astype(x.dtype, copy=False)

    def express(self, x: Scalar) -> Scalar:
        """The function of a scalar expression."""
        return self.function.express(x, const(self.alpha, x.dtype), const(self.beta, x.dtype))


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))` without overflow on either side."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype, copy=False)


def _zero(x: Scalar) -> Scalar:
    return const(0.0, x.dtype)


def _one(x: Scalar) -> Scalar:
    return const(1.0, x.dtype)


def _above(x: Scalar, limit: Scalar, then: Scalar, otherwise: Scalar) -> Scalar:
    return select(call("gt", x, limit), then, otherwise)


def _scaled(x: Scalar, a: Scalar, b: Scalar) -> Scalar:
    return call("add", call("mul", a, x), b)


def clipped(x: Scalar, low: Scalar, high: Scalar) -> Scalar:
    """`x` limited to a range; NaN stays NaN."""
    return call("min", call("max", x, low), high)


def _elu(x: Scalar, a: Scalar, _: Scalar) -> Scalar:
    return _above(x, _zero(x), x, call("mul", a, call("expm1", call("min", x, _zero(x)))))


def _softplus(x: Scalar, _a: Scalar, _b: Scalar) -> Scalar:
    small = call("exp", call("neg", call("abs", x)))
    return call("add", call("max", x, _zero(x)), call("log1p", small))


FUNCTIONS: dict[str, Function] = {
    "sigmoid": Function(lambda x, a, b: sigmoid(x), lambda x, a, b: call("sigmoid", x)),
    "tanh": Function(lambda x, a, b: np.tanh(x), lambda x, a, b: call("tanh", x)),
    "relu": Function(lambda x, a, b: np.maximum(x, 0), lambda x, a, b: call("max", x, _zero(x))),
    "affine": Function(lambda x, a, b: a * x + b, _scaled, 1.0, 0.0),
    "leakyrelu": Function(
        lambda x, a, b: np.where(x >= 0, x, a * x), lambda x, a, b: _above(x, _zero(x), x, call("mul", a, x)), 0.01
    ),
    "thresholdedrelu": Function(lambda x, a, b: np.where(x > a, x, 0), lambda x, a, b: _above(x, a, x, _zero(x)), 1.0),
    "scaledtanh": Function(
        lambda x, a, b: a * np.tanh(b * x), lambda x, a, b: call("mul", a, call("tanh", call("mul", b, x))), 1.0, 1.0
    ),
    "hardsigmoid": Function(
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, a, b: clipped(_scaled(x, a, b), _zero(x), _one(x)),
        0.2,
        0.5,
    ),
    "elu": Function(lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), _elu, 1.0),
    "softsign": Function(
        lambda x, a, b: x / (1 + np.abs(x)), lambda x, a, b: call("div", x, call("add", _one(x), call("abs", x)))
    ),
    "softplus": Function(lambda x, a, b: np.logaddexp(x, 0), _softplus),
}
"""Activation functions that the recurrent operators name, in lower case."""


def chosen_functions(node: Node, defaults: tuple[str, ...], directions: int) -> list[tuple[Chosen, ...]]:
    """Activation functions of each direction; parameters are taken in order by those functions that have them.

    Args:
        node: A recurrent layer with attributes `activations`, `activation_alpha` and `activation_beta`, or without.
        defaults: Names for one direction where the node gives none.
        directions: How many directions there are.
    """
    given = node.attributes.get("activations")
    names = [str(name) for name in given] if isinstance(given, tuple) and given else list(defaults) * directions
    alphas, betas = iter(_floats(node, "activation_alpha")), iter(_floats(node, "activation_beta"))
    found = [_choose(name, alphas, betas) for name in names]
    size = len(defaults)
    return [tuple(found[i * size : (i + 1) * size]) for i in range(directions)]


def _choose(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Chosen:
    function = FUNCTIONS[name.lower()]
    alpha = 0.0 if function.alpha is None else next(alphas, function.alpha)
    beta = 0.0 if function.beta is None else next(betas, function.beta)
    return Chosen(function, alpha, beta)


def _floats(node: Node, name: str) -> tuple[float, ...]:
    given = node.attributes.get(name)
    return tuple(float(v) for v in given if isinstance(v, int | float)) if isinstance(given, tuple) else ()
