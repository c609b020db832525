"""Quantization to narrow integers and floats and back, and the operators that compute on quantized tensors.

A scale belongs to the whole tensor (rank 0, or one element), to an axis (rank 1), or to blocks along an axis (the
input's rank). Rounding is half to even; integers saturate, and floats do unless the node says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import floordiv
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import centred, matmul_dims, matmul_parts
from graphc.ops.conversion import convert
from graphc.ops.convolution import centred_weights, conv_window, convolve, infer_conv_shape, integer_products, kernel_of
from graphc.ops.expr import Scalar, TensorExpr, axes_of, call, cast, const, highest, load, lowest, reduce
from graphc.ops.host import evaluate_with_reference
from graphc.ops.indexing import broadcast_index, indices_of

POINTWISE = frozenset({Trait.POINTWISE})


def _axis(node: Node, rank: int) -> int:
    axis = node.int_attribute("axis", 1)
    return axis + rank if axis < 0 else axis


def scale_index(node: Node, scale: Sequence[Dim], indices: Sequence[Dim]) -> tuple[Dim, ...]:
    """Where a scale (or zero point) of shape `scale` is read for the element at `indices`."""
    if not scale:
        return ()
    axis, block = _axis(node, len(indices)), node.int_attribute("block_size", 0)
    if block:
        return tuple(floordiv(index, block) if i == axis else index for i, index in enumerate(indices))
    return (0,) if scale[0] == 1 else (indices[axis],)


def spread(node: Node, scale: Array, shape: Sequence[int]) -> Array:
    """A scale (or zero point) in a shape that broadcasts against the quantized tensor's."""
    axis, block = _axis(node, len(shape)), node.int_attribute("block_size", 0)
    if block:
        return np.repeat(scale, block, axis)[tuple(map(slice, shape))]
    if scale.size == 1:
        return scale.reshape(())
    return scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _check_scale(ctx: InferenceContext) -> None:
    shape, scale = ctx.tensor(0).shape, ctx.tensor(1).shape
    if shape is None or scale is None:
        return
    axis, block = _axis(ctx.node, len(shape)), ctx.node.int_attribute("block_size", 0)
    if len(scale) > 1 and len(scale) != len(shape):
        ctx.fail(f"a scale of shape {list(scale)} does not fit an input of shape {list(shape)}")
    if len(scale) > 1 and not block:
        ctx.fail(f"a scale of shape {list(scale)} needs block_size")
    if scale and scale[0] != 1 and not 0 <= axis < len(shape):
        ctx.fail(f"axis {ctx.node.int_attribute('axis', 1)} of an input of shape {list(shape)}")
    if len(scale) == 1 and not block and scale[0] != 1:
        extent = shape[axis]
        if isinstance(extent, int) and isinstance(scale[0], int) and extent != scale[0]:
            ctx.fail(f"{scale[0]} scales for axis {axis} of extent {extent}")


def _quantized_dtype(ctx: InferenceContext) -> DType:
    if ctx.has(2):
        return ctx.tensor(2).dtype
    declared = ctx.node.int_attribute("output_dtype", 0)
    return dtypes.from_onnx(declared) if declared else dtypes.UINT8


def _infer_quantize(ctx: InferenceContext) -> Sequence[Type]:
    _check_scale(ctx)
    return [TensorType(_quantized_dtype(ctx), ctx.tensor(0).shape)]


def saturate(values: Array, dtype: DType) -> Array:
    """Whole numbers in a wide float type as integers of `dtype`, out of range ones at its limits."""
    low, high = lowest(dtype), highest(dtype)
    narrow = np.int32 if dtype.bits < 8 else dtype.numpy
    clipped = np.asarray(np.clip(values, low, high))
    return clipped.astype(narrow).astype(dtype.numpy, copy=False)


def _precision(node: Node, x: DType, scale: DType) -> DType:
    """The type in which `x` is divided by its scale: the scale's, unless that holds powers of two or integers alone."""
    declared = node.int_attribute("precision", 0)
    found = dtypes.from_onnx(declared) if declared else scale
    if found.is_float and found.bits >= 16:
        return found
    return x if x.is_float else dtypes.FLOAT32


def _evaluate_quantize(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, scale, zero = (*inputs, None)[:3]
    declared = node.int_attribute("output_dtype", 0)
    dtype = dtypes.from_onnx(declared) if declared else dtypes.UINT8
    if zero is not None:
        dtype = dtypes.from_numpy(zero.dtype)
    precision = _precision(node, dtypes.from_numpy(x.dtype), dtypes.from_numpy(scale.dtype)).numpy
    with np.errstate(all="ignore"):
        divided = x.astype(precision) / spread(node, scale, x.shape).astype(precision)
    if not dtype.is_integer:
        if zero is not None and dtype.bits < 8:
            divided = divided + spread(node, zero, x.shape).astype(precision)
        return [convert(divided, dtype, saturate=bool(node.int_attribute("saturate", 1)))]
    rounded = np.rint(divided.astype(np.float64))
    if zero is not None:
        rounded = rounded + spread(node, zero, x.shape).astype(np.float64)
    return [saturate(rounded, dtype)]


def _saturated(value: Scalar, zero: Scalar | None, dtype: DType) -> Scalar:
    """`value` (float32) rounded, moved by its zero point, clamped and cast."""
    rounded = call("round", value)
    if zero is not None:
        rounded = call("add", rounded, cast(zero, rounded.dtype))
    low, high = (const(limit(dtype), rounded.dtype) for limit in (lowest, highest))
    return cast(call("min", call("max", rounded, low), high), dtype)


def _zero_point(ctx: ExpressionContext, indices: Sequence[Dim]) -> Scalar | None:
    """The zero point of the element at `indices`, if there is one; it may be of rank 1 where the scale is of rank 0."""
    if len(ctx.inputs) < 3 or (kind := ctx.inputs[2]) is None:
        return None
    return load(2, kind.dtype, scale_index(ctx.node, kind.dims, indices))


def _express_quantize(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    x, scale, dtype = ctx.tensor(0), ctx.tensor(1), ctx.outputs[0].dtype
    precision = _precision(ctx.node, x.dtype, scale.dtype)
    if dtype.is_integer and dtype.bits > 16:
        return None
    axes = axes_of(x.dims)
    indices = indices_of(axes)
    at = scale_index(ctx.node, scale.dims, indices)
    work = dtypes.FLOAT64 if precision == dtypes.FLOAT64 else dtypes.FLOAT32
    value = cast(cast(load(0, x.dtype, indices), precision), work)
    divisor = cast(cast(load(1, scale.dtype, at), precision), work)
    # The division is rounded to its precision before it is rounded to a whole number.
    quotient = cast(cast(call("div", value, divisor), precision), work)
    zero = _zero_point(ctx, indices)
    if dtype.is_integer:
        return [TensorExpr(axes, _saturated(quotient, zero, dtype))]
    # The zero point of an 8-bit float is 0 by definition; adding it would lose the sign of -0.
    if zero is not None and dtype.bits < 8:
        quotient = cast(call("add", quotient, cast(zero, work)), precision)
    return [TensorExpr(axes, cast(quotient, dtype, saturate=bool(ctx.node.int_attribute("saturate", 1))))]


def _infer_dequantize(ctx: InferenceContext) -> Sequence[Type]:
    _check_scale(ctx)
    declared = ctx.node.int_attribute("output_dtype", 0)
    dtype = dtypes.from_onnx(declared) if declared else ctx.tensor(1).dtype
    return [TensorType(dtype, ctx.tensor(0).shape)]


def _evaluate_dequantize(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, scale, zero = (*inputs, None)[:3]
    declared = node.int_attribute("output_dtype", 0)
    dtype = dtypes.from_onnx(declared).numpy if declared else scale.dtype
    work = np.float64 if dtype == np.float64 else np.float32
    integer = dtypes.from_numpy(x.dtype).is_integer
    value = x.astype(np.int32 if integer else work)
    if zero is not None:
        value = value - spread(node, zero, x.shape).astype(value.dtype)
    return [(value.astype(work) * spread(node, scale, x.shape).astype(work)).astype(dtype)]


def _express_dequantize(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    x, scale, dtype = ctx.tensor(0), ctx.tensor(1), ctx.outputs[0].dtype
    axes = axes_of(x.dims)
    indices = indices_of(axes)
    at = scale_index(ctx.node, scale.dims, indices)
    work = dtypes.FLOAT64 if dtype == dtypes.FLOAT64 else dtypes.FLOAT32
    number = dtypes.INT32 if x.dtype.is_integer else work
    value = cast(load(0, x.dtype, indices), number)
    zero = _zero_point(ctx, indices)
    if zero is not None:
        value = call("sub", value, cast(zero, number))
    product = call("mul", cast(value, work), cast(load(1, scale.dtype, at), work))
    return [TensorExpr(axes, cast(product, dtype))]


def _infer_dynamic(ctx: InferenceContext) -> Sequence[Type]:
    x = ctx.tensor(0)
    return [x.with_shape(x.shape).with_dtype(dtypes.UINT8), TensorType(x.dtype, ()), TensorType(dtypes.UINT8, ())]


def _evaluate_dynamic(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (x,) = inputs
    low, high = (x.dtype.type(f(x, initial=0)) for f in (np.min, np.max))
    # A tensor of zeros alone has no range; any scale represents it.
    scale = (high - low) / x.dtype.type(255) if high > low else x.dtype.type(1)
    zero = saturate(np.rint(-low / scale), dtypes.UINT8)
    y = saturate(np.rint(x / scale) + zero.astype(x.dtype), dtypes.UINT8)
    return [y, np.asarray(scale, x.dtype), np.asarray(zero, np.uint8)]


def _infer_qlinear_matmul(ctx: InferenceContext) -> Sequence[Type]:
    for operand, axis in ((0, -2), (3, -1)):
        shape, scale = ctx.shape(operand), ctx.tensor(operand + 1).shape
        count = scale[0] if scale is not None and len(scale) == 1 else 1
        wanted = shape[axis] if len(shape) > 1 else 1
        if isinstance(count, int) and isinstance(wanted, int) and count not in (1, wanted):
            ctx.fail(f"{count} scales of input {operand} do not fit its shape {list(shape)}")
    return [TensorType(ctx.tensor(7).dtype, matmul_dims(ctx, ctx.shape(0), ctx.shape(3)))]


def _by_row(value: Array, operand: Array) -> Array:
    """A scale per row as a column; one per tensor or batch as it is."""
    return value[:, None] if value.ndim == 1 and value.size > 1 and operand.ndim > 1 else value


def _requantize(products: Array, factor: Array, zero: Array) -> Array:
    """int32 products times `factor`, rounded, moved to the zero point and saturated."""
    scaled = products.astype(np.float32) * factor.astype(np.float32)
    return saturate(np.rint(scaled).astype(np.float64) + zero.astype(np.float64), dtypes.from_numpy(zero.dtype))


def _evaluate_qlinear_matmul(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    if not dtypes.from_numpy(a.dtype).is_integer:
        return evaluate_with_reference(node, inputs)
    products = np.asarray(np.matmul(centred(a, a_zero, rows=True), centred(b, b_zero, rows=False)))
    wide = (scale.astype(np.float32) for scale in (_by_row(a_scale, a), b_scale, y_scale))
    left, right, result = wide
    return [_requantize(products, left * right / result, y_zero)]


def _express_qlinear_matmul(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    a, b, y = ctx.tensor(0), ctx.tensor(3), ctx.outputs[0]
    if not all(kind.dtype.is_integer and kind.dtype.bits >= 8 for kind in (a, b, y)):
        return None
    axes, inner, at_a, at_b = matmul_parts(a, b, y.dims)

    def parameter(number: int, indices: Sequence[Dim], *, rows: bool) -> Scalar:
        kind = ctx.tensor(number)
        rank = len(kind.dims)
        tail = indices[-2:-1] if rows and rank == 1 and len(indices) > 1 else indices[len(indices) - rank :]
        return load(number, kind.dtype, broadcast_index(kind.dims, tail))

    def operand(number: int, kind: TensorType, indices: Sequence[Dim], *, rows: bool) -> Scalar:
        zero = parameter(number + 2, indices, rows=rows)
        return call("sub", cast(load(number, kind.dtype, indices), dtypes.INT32), cast(zero, dtypes.INT32))

    products = call("mul", operand(0, a, at_a, rows=True), operand(3, b, at_b, rows=False))
    scales = [
        cast(parameter(number, indices, rows=rows), dtypes.FLOAT32)
        for number, indices, rows in ((1, _outer(at_a, -1), True), (4, _outer(at_b, -2), False), (6, (0,), False))
    ]
    factor = call("div", call("mul", scales[0], scales[1]), scales[2])
    scaled = call("mul", cast(reduce("sum", [inner], products), dtypes.FLOAT32), factor)
    return [TensorExpr(axes, _saturated(scaled, parameter(7, (0,), rows=False), y.dtype))]


def _outer(indices: Sequence[Dim], inner: int) -> tuple[Dim, ...]:
    """`indices` of a matmul's operand with the summed one at 0: scales do not vary along it."""
    position = inner if len(indices) > 1 else -1
    return tuple(0 if i == len(indices) + position else index for i, index in enumerate(indices))


def _infer_qlinear_conv(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(ctx.tensor(7).dtype, infer_conv_shape(ctx, 0, 3))]


def _evaluate_qlinear_conv(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (*inputs, None)[:9]
    window = conv_window(node, x.shape, w.shape).static()
    values = centred(x, x_zero.reshape(()), rows=False)
    products = convolve(values, centred_weights(w, w_zero), window, node.int_attribute("group", 1))
    trailing = (-1, *(1,) * (x.ndim - 2))
    if bias is not None:
        products = products + bias.reshape(trailing)
    return [
        _requantize(products, x_scale.reshape(()) * w_scale.reshape(trailing) / y_scale.reshape(()), y_zero.reshape(()))
    ]


def _express_qlinear_conv(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    if len(kernel_of(ctx.node, ctx.tensor(3).dims)) != len(ctx.tensor(3).dims) - 2:
        return None
    axes, products = integer_products(ctx, (0, 3), (2, 5))
    channel = axes[1].index

    def parameter(number: int) -> Scalar:
        kind = ctx.tensor(number)
        return load(number, kind.dtype, [0 if extent == 1 else channel for extent in kind.dims])

    if len(ctx.inputs) > 8 and ctx.inputs[8] is not None:
        products = call("add", products, load(8, dtypes.INT32, (channel,)))
    factor = call("div", call("mul", parameter(1), parameter(4)), parameter(6))
    scaled = call("mul", cast(products, dtypes.FLOAT32), factor)
    return [TensorExpr(axes, _saturated(scaled, parameter(7), ctx.outputs[0].dtype))]


for operator in (
    Operator("QuantizeLinear", _infer_quantize, _evaluate_quantize, expression=_express_quantize, traits=POINTWISE),
    Operator(
        "DequantizeLinear", _infer_dequantize, _evaluate_dequantize, expression=_express_dequantize, traits=POINTWISE
    ),
    Operator("DynamicQuantizeLinear", _infer_dynamic, _evaluate_dynamic, traits=frozenset({Trait.REDUCTION})),
    Operator(
        "QLinearMatMul",
        _infer_qlinear_matmul,
        _evaluate_qlinear_matmul,
        expression=_express_qlinear_matmul,
        traits=frozenset({Trait.CONTRACTION}),
    ),
    Operator(
        "QLinearConv",
        _infer_qlinear_conv,
        _evaluate_qlinear_conv,
        expression=_express_qlinear_conv,
        traits=frozenset({Trait.CONTRACTION, Trait.WINDOW}),
    ),
):
    register(operator)
