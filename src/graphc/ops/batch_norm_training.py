"""BatchNormalization in training mode: statistics of the batch, and running ones moved toward them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.decomposition import decomposed, rank_of, scalar_like


def _trained(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
    x, scale, bias, mean, variance = inputs[:5]
    if not node.int_attribute("training_mode", 0) or not (x and scale and bias and mean and variance):
        return None
    rank = rank_of(x)
    kind = x.tensor_type.dtype
    wide = dtypes.FLOAT32 if kind.bits < 32 else kind
    over = b.constant(np.array([0, *range(2, rank)]))

    def cast(value: Value, dtype: DType) -> Value:
        return value if value.tensor_type.dtype == dtype else b.op("Cast", value, to=dtype.onnx)

    def by_channel(value: Value) -> Value:
        return b.op("Unsqueeze", cast(value, wide), over)

    def moved(running: Value, current: Value) -> Value:
        """The running statistic, with `momentum` of the old one."""
        old, new = running.tensor_type.dtype, b.op("Squeeze", current, over)
        kept = scalar_like(b, node.float_attribute("momentum", 0.9), running)
        rest = scalar_like(b, 1 - node.float_attribute("momentum", 0.9), running)
        return b.op("Add", b.op("Mul", running, kept), b.op("Mul", cast(new, old), rest))

    data = cast(x, wide)
    center = b.op("ReduceMean", data, over)
    apart = b.op("Sub", data, center)
    spread = b.op("ReduceMean", b.op("Mul", apart, apart), over)
    root = b.op("Sqrt", b.op("Add", spread, scalar_like(b, node.float_attribute("epsilon", 1e-5), spread)))
    scaled = b.op("Mul", b.op("Div", apart, root), by_channel(scale))
    result = cast(b.op("Add", scaled, by_channel(bias)), kind)
    return [result, moved(mean, center), moved(variance, spread)][: max(len(node.outputs), 1)]


decomposed("BatchNormalization", _trained, define=False)
