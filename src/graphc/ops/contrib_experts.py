"""Mixtures of experts of domain com.microsoft: every token goes through the few feed-forward networks that suit it.

Where the tokens are fewer than the experts that they leave alone, as in a step of decoding, the weights of the chosen
experts are gathered; else every expert sees every token, and its share of those that are not its own is 0. Follows the
operators' documentation and, where that is silent, ONNX Runtime's CPU kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.base import Trait
from graphc.ops.contrib import DOMAIN, Values, given, needed, numbers, silu
from graphc.ops.contrib_weights import unpacked
from graphc.ops.decomposition import decomposed, rank_of, scalar_like

Pick = Callable[[Value], Value]
"""The part of a tensor over all experts, (experts, ...), that takes part."""
Layer = Callable[[Pick], tuple[Value, Value | None]]
"""Weights (experts, rows, columns) and biases (experts, rows) of a layer, of the experts that are picked."""


@dataclass(frozen=True)
class _Layers:
    """The layers of all experts; without `third` the first one makes the gate's operands, too, or there is none."""

    first: Layer
    second: Layer
    third: Layer | None


def _shares(b: Builder, node: Node, router: Value, weights: Value | None) -> tuple[Value, Value]:
    """Each token's experts and what each of them counts, (tokens, k)."""
    if node.int_attribute("use_sparse_mixer", 0):
        raise ValueError("use_sparse_mixer is not defined")
    count, normalized = node.int_attribute("k", 1), bool(node.int_attribute("normalize_routing_weights", 0))
    made = b.op("TopK", router, numbers(b, count), outputs=2, axis=-1).producer
    assert made is not None
    scores, experts = made.outputs
    if weights is not None:
        share = b.op("GatherElements", weights, experts, axis=1)
        return experts, b.op("Div", share, b.op("ReduceSum", share, numbers(b, 1), keepdims=1)) if normalized else share
    # Quantized experts share 1 among those that are chosen, whatever the attribute says: so does ONNX Runtime.
    if normalized or node.op_type == "QMoE":
        return experts, b.op("Softmax", scores, axis=-1)
    return experts, b.op("GatherElements", b.op("Softmax", router, axis=-1), experts, axis=1)


def _through(b: Builder, layer: Layer, pick: Pick, x: Value) -> Value:
    """`x`, (experts or 1, tokens, columns), through one layer of each expert."""
    weights, bias = layer(pick)
    result = b.op("MatMul", x, b.op("Transpose", weights, perm=[0, 2, 1]))
    return result if bias is None else b.op("Add", result, b.op("Unsqueeze", bias, numbers(b, 1)))


def _halves(b: Builder, x: Value, fusion: int) -> tuple[Value, Value]:
    """Gate and linear part of a fused layer: one after the other in pairs (1), or side by side (2)."""
    if fusion not in (1, 2):
        raise ValueError("swiglu needs fc3_experts_weights, or swiglu_fusion 1 or 2")
    if fusion == 1:
        pairs = b.op("Reshape", x, numbers(b, 0, 0, -1, 2))
        gate, linear = (b.op("Gather", pairs, b.constant(np.array(i, np.int64)), axis=3) for i in range(2))
        return gate, linear
    made = b.op("Split", x, axis=-1, outputs=2, num_outputs=2).producer
    assert made is not None
    return made.outputs[0], made.outputs[1]


def _activated(b: Builder, node: Node, x: Value, linear: Value | None) -> Value:
    """What stands between the layers: an activation, times the linear part where there is one."""
    name, fusion = node.str_attribute("activation_type", "relu"), node.int_attribute("swiglu_fusion", 0)
    if node.int_attribute("swiglu_limit_after_activation", 0):
        raise ValueError("swiglu_limit_after_activation is not defined")
    if name == "swiglu":
        gate, linear = _halves(b, x, fusion) if linear is None else (x, linear)
        if "swiglu_limit" in node.attributes:
            limit = node.float_attribute("swiglu_limit", 0.0)
            gate = b.op("Min", gate, scalar_like(b, limit, gate))
            linear = b.op("Clip", linear, scalar_like(b, -limit, gate), scalar_like(b, limit, gate))
        steep = b.op("Mul", gate, scalar_like(b, node.float_attribute("activation_alpha", 1.0), gate))
        opened = b.op("Mul", gate, b.op("Sigmoid", steep))
        return b.op("Mul", opened, b.op("Add", linear, scalar_like(b, node.float_attribute("activation_beta", 0), x)))
    if name == "geglu":
        gate, linear = _halves(b, x, fusion)
        return b.op("Mul", b.op("Gelu", gate, approximate="tanh"), linear)
    if name == "gelu":
        made = b.op("Gelu", x, approximate="tanh")
    elif name in ("silu", "relu", "identity"):
        made = silu(b, x) if name == "silu" else b.op("Relu", x) if name == "relu" else x
    else:
        raise ValueError(f"activation {name!r} is not defined")
    return made if linear is None else b.op("Mul", made, linear)


def _mixed(b: Builder, node: Node, x: Values, layers: _Layers, weights: Value | None) -> Values:
    data, router = needed(x, 0), needed(x, 1)
    tokens = b.op("Reshape", data, b.op("Concat", numbers(b, -1), b.op("Shape", data, start=-1), axis=0))
    experts, shares = _shares(b, node, router, weights)
    count, number = node.int_attribute("k", 1), router.tensor_type.dims[-1]
    rows = router.tensor_type.dims[0]
    few = isinstance(rows, int) and isinstance(number, int) and rows * count < number
    flat = b.op("Reshape", experts, numbers(b, -1))

    def pick(value: Value) -> Value:
        return b.op("Gather", value, flat, axis=0) if few else value

    if few:
        # A row for each of a token's experts.
        wide = b.op("Expand", b.op("Unsqueeze", tokens, numbers(b, 1)), numbers(b, 1, count, 1))
        tokens = b.op("Reshape", wide, b.op("Concat", numbers(b, -1, 1), b.op("Shape", data, start=-1), axis=0))
        share, axis = b.op("Reshape", shares, numbers(b, -1, 1, 1)), None
    else:
        nothing = b.op("Expand", scalar_like(b, 0, shares), b.op("Shape", router))
        spread = b.op("ScatterElements", nothing, experts, shares, axis=1)
        tokens = b.op("Unsqueeze", tokens, numbers(b, 0))
        share, axis = b.op("Unsqueeze", b.op("Transpose", spread, perm=[1, 0]), numbers(b, 2)), 0
    linear = None if layers.third is None else _through(b, layers.third, pick, tokens)
    inner = _activated(b, node, _through(b, layers.first, pick, tokens), linear)
    result = b.op("Mul", _through(b, layers.second, pick, inner), share)
    if axis is None:
        result = b.op("Reshape", result, b.op("Concat", numbers(b, -1, count), b.op("Shape", data, start=-1), axis=0))
    total = b.op("ReduceSum", result, numbers(b, 1 if axis is None else axis), keepdims=0)
    return [b.op("Reshape", total, b.op("Shape", data))]


def _experts(b: Builder, node: Node, x: Values) -> Values:
    def layer(first: int) -> Layer:
        bias = given(x, first + 1)
        return lambda pick: (pick(needed(x, first)), None if bias is None else pick(bias))

    third = None if given(x, 6) is None else layer(6)
    return _mixed(b, node, x, _Layers(layer(2), layer(4), third), None)


def _quantized_experts(b: Builder, node: Node, x: Values) -> Values:
    """Weights of 2, 4 or 8 bits, each row with a scale and a zero point, or each block of a row."""
    if node.str_attribute("quant_type", "int") != "int" or node.int_attribute("weights_prepacked", -1) > 0:
        raise ValueError("experts of other numbers than integers, or in an order of their own, are not defined")
    if any(given(x, i) is not None for i in range(15, 21)):
        raise ValueError("global scales and scales of activations are not defined")
    size = node.int_attribute("block_size", 0)
    data = needed(x, 0)

    def layer(first: int, number: int) -> Layer:
        bits = node.int_attribute(f"fc{number}_expert_weight_bits", 0) or node.int_attribute("expert_weight_bits", 4)
        if bits not in (2, 4, 8):
            raise ValueError(f"weights of {bits} bits are not defined; 2, 4 and 8 are")
        scales, bias, zeros = needed(x, first + 1), given(x, first + 2), given(x, 10 + number)
        bytes_ = needed(x, first).tensor_type.dims[-1]
        if not isinstance(bytes_, int):
            raise ValueError("the number of columns of the weights is not known")
        by_row = rank_of(scales) == 2

        def narrow(value: Value) -> Value:
            return b.op("Cast", value, to=dtypes.UINT4.onnx) if bits == 4 else value

        def weights(pick: Pick) -> tuple[Value, Value | None]:
            whole = narrow(unpacked(b, pick(needed(x, first)), bits))
            scale = pick(scales)
            if zeros is None:
                points = b.op("Expand", b.constant(np.uint8(2 ** (bits - 1))), b.op("Shape", scale))
            else:
                # The last ones of a row stand in a byte of their own.
                ends = b.op("Shape", scales, start=-1)
                points = b.op("Slice", unpacked(b, pick(zeros), bits), numbers(b, 0), ends, numbers(b, -1))
            points = narrow(points)
            if by_row:
                scale, points = (b.op("Unsqueeze", value, numbers(b, -1)) for value in (scale, points))
            block = bytes_ * 8 // bits if by_row else size
            scale = b.op("Cast", scale, to=data.tensor_type.dtype.onnx)
            floats = b.op("DequantizeLinear", whole, scale, points, axis=2, block_size=block)
            return floats, None if bias is None else pick(bias)

        return weights

    third = None if given(x, 8) is None else layer(8, 3)
    return _mixed(b, node, x, _Layers(layer(2, 1), layer(5, 2), third), given(x, 14))


CONTRACTION = frozenset({Trait.CONTRACTION})
decomposed("MoE", _experts, domain=DOMAIN, traits=CONTRACTION)
decomposed("QMoE", _quantized_experts, domain=DOMAIN, traits=CONTRACTION)
