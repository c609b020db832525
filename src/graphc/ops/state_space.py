"""Operators of linear-attention and state-space models, which carry a state from call to call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, Type
from graphc.ir.symbolic import add, floordiv, multiply
from graphc.ops.attention import join_heads, split_heads
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import wide
from graphc.ops.expr import Scalar, TensorExpr, axes_of, call, cast, compare, const, load, reduce, select
from graphc.ops.indexing import accumulator, subtract, wide_load
from graphc.ops.recurrent_functions import sigmoid

UPDATE_RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}
"""For each update rule of LinearAttention, whether it decays the state and whether it corrects what it writes."""


def _infer_linear_attention(ctx: InferenceContext) -> Sequence[Type]:
    q, k, v = (ctx.shape(i) for i in range(3))
    heads, kv_heads = ctx.node.int_attribute("q_num_heads", 0), ctx.node.int_attribute("kv_num_heads", 0)
    if not len(q) == len(k) == len(v) == 3:
        ctx.fail(f"query, key and value must have 3 axes, not shapes {list(q)}, {list(k)}, {list(v)}")
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        ctx.fail(f"{heads} heads of the query are no multiple of {kv_heads} of the key")
    rule = ctx.node.str_attribute("update_rule", "gated_delta")
    if rule not in UPDATE_RULES:
        ctx.fail(f"update_rule {rule!r} is none of {', '.join(UPDATE_RULES)}")
    for needed, index, name in zip(UPDATE_RULES[rule], (4, 5), ("decay", "beta"), strict=True):
        if needed != ctx.has(index):
            ctx.fail(f"update_rule {rule!r} {'needs' if needed else 'takes no'} {name}")
    key_size, value_size = floordiv(q[2], heads), floordiv(v[2], kv_heads)
    # The decay is one number a head or one for each of its keys; the correction has a rate for each head or for all.
    expected: dict[int, tuple[str, list[tuple[Dim, ...]]]] = {
        0: ("query", [(*q[:2], multiply(key_size, heads))]),
        1: ("key", [(*q[:2], multiply(key_size, kv_heads))]),
        2: ("value", [(*q[:2], multiply(value_size, kv_heads))]),
        3: ("past_state", [(q[0], kv_heads, key_size, value_size)]),
        4: ("decay", [(*q[:2], kv_heads), (*q[:2], multiply(key_size, kv_heads))]),
        5: ("beta", [(*q[:2], kv_heads), (*q[:2], 1)]),
    }
    for index, (name, shapes) in expected.items():
        if ctx.has(index) and not any(_may_be(ctx.shape(index), shape) for shape in shapes):
            ctx.fail(f"{name} has shape {list(ctx.shape(index))}, not {' or '.join(str(list(s)) for s in shapes)}")
    state = ctx.tensor(3).dtype if ctx.has(3) else ctx.tensor(0).dtype
    shape = (q[0], kv_heads, key_size, value_size)
    return [
        ctx.tensor(0).with_shape((q[0], q[1], value_size * heads)),
        ctx.tensor(0).with_shape(shape).with_dtype(state),
    ]


def _may_be(shape: tuple[Dim, ...], wanted: tuple[Dim, ...]) -> bool:
    """Whether a shape is the one wanted as far as its extents are known."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in pairs
    )


def _evaluate_linear_attention(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    q, k, v, past, decay, beta = [*inputs, None, None, None][:6]
    heads, kv_heads = node.int_attribute("q_num_heads", 1), node.int_attribute("kv_num_heads", 1)
    query, key, value = (wide(split_heads(x, count)) for x, count in ((q, heads), (k, kv_heads), (v, kv_heads)))
    gates = None if decay is None else np.exp(wide(split_heads(decay, kv_heads)))
    rates = None if beta is None else wide(beta).transpose(0, 2, 1)[..., None]
    scale = node.float_attribute("scale", 0.0) or 1 / math.sqrt(query.shape[-1])
    shape = (q.shape[0], kv_heads, key.shape[-1], value.shape[-1])
    state: Array = np.zeros(shape, query.dtype) if past is None else wide(past)
    outputs = []
    for step in range(q.shape[1]):
        now, written = key[:, :, step, :, None], value[:, :, step, None, :]
        if gates is not None:
            state = state * gates[:, :, step, :, None]
        if rates is not None:
            # Only what the state does not answer to this key yet is written.
            written = rates[:, :, step, None] * (written - (state * now).sum(axis=2, keepdims=True))
        state = state + now * written
        shared = np.repeat(state, heads // kv_heads, axis=1)
        outputs.append(scale * (query[:, :, step, None, :] @ shared)[:, :, 0])
    result = join_heads(np.stack(outputs, axis=2)) if outputs else np.zeros((*q.shape[:2], heads * shape[-1]))
    return [result.astype(q.dtype), state.astype(q.dtype if past is None else past.dtype)]


def _infer_causal_conv(ctx: InferenceContext) -> Sequence[Type]:
    x, w = ctx.shape(0), ctx.shape(1)
    if len(x) != 3 or len(w) != 3:
        ctx.fail(f"input and weights must have 3 axes, not shapes {list(x)} and {list(w)}")
    if ctx.node.str_attribute("activation", "none") not in ("none", "silu", "swish"):
        ctx.fail(f"activation {ctx.node.str_attribute('activation', 'none')!r} is none of none, silu, swish")
    kind = ctx.tensor(0)
    return [kind.with_shape(x), kind.with_shape((x[0], x[1], subtract(w[2], 1)))]


def _evaluate_causal_conv(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, w, bias, past = [*inputs, None, None][:4]
    taps = w.shape[2]
    before = np.zeros((*x.shape[:2], taps - 1), x.dtype) if past is None else past
    padded = np.concatenate([before, x], axis=2)
    total = np.zeros(x.shape, wide(x).dtype)
    for tap in range(taps):
        total += wide(w)[:, 0, tap, None] * wide(padded)[:, :, tap : tap + x.shape[2]]
    if bias is not None:
        total = total + wide(bias)[:, None]
    if node.str_attribute("activation", "none") != "none":
        total = total * sigmoid(total)
    return [total.astype(x.dtype), np.ascontiguousarray(padded[:, :, padded.shape[2] - taps + 1 :])]


def _express_causal_conv(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    x, w = ctx.tensor(0), ctx.tensor(1)
    dtype = accumulator(x.dtype)
    before = subtract(w.dims[2], 1)
    has_past = len(ctx.inputs) > 3 and ctx.inputs[3] is not None

    def padded(batch: Dim, channel: Dim, place: Dim) -> Scalar:
        """Element of the input with the past, or zeros, before it."""
        past = load(3, x.dtype, (batch, channel, place)) if has_past else const(0, x.dtype)
        return select(compare("lt", place, before), past, load(0, x.dtype, (batch, channel, subtract(place, before))))

    axes = axes_of(x.dims)
    batch, channel, position = (axis.index for axis in axes)
    (tap,) = axes_of([w.dims[2]], "k")
    value = cast(padded(batch, channel, add(position, tap.index)), dtype)
    total = reduce("sum", [tap], call("mul", wide_load(1, w, (channel, 0, tap.index)), value))
    if len(ctx.inputs) > 2 and ctx.inputs[2] is not None:
        total = call("add", total, wide_load(2, ctx.inputs[2], (channel,)))
    if ctx.node.str_attribute("activation", "none") != "none":
        total = call("mul", total, call("sigmoid", total))
    output = TensorExpr(axes, cast(total, x.dtype))
    if len(ctx.outputs) < 2:
        return [output]
    kept = axes_of(ctx.outputs[1].dims)
    batch, channel, position = (axis.index for axis in kept)
    return [output, TensorExpr(kept, padded(batch, channel, add(position, x.dims[2])))]


register(
    Operator(
        "LinearAttention",
        _infer_linear_attention,
        _evaluate_linear_attention,
        traits=frozenset({Trait.SCAN, Trait.CONTRACTION}),
    )
)
register(
    Operator(
        "CausalConvWithState",
        _infer_causal_conv,
        _evaluate_causal_conv,
        expression=_express_causal_conv,
        traits=frozenset({Trait.WINDOW}),
    )
)
