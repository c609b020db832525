"""BitCast: the same bits under another dtype of the same width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Node, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import Array, Datum, InferenceContext, Operator, Trait, register


def _target(node: Node) -> DType:
    return dtypes.from_onnx(node.int_attribute("to", 0))


def _infer(ctx: InferenceContext) -> Sequence[Type]:
    kind, target = ctx.tensor(0), _target(ctx.node)
    if kind.dtype.bits != target.bits or dtypes.STRING in (kind.dtype, target):
        ctx.fail(f"{kind.dtype} of {kind.dtype.bits} bits cannot be read as {target} of {target.bits}")
    return [TensorType(target, kind.shape)]


def reinterpret(x: Array, target: DType) -> Array:
    """The bits of `x` as elements of `target`; dtypes of 2 and 4 bits take the low bits of their byte."""
    if target.bits >= 8:
        return x.view(target.numpy)
    low = x.view(np.uint8) & ((1 << target.bits) - 1)
    if target.kind == "int":
        half = 1 << (target.bits - 1)
        return ((low.astype(np.int8) ^ half) - half).astype(target.numpy)
    return low.astype(target.numpy) if target.kind == "uint" else low.view(target.numpy)


def _evaluate(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    return [reinterpret(np.ascontiguousarray(inputs[0]).reshape(inputs[0].shape), _target(node))]


register(Operator("BitCast", _infer, _evaluate, traits=frozenset({Trait.POINTWISE, Trait.VIEW})))
