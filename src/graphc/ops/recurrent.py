"""Recurrent layers: RNN, GRU, LSTM, in one or both directions, time-major or batch-major, with sequence lengths.

`graphc::Recurrence` is what remains of such a layer once its input is multiplied with its weights, as one product over
all steps. Its inputs are

    0  data          (steps, batch, directions * gates * hidden): X W^T with all biases that can be added to it
    1  R             (directions, gates * hidden, hidden)
    2  bias          (directions, hidden): of a GRU's candidate where the reset gate scales it too; else absent
    3  lengths, initial states (4, 5), peepholes (6), as the ONNX operators have them
    7  W             (directions, gates * hidden, inputs), where the data is X itself; else absent
    8  added         (directions * gates * hidden): the biases that go with W; else absent

and its outputs those of the layer, but for the sequence, which is (steps, batch, directions, hidden): as it is written,
and as models want it. With `layout=1` batch comes before steps, and before directions in the states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Dim, Node, Type
from graphc.ir.symbolic import multiply
from graphc.ops.base import Array, Datum, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import wide
from graphc.ops.recurrent_functions import FUNCTIONS, Activation, Chosen, chosen_functions

RECURRENCE = "Recurrence"
"""The operator of domain `graphc`; attribute `cell` names the layer."""


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
    functions: tuple[Chosen, ...]
    clip: Activation
    flag: bool


def _rnn_step(x: Array, states: list[Array], p: Parameters) -> list[Array]:
    (hidden,) = states
    return [p.functions[0].apply(p.clip(x + hidden @ p.recurrent.T + p.recurrent_bias))]


def _gru_step(x: Array, states: list[Array], p: Parameters) -> list[Array]:
    (hidden,) = states
    size = hidden.shape[-1]
    update_reset = x[:, : 2 * size] + hidden @ p.recurrent[: 2 * size].T + p.recurrent_bias[: 2 * size]
    update, reset = np.split(p.functions[0].apply(p.clip(update_reset)), 2, axis=-1)
    weights, bias = p.recurrent[2 * size :].T, p.recurrent_bias[2 * size :]
    recurrence = reset * (hidden @ weights + bias) if p.flag else (reset * hidden) @ weights + bias
    candidate = p.functions[1].apply(p.clip(x[:, 2 * size :] + recurrence))
    return [(1 - update) * candidate + update * hidden]


def _lstm_step(x: Array, states: list[Array], p: Parameters) -> list[Array]:
    hidden, cell = states
    gate, squash, result = (function.apply for function in p.functions)
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
CELLS = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM}


def directions_of(node: Node) -> tuple[bool, ...]:
    """For each direction, whether it runs backwards."""
    found = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    return found[node.str_attribute("direction", "forward")]


def _infer(cell: Cell) -> Callable[[InferenceContext], Sequence[Type]]:
    def infer(ctx: InferenceContext) -> Sequence[Type]:
        x, w, r = ctx.shape(0), ctx.shape(1), ctx.shape(2)
        if not len(x) == len(w) == len(r) == 3:
            ctx.fail(f"X, W and R must have 3 axes, not shapes {list(x)}, {list(w)}, {list(r)}")
        hidden, directions = r[2], _directions(ctx)
        batch_major = bool(ctx.node.int_attribute("layout", 0))
        length, batch = (x[1], x[0]) if batch_major else (x[0], x[1])
        sequence = (batch, length, directions, hidden) if batch_major else (length, directions, batch, hidden)
        state = (batch, directions, hidden) if batch_major else (directions, batch, hidden)
        rows = multiply(hidden, cell.gates)
        _check_shape(ctx, 1, "W", (directions, rows, x[2]))
        _check_shape(ctx, 2, "R", (directions, rows, hidden))
        _check_shape(ctx, 3, "B", (directions, multiply(rows, 2)))
        _check_carried(ctx, cell, 4, batch, state, (directions, multiply(hidden, 3)))
        _check_functions(ctx, cell)
        kind = ctx.tensor(0)
        return [kind.with_shape(sequence), *[kind.with_shape(state)] * cell.states]

    return infer


def _infer_recurrence(ctx: InferenceContext) -> Sequence[Type]:
    cell = CELLS.get(ctx.node.str_attribute("cell", ""))
    if cell is None:
        ctx.fail(f"cell {ctx.node.str_attribute('cell', '')!r} is none of {', '.join(CELLS)}")
    x, r = ctx.shape(0), ctx.shape(1)
    if len(x) != 3 or len(r) != 3:
        ctx.fail(f"the input and R must have 3 axes, not shapes {list(x)}, {list(r)}")
    hidden, directions = r[2], _directions(ctx)
    batch_major = bool(ctx.node.int_attribute("layout", 0))
    batch = x[0] if batch_major else x[1]
    state = (batch, directions, hidden) if batch_major else (directions, batch, hidden)
    rows = multiply(hidden, cell.gates)
    every = multiply(rows, directions)
    _check_shape(ctx, 0, "the input", (*x[:2], x[2] if ctx.has(7) else every))
    _check_shape(ctx, 1, "R", (directions, rows, hidden))
    _check_shape(ctx, 2, "the bias", (directions, hidden))
    _check_carried(ctx, cell, 3, batch, state, (directions, multiply(hidden, 3)))
    _check_shape(ctx, 7, "W", (directions, rows, x[2]))
    _check_shape(ctx, 8, "the added bias", (every,))
    _check_functions(ctx, cell)
    kind = ctx.tensor(0)
    return [kind.with_shape((x[0], x[1], directions, hidden)), *[kind.with_shape(state)] * cell.states]


def _directions(ctx: InferenceContext) -> int:
    direction = ctx.node.str_attribute("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        ctx.fail(f"direction {direction!r} is none of forward, reverse, bidirectional")
    return len(directions_of(ctx.node))


def _check_carried(
    ctx: InferenceContext, cell: Cell, first: int, batch: Dim, state: tuple[Dim, ...], peepholes: tuple[Dim, ...]
) -> None:
    """Lengths, initial states and peepholes, from input `first` on."""
    _check_shape(ctx, first, "sequence_lens", (batch,), floats=False)
    for number, name in enumerate(("initial_h", "initial_c")[: cell.states]):
        _check_shape(ctx, first + 1 + number, name, state)
    if cell.states == 2:
        _check_shape(ctx, first + 3, "P", peepholes)


def _check_shape(ctx: InferenceContext, index: int, name: str, wanted: tuple[Dim, ...], *, floats: bool = True) -> None:
    """Fails where input `index` is there and is not of the layer's type, or surely not of the shape wanted."""
    if not ctx.has(index):
        return
    kind, data = ctx.tensor(index), ctx.tensor(0)
    if kind.dtype != data.dtype if floats else not kind.dtype.is_integer:
        ctx.fail(f"{name} is of {kind.dtype}, not of {data.dtype if floats else 'integers'}")
    shape = kind.shape
    if shape is None:
        return
    pairs = zip(shape, wanted, strict=False)
    if len(shape) != len(wanted) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        ctx.fail(f"{name} has shape {list(shape)}, not {list(wanted)}")


def _check_functions(ctx: InferenceContext, cell: Cell) -> None:
    given = ctx.node.attributes.get("activations")
    if not isinstance(given, tuple) or not given:
        return
    unknown = [name for name in given if str(name).lower() not in FUNCTIONS]
    if unknown:
        ctx.fail(f"activation {unknown[0]!r} is unknown")
    wanted = len(cell.activations) * len(directions_of(ctx.node))
    # Exporters of one-direction RNNs often leave the schema's default of two.
    if len(given) < wanted:
        ctx.fail(f"{len(given)} activations given, {wanted} needed")


def _evaluate(cell: Cell) -> Callable[[Node, Sequence[Datum]], Sequence[Datum]]:
    def evaluate(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
        data, weights, recurrent, bias, *rest = [*inputs, *[None] * 5][:8]
        turned = bool(node.int_attribute("layout", 0))
        x = wide(data).swapaxes(0, 1) if turned else wide(data)
        own, recurrent_bias = (None, None) if bias is None else np.split(wide(bias), 2, axis=1)
        projected = np.einsum("tbi,dgi->tbdg", x, wide(weights), optimize=True)
        if own is not None:
            projected = projected + own
        output, finals = _recur(node, cell, projected, recurrent, recurrent_bias, rest)
        results = [output.transpose(1, 0, 2, 3) if turned else output.swapaxes(1, 2), *finals]
        return [np.ascontiguousarray(result).astype(data.dtype, copy=False) for result in results]

    return evaluate


def _evaluate_recurrence(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    data, recurrent, bias, *rest, weights, added = [*inputs, *[None] * 7][:9]
    cell = CELLS[node.str_attribute("cell", "")]
    turned = bool(node.int_attribute("layout", 0))
    x = wide(data).swapaxes(0, 1) if turned else wide(data)
    if weights is not None:
        x = x @ wide(weights).reshape(-1, weights.shape[2]).T + (0 if added is None else wide(added))
    x = x.reshape(*x.shape[:2], recurrent.shape[0], recurrent.shape[1])
    whole = None
    if bias is not None:
        whole = np.zeros(recurrent.shape[:2], x.dtype)
        whole[:, -recurrent.shape[2] :] = wide(bias)
    output, finals = _recur(node, cell, x, recurrent, whole, rest)
    results = [output.swapaxes(0, 1) if turned else output, *finals]
    return [np.ascontiguousarray(result).astype(data.dtype, copy=False) for result in results]


def _recur(
    node: Node, cell: Cell, projected: Array, recurrent: Array, bias: Array | None, rest: Sequence[Datum]
) -> tuple[Array, list[Array]]:
    """All steps of a layer.

    Args:
        node: Its attributes.
        cell: What it computes.
        projected: (steps, batch, directions, gates * hidden).
        recurrent: (directions, gates * hidden, hidden).
        bias: What is added to the recurrence, (directions, gates * hidden).
        rest: Lengths, initial states and peepholes, as the node has them.

    Returns:
        The outputs of all steps, (steps, batch, directions, hidden), and the last states as the node shapes them.
    """
    lengths, *initial = rest[: 1 + cell.states]
    peepholes = rest[3] if cell.states == 2 else None
    turned = bool(node.int_attribute("layout", 0))
    if turned:
        initial = [None if state is None else np.swapaxes(state, 0, 1) for state in initial]
    steps, batch, _, rows = projected.shape
    size = recurrent.shape[2]
    limit = node.float_attribute("clip", np.inf)
    flag = bool(node.int_attribute("linear_before_reset", 0) or node.int_attribute("input_forget", 0))
    active = None if lengths is None else np.arange(steps)[:, None, None] < np.asarray(lengths).reshape(1, -1, 1)
    backwards = directions_of(node)
    functions = chosen_functions(node, cell.activations, len(backwards))
    output = np.zeros((steps, batch, len(backwards), size), projected.dtype)
    finals: list[list[Array]] = [[] for _ in range(cell.states)]
    for d, reverse in enumerate(backwards):
        parameters = Parameters(
            wide(recurrent[d]),
            np.zeros(rows, projected.dtype) if bias is None else bias[d],
            None if peepholes is None else wide(peepholes[d]),
            functions[d],
            (lambda v: np.clip(v, -limit, limit)) if np.isfinite(limit) else (lambda v: v),
            flag,
        )
        states = [np.zeros((batch, size), projected.dtype) if s is None else wide(s[d]) for s in initial]
        for step in reversed(range(steps)) if reverse else range(steps):
            new = cell.step(projected[step, :, d], states, parameters)
            if active is not None:
                # Past its end a sequence keeps its state, and its output is zero.
                new = [np.where(active[step], after, before) for before, after in zip(states, new, strict=True)]
            states = new
            output[step, :, d] = states[0] if active is None else np.where(active[step], states[0], 0)
        for final, state in zip(finals, states, strict=True):
            final.append(state)
    stacked = [np.stack(final) for final in finals]
    return output, [state.swapaxes(0, 1) if turned else state for state in stacked]


for _name, _cell in CELLS.items():
    register(Operator(_name, _infer(_cell), _evaluate(_cell), traits=frozenset({Trait.SCAN, Trait.CONTRACTION})))
register(
    Operator(
        RECURRENCE,
        _infer_recurrence,
        _evaluate_recurrence,
        domain=GRAPHC_DOMAIN,
        traits=frozenset({Trait.SCAN}),
    )
)
