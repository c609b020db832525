"""Activations: the pointwise functions between layers, a row each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import Node, dtypes
from graphc.ops.base import Array
from graphc.ops.elementwise import Domain, Form, Meaning, is_float, is_numeric, is_signed, like, pointwise
from graphc.ops.expr import Scalar, call, cast, select
from graphc.ops.render_numpy import erf


def multiplied(x: Scalar, value: float) -> Scalar:
    """`x` times a number."""
    return call("mul", x, like(x, value))


def positive(x: Scalar) -> Scalar:
    """The predicate `x > 0`."""
    return call("gt", x, like(x, 0))


def negative(x: Scalar) -> Scalar:
    """The predicate `x < 0`."""
    return call("lt", x, like(x, 0))


def clamped(x: Scalar, low: float, high: float) -> Scalar:
    """`x` limited to `low..high`; NaN stays NaN."""
    return call("min", call("max", x, like(x, low)), like(x, high))


def exponential_unit(x: Scalar, alpha: float, scale: float = 1.0) -> Scalar:
    """`x` where positive, else `alpha * (exp(x) - 1)`, all times `scale`."""
    return select(
        negative(x),
        multiplied(call("sub", call("exp", x), like(x, 1)), alpha * scale),
        x if scale == 1.0 else multiplied(x, scale),
    )


def softplus(x: Scalar) -> Scalar:
    """`log(1 + exp(x))` without overflow."""
    return call("add", call("max", x, like(x, 0)), call("log1p", call("exp", call("neg", call("abs", x)))))


def gelu_form(x: Scalar, *, tanh: bool) -> Scalar:
    """The Gaussian error linear unit, exact or in its tanh approximation."""
    if tanh:
        cube = call("mul", x, call("mul", x, x))
        inner = multiplied(call("add", x, multiplied(cube, 0.044715)), math.sqrt(2.0 / math.pi))
        gate = call("tanh", inner)
    else:
        gate = call("erf", multiplied(x, math.sqrt(0.5)))
    return call("mul", multiplied(x, 0.5), call("add", gate, like(x, 1)))


def gelu_meaning(x: Array, *, tanh: bool) -> Array:
    """The Gaussian error linear unit in NumPy."""
    gate = np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)) if tanh else erf(x * math.sqrt(0.5))
    return 0.5 * x * (1.0 + gate)


def sigmoid_meaning(x: Array) -> Array:
    """The logistic function in NumPy."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def softplus_meaning(x: Array) -> Array:
    """`log(1 + exp(x))` in NumPy, without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _alpha(node: Node, default: float) -> float:
    return node.float_attribute("alpha", default)


_SELU = (1.67326319217681884765625, 1.05070102214813232421875)
_HARD_SWISH = (1.0 / 6.0, 0.5)


def _gamma(node: Node) -> float:
    return node.float_attribute("gamma", _SELU[1])


def _celu_form(node: Node, x: Scalar) -> Scalar:
    alpha = _alpha(node, 1.0)
    grown = multiplied(call("sub", call("exp", multiplied(x, 1.0 / alpha)), like(x, 1)), alpha)
    return call("add", call("max", x, like(x, 0)), call("min", grown, like(x, 0)))


def _shrink_form(node: Node, x: Scalar) -> Scalar:
    bias, lambd = node.float_attribute("bias", 0.0), node.float_attribute("lambd", 0.5)
    wide = cast(x, dtypes.FLOAT32) if x.dtype.is_integer else x
    below, above = call("lt", wide, like(wide, -lambd)), call("gt", wide, like(wide, lambd))
    low, high = call("add", wide, like(wide, bias)), call("sub", wide, like(wide, bias))
    return cast(select(below, low, select(above, high, like(wide, 0))), x.dtype)


def _shrink_meaning(node: Node, x: Array) -> Array:
    bias, lambd = node.float_attribute("bias", 0.0), node.float_attribute("lambd", 0.5)
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0))


def _hard_sigmoid_meaning(node: Node, x: Array) -> Array:
    return np.clip(_alpha(node, 0.2) * x + node.float_attribute("beta", 0.5), 0, 1)


def _hard_sigmoid(x: Scalar, alpha: float, beta: float) -> Scalar:
    return clamped(call("add", multiplied(x, alpha), like(x, beta)), 0, 1)


def _scaled_sigmoid(x: Scalar, alpha: float) -> Scalar:
    return call("sigmoid", x if alpha == 1.0 else multiplied(x, alpha))


def _is_tanh(node: Node) -> bool:
    return node.str_attribute("approximate", "none") == "tanh"


_ACTIVATIONS: Sequence[tuple[str, Domain, Meaning, Form]] = (
    ("Relu", is_signed, lambda node, x: np.maximum(x, 0), lambda node, x: call("max", x, like(x, 0))),
    ("Sigmoid", is_float, lambda node, x: sigmoid_meaning(x), lambda node, x: call("sigmoid", x)),
    (
        "LeakyRelu",
        is_float,
        lambda node, x: np.where(x < 0, x * _alpha(node, 0.01), x),
        lambda node, x: select(negative(x), multiplied(x, _alpha(node, 0.01)), x),
    ),
    (
        "Elu",
        is_float,
        lambda node, x: np.where(x < 0, _alpha(node, 1.0) * np.expm1(x), x),
        lambda node, x: exponential_unit(x, _alpha(node, 1.0)),
    ),
    (
        "Selu",
        is_float,
        lambda node, x: (
            np.where(x > 0, x, _alpha(node, _SELU[0]) * np.expm1(x)) * node.float_attribute("gamma", _SELU[1])
        ),
        lambda node, x: exponential_unit(x, _alpha(node, _SELU[0]), node.float_attribute("gamma", _SELU[1])),
    ),
    (
        "Celu",
        is_float,
        lambda node, x: np.maximum(x, 0) + np.minimum(0, _alpha(node, 1.0) * np.expm1(x / _alpha(node, 1.0))),
        _celu_form,
    ),
    (
        "HardSigmoid",
        is_float,
        _hard_sigmoid_meaning,
        lambda node, x: _hard_sigmoid(x, _alpha(node, 0.2), node.float_attribute("beta", 0.5)),
    ),
    (
        "HardSwish",
        is_float,
        lambda node, x: x * np.clip(x * _HARD_SWISH[0] + _HARD_SWISH[1], 0, 1),
        lambda node, x: call("mul", x, _hard_sigmoid(x, *_HARD_SWISH)),
    ),
    (
        "Mish",
        is_float,
        lambda node, x: x * np.tanh(softplus_meaning(x)),
        lambda node, x: call("mul", x, call("tanh", softplus(x))),
    ),
    (
        "Gelu",
        is_float,
        lambda node, x: gelu_meaning(x, tanh=_is_tanh(node)),
        lambda node, x: gelu_form(x, tanh=_is_tanh(node)),
    ),
    (
        "Swish",
        is_float,
        lambda node, x: x * sigmoid_meaning(_alpha(node, 1.0) * x),
        lambda node, x: call("mul", x, _scaled_sigmoid(x, _alpha(node, 1.0))),
    ),
    ("Softplus", is_float, lambda node, x: softplus_meaning(x), lambda node, x: softplus(x)),
    (
        "Softsign",
        is_float,
        lambda node, x: x / (1 + np.abs(x)),
        lambda node, x: call("div", x, call("add", call("abs", x), like(x, 1))),
    ),
    (
        "ThresholdedRelu",
        is_float,
        lambda node, x: np.where(x > _alpha(node, 1.0), x, 0),
        lambda node, x: select(call("gt", x, like(x, _alpha(node, 1.0))), x, like(x, 0)),
    ),
    ("Shrink", is_numeric, _shrink_meaning, _shrink_form),
)
for _name, _domain, _meaning, _form in _ACTIVATIONS:
    pointwise(_name, 1, _domain, _meaning, _form)

pointwise(
    "PRelu",
    2,
    is_numeric,
    lambda node, x, slope: np.where(x < 0, x * slope, x),
    lambda node, x, slope: select(negative(x), call("mul", x, slope), x),
)
