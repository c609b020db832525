"""Operators of domain com.microsoft that ai.onnx took over later, as those."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Builder, Node, Type, Value
from graphc.ops.base import Array, Datum, InferenceContext, Operator, register
from graphc.ops.contrib import DOMAIN, Values, given, kept, needed, numbers
from graphc.ops.decomposition import Decompose, decomposed, rank_of, scalar_like


def _same(op_type: str, *names: str) -> Decompose:
    def decompose(b: Builder, node: Node, x: Values) -> Values:
        return [b.op(op_type, *x, **kept(node, *names))]

    return decompose


def _expand_dims(b: Builder, node: Node, x: Values) -> Values:
    return [b.op("Unsqueeze", needed(x, 0), b.op("Reshape", needed(x, 1), numbers(b, 1)))]


def _range(b: Builder, node: Node, x: Values) -> Values:
    def scalar(value: Value) -> Value:
        return value if rank_of(value) == 0 else b.op("Squeeze", value, numbers(b, 0))

    start, limit, delta = scalar(needed(x, 0)), scalar(needed(x, 1)), given(x, 2)
    return [b.op("Range", start, limit, scalar_like(b, 1, start) if delta is None else scalar(delta))]


def _pad(b: Builder, node: Node, x: Values) -> Values:
    pads, value = b.op("Reshape", needed(x, 1), numbers(b, -1)), given(x, 2)
    fill = None if value is None else b.op("Reshape", value, numbers(b))
    return [b.op("Pad", needed(x, 0), pads, fill, **kept(node, "mode"))]


def _grid_sample(b: Builder, node: Node, x: Values) -> Values:
    modes = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.str_attribute("mode", "bilinear")
    attributes = kept(node, "align_corners", "padding_mode")
    return [b.op("GridSample", needed(x, 0), needed(x, 1), mode=modes.get(mode, mode), **attributes)]


def _unique(b: Builder, node: Node, x: Values) -> Values:
    """The elements in the order in which they come, where each went, and how often it came."""
    made = b.op("Unique", needed(x, 0), sorted=0, outputs=4).producer
    assert made is not None
    values, _, places, counts = made.outputs
    return [values, places, counts]


def _distances(b: Builder, node: Node, x: Values) -> Values:
    """The distance between every row of the first and every row of the second matrix."""
    metric = node.str_attribute("metric", "sqeuclidean")
    if metric not in ("sqeuclidean", "euclidean"):
        raise ValueError(f"metric {metric!r} is not defined; 'sqeuclidean' and 'euclidean' are")
    difference = b.op(
        "Sub", b.op("Unsqueeze", needed(x, 0), numbers(b, 1)), b.op("Unsqueeze", needed(x, 1), numbers(b, 0))
    )
    squares = b.op("ReduceSum", b.op("Mul", difference, difference), numbers(b, 2), keepdims=0)
    return [b.op("Sqrt", squares) if metric == "euclidean" else squares]


def _infer_inverse(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    if len(shape) < 2 or (isinstance(shape[-1], int) and isinstance(shape[-2], int) and shape[-1] != shape[-2]):
        ctx.fail(f"input of shape {list(shape)} holds no square matrices")
    return [ctx.tensor(0)]


def _evaluate_inverse(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x: Array = np.asarray(inputs[0])
    return [np.linalg.inv(x.astype(np.float64)).astype(x.dtype)]


for _name, _names in (("Trilu", ("upper",)), ("GatherND", ())):
    decomposed(_name, _same(_name, *_names), domain=DOMAIN)
for _name, _decompose in (
    ("ExpandDims", _expand_dims),
    ("Range", _range),
    ("Pad", _pad),
    ("GridSample", _grid_sample),
    ("Unique", _unique),
    ("CDist", _distances),
):
    decomposed(_name, _decompose, domain=DOMAIN)
register(Operator("Inverse", _infer_inverse, _evaluate_inverse, domain=DOMAIN))
