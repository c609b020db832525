"""Images whose channels come last, in domain com.microsoft: what the optimizer writes of diffusion models."""

from __future__ import annotations

from graphc.ir import Builder, Node, Value
from graphc.ops.base import Trait
from graphc.ops.contrib import DOMAIN, Values, activated_conv, added, given, kept, needed, numbers, silu
from graphc.ops.decomposition import decomposed, rank_of

_POOL = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode")


def channels_first(b: Builder, x: Value) -> Value:
    """(batch, ..., channels) as (batch, channels, ...)."""
    rank = rank_of(x)
    return b.op("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])


def channels_last(b: Builder, x: Value) -> Value:
    """(batch, channels, ...) as (batch, ..., channels)."""
    rank = rank_of(x)
    return b.op("Transpose", x, perm=[0, *range(2, rank), 1])


def _normalized(b: Builder, node: Node, x: Value, gamma: Value, beta: Value) -> Value:
    """A group norm in float32, as its scale is, and what may follow it."""
    last = node.int_attribute("channels_last", 1)
    wide = b.op("Cast", channels_first(b, x) if last else x, to=gamma.tensor_type.dtype.onnx)
    epsilon, groups = node.float_attribute("epsilon", 1e-5), node.int_attribute("groups", 1)
    result = b.op("GroupNormalization", wide, gamma, beta, num_groups=groups, epsilon=epsilon)
    result = silu(b, result) if node.int_attribute("activation", 0) else result
    result = b.op("Cast", result, to=x.tensor_type.dtype.onnx)
    return channels_last(b, result) if last else result


def _group_norm(b: Builder, node: Node, x: Values) -> Values:
    return [_normalized(b, node, needed(x, 0), needed(x, 1), needed(x, 2))]


def _skip_group_norm(b: Builder, node: Node, x: Values) -> Values:
    data, skip, bias = needed(x, 0), needed(x, 3), given(x, 4)
    last = node.int_attribute("channels_last", 1)
    if rank_of(skip) == 2:
        skip = b.op("Unsqueeze", skip, numbers(b, 1, 2) if last else numbers(b, 2, 3))
    if bias is not None and not last:
        bias = b.op("Unsqueeze", bias, numbers(b, 1, 2))
    total = added(b, data, skip, bias)
    return [_normalized(b, node, total, needed(x, 1), needed(x, 2)), total]


def _bias_add(b: Builder, node: Node, x: Values) -> Values:
    return [added(b, needed(x, 0), needed(x, 1), needed(x, 2))]


def _bias_split_gelu(b: Builder, node: Node, x: Values) -> Values:
    made = b.op("Split", added(b, needed(x, 0), needed(x, 1)), axis=-1, num_outputs=2, outputs=2).producer
    assert made is not None
    left, right = made.outputs
    return [b.op("Mul", left, b.op("Gelu", right))]


def _conv(b: Builder, node: Node, x: Values) -> Values:
    """A convolution of an image whose channels come last, as those of NhwcConv's weights do, and of no other's."""
    weights = needed(x, 1)
    weights = channels_first(b, weights) if node.op_type == "NhwcConv" else weights
    operands = [channels_first(b, needed(x, 0)), weights, given(x, 2)]
    more = given(x, 3)
    operands.append(None if more is None else channels_first(b, more))
    return [channels_last(b, activated_conv(b, node, operands))]


def _max_pool(b: Builder, node: Node, x: Values) -> Values:
    return [channels_last(b, b.op("MaxPool", channels_first(b, needed(x, 0)), **kept(node, *_POOL)))]


decomposed("GroupNorm", _group_norm, domain=DOMAIN)
decomposed("SkipGroupNorm", _skip_group_norm, domain=DOMAIN)
decomposed("BiasAdd", _bias_add, domain=DOMAIN)
decomposed("BiasSplitGelu", _bias_split_gelu, domain=DOMAIN)
for _name in ("NhwcConv", "NhwcFusedConv"):
    decomposed(_name, _conv, domain=DOMAIN, traits={Trait.CONTRACTION})
decomposed("NhwcMaxPool", _max_pool, domain=DOMAIN, traits={Trait.WINDOW})
