"""Choice and conversion: pointwise operators that limit, select or cast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from graphc.errors import OptionError, TypeInferenceError
from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, node_names, register
from graphc.ops.conversion import convert
from graphc.ops.elementwise import (
    broadcast_inputs,
    express_pointwise,
    is_numeric,
    like,
    pointwise,
    propagate_elementwise,
)
from graphc.ops.expr import Scalar, ScaleRounding, TensorExpr, axes_of, call, cast, const, select
from graphc.ops.indexing import broadcast_load, indices_of


def _clip_meaning(node: Node, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    raised = x if low is None else np.maximum(x, low.reshape(()))
    return raised if high is None else np.minimum(raised, high.reshape(()))


def _clip_form(node: Node, x: Scalar, low: Scalar | None = None, high: Scalar | None = None) -> Scalar:
    raised = x if low is None else call("max", x, low)
    return raised if high is None else call("min", raised, high)


pointwise("Clip", 3, is_numeric, _clip_meaning, _clip_form, required=1, propagate=None)


def _propagate_where(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    return propagate_elementwise(
        lambda condition, then, otherwise: (then if condition else otherwise) if isinstance(condition, int) else None
    )(ctx)


def _infer_where(ctx: InferenceContext) -> Sequence[Type]:
    condition, then, otherwise = (ctx.tensor(i).dtype for i in range(3))
    if condition != dtypes.BOOL:
        ctx.fail(f"the condition must be bool, not {condition}")
    if then != otherwise:
        ctx.fail(f"the branches are {then} and {otherwise}")
    return [TensorType(then, broadcast_inputs(ctx))]


def _where_form(node: Node, condition: Scalar, then: Scalar, otherwise: Scalar) -> Scalar:
    return select(condition, then, otherwise)


register(
    Operator(
        "Where",
        _infer_where,
        lambda node, arrays: [np.where(*arrays)],
        traits=frozenset({Trait.POINTWISE}),
        expression=lambda ctx: express_pointwise(ctx, _where_form),
        propagate=_propagate_where,
        scalar=_where_form,
    )
)


def _is_number(dtype: DType) -> bool:
    """Whether `dtype` converts by arithmetic: numbers and truth values, not text."""
    return dtype.kind not in ("string", "complex")


def cast_target(node: Node, like_type: DType | None) -> DType:
    """The dtype that a Cast or CastLike converts to."""
    if like_type is not None:
        return like_type
    found = node.attributes["to"]
    assert isinstance(found, int), f"attribute to is {found!r}"
    try:
        return dtypes.from_onnx(found)
    except OptionError as error:
        raise TypeInferenceError(f"{node.op}: attribute to is an {error.message}", nodes=node_names(node)) from error


def _infer_cast(ctx: InferenceContext) -> Sequence[Type]:
    source = ctx.tensor(0)
    second = ctx.tensor(1).dtype if ctx.node.op_type == "CastLike" else None
    if second is None and "to" not in ctx.node.attributes:
        ctx.fail("attribute to is missing")
    if (mode := ctx.node.str_attribute("round_mode", "up")) not in _ROUNDINGS:
        ctx.fail(f"round_mode {mode!r} is none of {', '.join(_ROUNDINGS)}")
    return [TensorType(cast_target(ctx.node, second), source.shape)]


class Manner(TypedDict):
    """How a Cast treats 8-bit floats, as keyword arguments of `convert` and of `cast`."""

    saturate: bool
    rounding: ScaleRounding


_ROUNDINGS: dict[str, ScaleRounding] = {"up": "up", "down": "down", "nearest": "nearest"}


def _manner(node: Node) -> Manner:
    mode = node.str_attribute("round_mode", "up")
    return {"saturate": bool(node.int_attribute("saturate", 1)), "rounding": _ROUNDINGS[mode]}


def _evaluate_cast(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    source = np.asarray(arrays[0])
    second = dtypes.from_numpy(arrays[1].dtype) if node.op_type == "CastLike" else None
    target = cast_target(node, second)
    if _is_number(target) and _is_number(dtypes.from_numpy(source.dtype)):
        return [convert(source, target, **_manner(node))]
    from graphc.ops.host import evaluate_with_reference

    return evaluate_with_reference(node, arrays)


def _converted(node: Node, x: Scalar, target: DType) -> Scalar:
    if target.kind == "bool" and x.dtype.kind != "bool":
        return call("ne", x, like(x, 0))
    return cast(x, target, **_manner(node))


def _cast_form(node: Node, x: Scalar, example: Scalar | None = None) -> Scalar:
    return _converted(node, x, cast_target(node, None if example is None else example.dtype))


def _express_cast(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    source, target = ctx.tensor(0), ctx.outputs[0]
    if not (_is_number(source.dtype) and _is_number(target.dtype)):
        return None
    axes = axes_of(target.dims)
    return [TensorExpr(axes, _converted(ctx.node, broadcast_load(0, source, indices_of(axes)), target.dtype))]


def _propagate_cast(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    second = ctx.tensor(1).dtype if ctx.node.op_type == "CastLike" else None
    return ctx.dims(0) if is_numeric(cast_target(ctx.node, second)) else None


for _name in ("Cast", "CastLike"):
    register(
        Operator(
            _name,
            _infer_cast,
            _evaluate_cast,
            traits=frozenset({Trait.POINTWISE}),
            expression=_express_cast,
            propagate=_propagate_cast,
            scalar=_cast_form,
        )
    )


def _infer_identity(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.inputs[0] if ctx.inputs else None
    if kind is None:
        ctx.fail("input 0 is missing")
    return [TensorType(kind.dtype, kind.shape) if isinstance(kind, TensorType) else kind]


def _same_form(node: Node, x: Scalar, *ignored: Scalar | None) -> Scalar:
    return x


def _propagate_same(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    return ctx.dims(0)


register(
    Operator(
        "Identity",
        _infer_identity,
        lambda node, data: [data[0]],
        traits=frozenset({Trait.POINTWISE, Trait.VIEW}),
        expression=lambda ctx: express_pointwise(ctx, _same_form),
        propagate=_propagate_same,
        scalar=_same_form,
    )
)


def _infer_dropout(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    return [TensorType(kind.dtype, kind.shape), TensorType(dtypes.BOOL, kind.shape)]


def _is_training(mode: Array | None) -> bool:
    return mode is not None and bool(np.asarray(mode).reshape(()))


def _evaluate_dropout(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    if len(arrays) > 2 and _is_training(arrays[2]):
        from graphc.ops.host import evaluate_with_reference

        # Its scale, a Python float, widens what is narrower than float32.
        made, *mask = evaluate_with_reference(node, arrays)
        return [np.asarray(made).astype(np.asarray(arrays[0]).dtype), *mask]
    return [arrays[0], np.ones(np.shape(arrays[0]), np.bool_)]


def _express_dropout(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    if len(ctx.inputs) > 2 and ctx.inputs[2] is not None:
        mode = ctx.constant(2)
        ratio = ctx.constant(1) if mode is None or _is_training(mode) else None
        # Where nothing is dropped, training draws no random numbers.
        if mode is None or (_is_training(mode) and (ratio is None or ratio.any())):
            return None
    kind = ctx.tensor(0)
    kept, mask = axes_of(kind.dims), axes_of(kind.dims)
    data = TensorExpr(kept, broadcast_load(0, kind, indices_of(kept)))
    return [data, TensorExpr(mask, const(True, dtypes.BOOL))][: len(ctx.outputs)]


register(Operator("Dropout", _infer_dropout, _evaluate_dropout, expression=_express_dropout))
