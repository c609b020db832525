"""Recurrent layers: RNN, GRU, LSTM, in one or both directions, time-major or batch-major, with sequence lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphc.ir import Dim, Node, Type
from graphc.ir.symbolic import multiply
from graphc.ops.base import Array, Datum, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import wide

Activation: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True)
class Function:
    """An activation function by its parameters' defaults; None for a parameter that it does not have."""

    apply: Callable[[Array, float, float], Array]
    alpha: float | None = None
    beta: float | None = None


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))` without overflow on either side."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype, copy=False)


FUNCTIONS: dict[str, Function] = {
    "sigmoid": Function(lambda x, a, b: sigmoid(x)),
    "tanh": Function(lambda x, a, b: np.tanh(x)),
    "relu": Function(lambda x, a, b: np.maximum(x, 0)),
    "affine": Function(lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": Function(lambda x, a, b: np.where(x >= 0, x, a * x), 0.01),
    "thresholdedrelu": Function(lambda x, a, b: np.where(x > a, x, 0), 1.0),
    "scaledtanh": Function(lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": Function(lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "elu": Function(lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0),
    "softsign": Function(lambda x, a, b: x / (1 + np.abs(x))),
    "softplus": Function(lambda x, a, b: np.logaddexp(x, 0)),
}
"""Activation functions that the recurrent operators name, in lower case."""


@dataclass(frozen=True)
class Cell:
    """What tells the three recurrent operators apart.

    Args:
        gates: Gates, each of `hidden_size` rows in the weights.
        states: Values carried from step to step: the hidden state, for an LSTM the cell state too.
        activations: Default activation functions of one direction.
        step: New states from the projected input, the states and the direction's parameters.
    """

    gates: int
    states: int
    activations: tuple[str, ...]
    step: Callable[[Array, list[Array], Parameters], list[Array]]


@dataclass(frozen=True)
class Parameters:
    """One direction's weights and functions.

    Args:
        recurrent: Recurrence weights, (gates * hidden, hidden).
        recurrent_bias: Bias of the recurrence, (gates * hidden).
        peephole: Peephole weights of an LSTM's gates i, o, f, (3 * hidden); None for none.
        functions: Activation functions.
        clip: Limits what the activations see.
        flag: `linear_before_reset` of a GRU, `input_forget` of an LSTM.
    """

    recurrent: Array
    recurrent_bias: Array
    peephole: Array | None
    functions: tuple[Activation, ...]
    clip: Activation
    flag: bool


def _rnn_step(x: Array, states: list[Array], p: Parameters) -> list[Array]:
    (hidden,) = states
    return [p.functions[0](p.clip(x + hidden @ p.recurrent.T + p.recurrent_bias))]


def _gru_step(x: Array, states: list[Array], p: Parameters) -> list[Array]:
    (hidden,) = states
    size = hidden.shape[-1]
    update_reset = x[:, : 2 * size] + hidden @ p.recurrent[: 2 * size].T + p.recurrent_bias[: 2 * size]
    update, reset = np.split(p.functions[0](p.clip(update_reset)), 2, axis=-1)
    weights, bias = p.recurrent[2 * size :].T, p.recurrent_bias[2 * size :]
    recurrence = reset * (hidden @ weights + bias) if p.flag else (reset * hidden) @ weights + bias
    candidate = p.functions[1](p.clip(x[:, 2 * size :] + recurrence))
    return [(1 - update) * candidate + update * hidden]


def _lstm_step(x: Array, states: list[Array], p: Parameters) -> list[Array]:
    hidden, cell = states
    gate, squash, result = p.functions
    i, o, f, c = np.split(x + hidden @ p.recurrent.T + p.recurrent_bias, 4, axis=-1)
    if p.peephole is not None:
        pi, po, pf = np.split(p.peephole, 3)
        i, f = i + pi * cell, f + pf * cell
    i = gate(p.clip(i))
    f = 1 - i if p.flag else gate(p.clip(f))
    new = f * cell + i * squash(p.clip(c))
    if p.peephole is not None:
        o = o + po * new
    return [gate(p.clip(o)) * result(new), new]


RNN = Cell(1, 1, ("tanh",), _rnn_step)
GRU = Cell(3, 1, ("sigmoid", "tanh"), _gru_step)
LSTM = Cell(4, 2, ("sigmoid", "tanh", "tanh"), _lstm_step)


def _directions(node: Node) -> tuple[bool, ...]:
    """For each direction, whether it runs backwards."""
    found = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    return found[node.str_attribute("direction", "forward")]


def _functions(node: Node, cell: Cell) -> list[tuple[Activation, ...]]:
    """Activation functions of each direction; parameters are taken in order by those functions that have them."""
    count = len(_directions(node))
    given = node.attributes.get("activations")
    names = [str(name) for name in given] if isinstance(given, tuple) and given else list(cell.activations) * count
    alphas, betas = iter(_floats(node, "activation_alpha")), iter(_floats(node, "activation_beta"))
    found = [_activation(name, alphas, betas) for name in names]
    size = len(cell.activations)
    return [tuple(found[i * size : (i + 1) * size]) for i in range(count)]


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    function = FUNCTIONS[name.lower()]
    alpha = 0.0 if function.alpha is None else next(alphas, function.alpha)
    beta = 0.0 if function.beta is None else next(betas, function.beta)
    return lambda x: np.asarray(function.apply(x, alpha, beta)).astype(x.dtype, copy=False)


def _floats(node: Node, name: str) -> tuple[float, ...]:
    given = node.attributes.get(name)
    return tuple(float(v) for v in given if isinstance(v, int | float)) if isinstance(given, tuple) else ()


def _infer(cell: Cell) -> Callable[[InferenceContext], Sequence[Type]]:
    def infer(ctx: InferenceContext) -> Sequence[Type]:
        x, w, r = ctx.shape(0), ctx.shape(1), ctx.shape(2)
        direction = ctx.node.str_attribute("direction", "forward")
        if direction not in ("forward", "reverse", "bidirectional"):
            ctx.fail(f"direction {direction!r} is none of forward, reverse, bidirectional")
        if not len(x) == len(w) == len(r) == 3:
            ctx.fail(f"X, W and R must have 3 axes, not shapes {list(x)}, {list(w)}, {list(r)}")
        hidden = r[2]
        directions = len(_directions(ctx.node))
        expected: list[tuple[str, tuple[Dim, ...], tuple[Dim, ...]]] = [
            ("W", w, (directions, multiply(hidden, cell.gates), x[2])),
            ("R", r, (directions, multiply(hidden, cell.gates), hidden)),
        ]
        for name, found, wanted in expected:
            if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(found, wanted, strict=True)):
                ctx.fail(f"{name} has shape {list(found)}, not {list(wanted)}")
        _check_functions(ctx, cell)
        batch_major = bool(ctx.node.int_attribute("layout", 0))
        length, batch = (x[1], x[0]) if batch_major else (x[0], x[1])
        kind = ctx.tensor(0)
        sequence = (batch, length, directions, hidden) if batch_major else (length, directions, batch, hidden)
        state = (batch, directions, hidden) if batch_major else (directions, batch, hidden)
        return [kind.with_shape(sequence), *[kind.with_shape(state)] * cell.states]

    return infer


def _check_functions(ctx: InferenceContext, cell: Cell) -> None:
    given = ctx.node.attributes.get("activations")
    if not isinstance(given, tuple) or not given:
        return
    unknown = [name for name in given if str(name).lower() not in FUNCTIONS]
    if unknown:
        ctx.fail(f"activation {unknown[0]!r} is unknown")
    wanted = len(cell.activations) * len(_directions(ctx.node))
    # Exporters of one-direction RNNs often leave the schema's default of two.
    if len(given) < wanted:
        ctx.fail(f"{len(given)} activations given, {wanted} needed")


def _evaluate(cell: Cell) -> Callable[[Node, Sequence[Datum]], Sequence[Datum]]:
    def evaluate(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
        data, weights, recurrent, bias, lengths, *rest = [*inputs, *[None] * 5][:8]
        initial, peepholes = rest[: cell.states], rest[2] if cell.states == 2 else None
        batch_major = bool(node.int_attribute("layout", 0))
        x = wide(data)
        if batch_major:
            x = np.swapaxes(x, 0, 1)
            initial = [None if state is None else np.swapaxes(state, 0, 1) for state in initial]
        steps, batch = x.shape[:2]
        size = recurrent.shape[2]
        limit = node.float_attribute("clip", np.inf)
        flag = bool(node.int_attribute("linear_before_reset", 0) or node.int_attribute("input_forget", 0))
        active = None if lengths is None else np.arange(steps)[:, None, None] < np.asarray(lengths).reshape(1, -1, 1)
        backwards = _directions(node)
        functions = _functions(node, cell)
        output = np.zeros((steps, len(backwards), batch, size), x.dtype)
        finals: list[list[Array]] = [[] for _ in range(cell.states)]
        for d, reverse in enumerate(backwards):
            biases = np.zeros(2 * cell.gates * size, x.dtype) if bias is None else wide(bias[d])
            own, recurrent_bias = np.split(biases, 2)
            peephole = None if peepholes is None else wide(peepholes[d])
            parameters = Parameters(
                wide(recurrent[d]),
                recurrent_bias,
                peephole,
                functions[d],
                (lambda v: np.clip(v, -limit, limit)) if np.isfinite(limit) else (lambda v: v),
                flag,
            )
            projected = x @ wide(weights[d]).T + own
            states = [np.zeros((batch, size), x.dtype) if s is None else wide(s[d]) for s in initial]
            for step in reversed(range(steps)) if reverse else range(steps):
                new = cell.step(projected[step], states, parameters)
                if active is not None:
                    # Past its end a sequence keeps its state, and its output is zero.
                    new = [np.where(active[step], after, before) for before, after in zip(states, new, strict=True)]
                states = new
                output[step, d] = states[0] if active is None else np.where(active[step], states[0], 0)
            for final, state in zip(finals, states, strict=True):
                final.append(state)
        results = [output, *(np.stack(final) for final in finals)]
        if batch_major:
            results = [output.transpose(2, 0, 1, 3), *(final.swapaxes(0, 1) for final in results[1:])]
        return [np.ascontiguousarray(result).astype(data.dtype, copy=False) for result in results]

    return evaluate


for _name, _cell in (("RNN", RNN), ("GRU", GRU), ("LSTM", LSTM)):
    register(Operator(_name, _infer(_cell), _evaluate(_cell), traits=frozenset({Trait.SCAN, Trait.CONTRACTION})))
