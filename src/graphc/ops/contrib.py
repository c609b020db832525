"""Operators of domain com.microsoft that ONNX Runtime's optimizer writes: activations, norms, products.

Definitions follow https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.base import Trait
from graphc.ops.decomposition import decomposed, rank_of, scalar_like

DOMAIN = "com.microsoft"
Values = Sequence[Value | None]


def given(inputs: Values, index: int) -> Value | None:
    """Input `index`, None where it is absent."""
    return inputs[index] if index < len(inputs) else None


def needed(inputs: Values, index: int) -> Value:
    """Input `index`, which must be there."""
    found = given(inputs, index)
    if found is None:
        raise ValueError(f"input {index} is missing")
    return found


def wants(node: Node, index: int) -> bool:
    """Whether output `index` is asked for."""
    return index < len(node.outputs) and bool(node.outputs[index].name)


def kept(node: Node, *names: str) -> dict[str, Any]:
    """Those of the attributes `names` that the node has."""
    return {name: node.attributes[name] for name in names if name in node.attributes}


def numbers(b: Builder, *values: int) -> Value:
    """A constant int64 tensor of rank 1."""
    return b.constant(np.array(values, np.int64))


def number(b: Builder, value: int) -> Value:
    """A constant int64 tensor of rank 0."""
    return b.constant(np.array(value, np.int64))


def added(b: Builder, first: Value, *others: Value | None) -> Value:
    """The sum of values, of which some may be absent."""
    for other in others:
        if other is not None:
            first = b.op("Add", first, other)
    return first


def _gelu(b: Builder, node: Node, x: Values) -> Values:
    return [b.op("Gelu", added(b, needed(x, 0), given(x, 1)))]


def _fast_gelu(b: Builder, node: Node, x: Values) -> Values:
    return [b.op("Gelu", added(b, needed(x, 0), given(x, 1)), approximate="tanh")]


def _quick_gelu(b: Builder, node: Node, x: Values) -> Values:
    scaled = b.op("Mul", needed(x, 0), scalar_like(b, node.float_attribute("alpha", 1.702), needed(x, 0)))
    return [b.op("Mul", needed(x, 0), b.op("Sigmoid", scaled))]


def _layer_norm(b: Builder, node: Node, x: Value, scale: Value, bias: Value | None, *, root: bool) -> list[Value]:
    """(normalized, mean, reciprocal deviation); the mean of a root-mean-square norm is left out."""
    epsilon = node.float_attribute("epsilon", 1e-12 if node.op_type.startswith(("Skip", "Embed")) else 1e-5)
    axis = node.int_attribute("axis", -1)
    if not root:
        made = b.op("LayerNormalization", x, scale, bias, outputs=3, axis=axis, epsilon=epsilon).producer
        assert made is not None
        return list(made.outputs)
    normal = b.op("RMSNormalization", x, scale, axis=axis, epsilon=epsilon)
    wide = b.op("Cast", x, to=dtypes.FLOAT32.onnx)
    axes = b.constant(np.arange(axis % rank_of(x), rank_of(x)))
    mean = b.op("ReduceMean", b.op("Mul", wide, wide), axes, keepdims=1)
    deviation = b.op("Sqrt", b.op("Add", mean, b.constant(np.float32(epsilon))))
    return [normal, b.op("Reciprocal", deviation)]


def _simplified_norm(b: Builder, node: Node, x: Values) -> Values:
    return _layer_norm(b, node, needed(x, 0), needed(x, 1), None, root=True)


def _skip_norm(b: Builder, node: Node, x: Values) -> Values:
    root = "Simplified" in node.op_type
    bias = given(x, 3 if root else 4)
    total = added(b, needed(x, 0), needed(x, 1), bias)
    normal, *statistics = _layer_norm(b, node, total, needed(x, 2), None if root else given(x, 3), root=root)
    mean = None if root else statistics[0]
    return [normal, mean, statistics[-1], total]


def embedded(b: Builder, node: Node, x: Values) -> Values:
    """Word, position and segment embeddings summed and normalized."""
    ids = needed(x, 0)
    words = b.op("Gather", needed(x, 2), ids)
    places = given(x, 8)
    if places is None:
        length = b.op("Squeeze", b.op("Shape", ids, start=1, end=2), numbers(b, 0))
        places = b.op("Unsqueeze", b.op("Range", number(b, 0), length, number(b, 1)), numbers(b, 0))
    segments = None if given(x, 1) is None else b.op("Gather", needed(x, 4), needed(x, 1))
    total = added(b, words, b.op("Gather", needed(x, 3), places), segments)
    normal = _layer_norm(b, node, total, needed(x, 5), needed(x, 6), root=False)[0]
    mask = given(x, 7)
    if mask is None:
        batch = b.op("Shape", ids, start=0, end=1)
        lengths = b.op("Expand", b.constant(np.zeros(1, np.int32)), batch)
    else:
        lengths = b.op("ReduceSum", mask, numbers(b, 1), keepdims=0)
    return [normal, lengths, total]


def _swapped(b: Builder, x: Value, *, matrix: bool, batch: bool) -> Value:
    """`x` with its last two axes exchanged, or its batch axes moved behind the rows, or both."""
    rank = rank_of(x)
    order = list(range(rank))
    if batch and rank > 2:
        # transBatch: rows stand first, then the batch axes.
        order = [*range(1, rank - 1), 0, rank - 1]
    if matrix and rank > 1:
        order[-2:] = order[:-3:-1]
    return x if order == sorted(order) else b.op("Transpose", x, perm=order)


def _fused_matmul(b: Builder, node: Node, x: Values) -> Values:
    sides = [
        _swapped(
            b,
            needed(x, i),
            matrix=bool(node.int_attribute(f"trans{name}", 0)),
            batch=bool(node.int_attribute(f"transBatch{name}", 0)),
        )
        for i, name in enumerate("AB")
    ]
    product = b.op("MatMul", *sides)
    alpha = node.float_attribute("alpha", 1.0)
    return [product if alpha == 1 else b.op("Mul", product, scalar_like(b, alpha, product))]


def _activated(b: Builder, node: Node, x: Value, parameters: Sequence[float]) -> Value:
    """The activation that a fused node names; parameters stand in the order of the activation's attributes."""
    name = node.str_attribute("activation", "")
    attributes: dict[str, tuple[str, ...]] = {
        "LeakyRelu": ("alpha",),
        "Elu": ("alpha",),
        "ThresholdedRelu": ("alpha",),
        "HardSigmoid": ("alpha", "beta"),
    }
    if not name:
        return x
    if name == "Clip":
        low, high = (scalar_like(b, limit, x) for limit in parameters)
        return b.op("Clip", x, low, high)
    named: dict[str, Any] = dict(zip(attributes.get(name, ()), parameters, strict=False))
    return b.op(name, x, **named)


def _fused_gemm(b: Builder, node: Node, x: Values) -> Values:
    result = b.op("Gemm", needed(x, 0), needed(x, 1), given(x, 2), **kept(node, "alpha", "beta", "transA", "transB"))
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return [_activated(b, node, result, [node.float_attribute(n, 0.0) for n in names if n in node.attributes])]


def activated_conv(b: Builder, node: Node, x: Values) -> Value:
    """A convolution, something added to it and an activation that the node names."""
    geometry = kept(node, "kernel_shape", "strides", "pads", "dilations", "group", "auto_pad")
    result = b.op("Conv", needed(x, 0), needed(x, 1), given(x, 2), **geometry)
    parameters = node.attributes.get("activation_params", ())
    assert isinstance(parameters, tuple)
    limits = [float(p) for p in parameters if isinstance(p, int | float)]
    return _activated(b, node, added(b, result, given(x, 3)), limits)


def _fused_conv(b: Builder, node: Node, x: Values) -> Values:
    return [activated_conv(b, node, x)]


def _gemm_fast_gelu(b: Builder, node: Node, x: Values) -> Values:
    product = b.op("MatMul", needed(x, 0), needed(x, 1))
    return [b.op("Gelu", added(b, product, given(x, 2)), approximate="tanh")]


def _bias_softmax(b: Builder, node: Node, x: Values) -> Values:
    """A softmax of a sum, over all axes from `axis` on; the bias repeats at the front or before those axes."""
    data, bias = needed(x, 0), needed(x, 1)
    rank = rank_of(data)
    axis = node.int_attribute("axis", 1) % rank
    if node.int_attribute("is_inner_broadcast", 0) and rank_of(bias) != rank:
        raise ValueError(f"a bias of rank {rank_of(bias)} that repeats inside does not fit scores of rank {rank}")
    total = b.op("Add", data, bias)
    if axis == rank - 1:
        return [b.op("Softmax", total, axis=-1)]
    rows = b.op("Softmax", b.op("Flatten", total, axis=axis), axis=-1)
    return [b.op("Reshape", rows, b.op("Shape", data))]


def _scaled_silu(b: Builder, node: Node, x: Values) -> Values:
    data, scale = needed(x, 0), given(x, 1)
    if scale is None:
        factor = scalar_like(b, node.float_attribute("alpha", 1.0), data)
    else:
        factor = b.op("Reshape", b.op("Cast", scale, to=data.tensor_type.dtype.onnx), numbers(b))
    return [silu(b, b.op("Mul", data, factor))]


def silu(b: Builder, x: Value) -> Value:
    """`x * sigmoid(x)`."""
    return b.op("Mul", x, b.op("Sigmoid", x))


def _gated_rms_norm(b: Builder, node: Node, x: Values) -> Values:
    """A norm by the root of the mean square over groups as wide as the scale, times an activated gate, in float32."""
    data, scale, gate = (b.op("Cast", needed(x, i), to=dtypes.FLOAT32.onnx) for i in range(3))
    groups = b.op(
        "Reshape", data, b.op("Concat", numbers(b, *[0] * (rank_of(data) - 1), -1), b.op("Shape", scale), axis=0)
    )
    normal = b.op("RMSNormalization", groups, scale, axis=-1, epsilon=node.float_attribute("epsilon", 1e-5))
    opened = b.op("Sigmoid", gate) if node.str_attribute("activation", "silu") == "sigmoid" else silu(b, gate)
    result = b.op("Mul", b.op("Reshape", normal, b.op("Shape", data)), opened)
    return [b.op("Cast", result, to=needed(x, 0).tensor_type.dtype.onnx)]


def _gated_add(b: Builder, node: Node, x: Values) -> Values:
    if given(x, 3) is not None:
        raise ValueError("a gate with weights of its own is not defined")
    return [b.op("Add", needed(x, 0), b.op("Mul", needed(x, 1), needed(x, 2)))]


CONTRACTION = frozenset({Trait.CONTRACTION})
for _name in ("Gelu", "BiasGelu"):
    decomposed(_name, _gelu, domain=DOMAIN)
decomposed("FastGelu", _fast_gelu, domain=DOMAIN)
decomposed("QuickGelu", _quick_gelu, domain=DOMAIN)
decomposed("SimplifiedLayerNormalization", _simplified_norm)
for _name in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
    decomposed(_name, _skip_norm, domain=DOMAIN)
decomposed("EmbedLayerNormalization", embedded, domain=DOMAIN)
for _name in ("FusedMatMul", "TransposeMatMul"):
    decomposed(_name, _fused_matmul, domain=DOMAIN, traits=CONTRACTION)
decomposed("FusedGemm", _fused_gemm, domain=DOMAIN, traits=CONTRACTION)
decomposed("FusedConv", _fused_conv, domain=DOMAIN, traits=CONTRACTION)
decomposed("GemmFastGelu", _gemm_fast_gelu, domain=DOMAIN, traits=CONTRACTION)
decomposed("BiasSoftmax", _bias_softmax, domain=DOMAIN)
decomposed("ScaledSiLU", _scaled_silu, domain=DOMAIN)
decomposed("GatedRMSNorm", _gated_rms_norm, domain=DOMAIN)
decomposed("GatedAdd", _gated_add, domain=DOMAIN)
