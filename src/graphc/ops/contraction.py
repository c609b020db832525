"""Contractions: products of tensors summed over shared axes (MatMul, Gemm, Einsum and their integer kin), and Det."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import (
    Array,
    Datum,
    ExpressionContext,
    InferenceContext,
    Operator,
    Trait,
    broadcast_dims,
    register,
)
from graphc.ops.expr import Axis, Scalar, TensorExpr, axes_of, call, cast, const, load, reduce
from graphc.ops.indexing import accumulator, broadcast_index, broadcast_load, indices_of, wide_load

CONTRACTION = frozenset({Trait.CONTRACTION})


def wide(array: Array) -> Array:
    """`array` in the type in which its sums are formed."""
    found = accumulator(dtypes.from_numpy(array.dtype))
    return array.astype(found.numpy, copy=False)


def matmul_dims(ctx: InferenceContext, a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """Shape of NumPy's matmul of shapes `a` and `b`; 1-d operands lose the axis they were given."""
    if not a or not b:
        ctx.fail("operands must have at least one axis")
    rows, inner_a = (a[-2:-1], a[-1])
    columns, inner_b = (b[-1:], b[-2]) if len(b) > 1 else ((), b[0])
    if isinstance(inner_a, int) and isinstance(inner_b, int) and inner_a != inner_b:
        ctx.fail(f"inner extents differ: {inner_a} in shape {list(a)}, {inner_b} in shape {list(b)}")
    batch = broadcast_dims([tuple(a[:-2]), tuple(b[:-2])])
    if batch is None:
        ctx.fail(f"batch extents of shapes {list(a)} and {list(b)} do not broadcast")
    return (*batch, *rows, *columns)


def matmul_parts(
    a: TensorType, b: TensorType, output: Sequence[Dim]
) -> tuple[tuple[Axis, ...], Axis, tuple[Dim, ...], tuple[Dim, ...]]:
    """Axes of a matmul's output, its inner axis, and the indices at which it reads each operand."""
    axes = axes_of(output)
    (inner,) = axes_of([a.dims[-1] if isinstance(a.dims[-1], int) else b.dims[-2 if len(b.dims) > 1 else 0]], "k")
    index = list(indices_of(axes))
    column = [index.pop()] if len(b.dims) > 1 else []
    row = [index.pop()] if len(a.dims) > 1 else []
    at_a = (*broadcast_index(a.dims[:-2], index), *row, inner.index)
    at_b = (*broadcast_index(b.dims[:-2], index), inner.index, *column)
    return axes, inner, at_a, at_b


def _infer_matmul(ctx: InferenceContext) -> Sequence[Type]:
    a, b = ctx.tensor(0), ctx.tensor(1)
    if a.dtype != b.dtype:
        ctx.fail(f"operands have dtypes {a.dtype} and {b.dtype}")
    return [TensorType(a.dtype, matmul_dims(ctx, ctx.shape(0), ctx.shape(1)))]


def _evaluate_matmul(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    a, b = inputs
    return [np.asarray(np.matmul(wide(a), wide(b))).astype(a.dtype, copy=False)]


def _express_matmul(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    a, b = ctx.tensor(0), ctx.tensor(1)
    axes, inner, at_a, at_b = matmul_parts(a, b, ctx.outputs[0].dims)
    total = reduce("sum", [inner], call("mul", wide_load(0, a, at_a), wide_load(1, b, at_b)))
    return [TensorExpr(axes, cast(total, a.dtype))]


def _infer_gemm(ctx: InferenceContext) -> Sequence[Type]:
    a, b = ctx.shape(0), ctx.shape(1)
    if len(a) != 2 or len(b) != 2:
        ctx.fail(f"operands must be matrices, not of shapes {list(a)} and {list(b)}")
    if ctx.tensor(0).dtype != ctx.tensor(1).dtype:
        ctx.fail(f"operands have dtypes {ctx.tensor(0).dtype} and {ctx.tensor(1).dtype}")
    node = ctx.node
    left = a[::-1] if node.int_attribute("transA", 0) else a
    right = b[::-1] if node.int_attribute("transB", 0) else b
    shape = matmul_dims(ctx, left, right)
    if ctx.has(2) and (addend := ctx.tensor(2).shape) is not None:
        fits = broadcast_dims([shape, addend])
        static = all(isinstance(d, int) for d in (*shape, *addend))
        if len(addend) > 2 or fits is None or (static and fits != shape):
            ctx.fail(f"C of shape {list(addend)} does not broadcast to {list(shape)}")
    return [TensorType(ctx.tensor(0).dtype, shape)]


def _gemm_scale(node: Node, dtype: DType, name: str) -> float | int:
    value = node.float_attribute(name, 1.0)
    return value if dtype.is_float else int(value)


def _evaluate_gemm(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    a, b = wide(inputs[0]), wide(inputs[1])
    dtype = dtypes.from_numpy(a.dtype)
    left = a.T if node.int_attribute("transA", 0) else a
    right = b.T if node.int_attribute("transB", 0) else b
    result = np.matmul(left, right) * a.dtype.type(_gemm_scale(node, dtype, "alpha"))
    if len(inputs) > 2 and inputs[2] is not None:
        result = result + wide(inputs[2]) * a.dtype.type(_gemm_scale(node, dtype, "beta"))
    return [result.astype(inputs[0].dtype, copy=False)]


def _scaled(value: Scalar, factor: float | int) -> Scalar:
    return value if factor == 1 else call("mul", value, const(factor, value.dtype))


def _express_gemm(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    a, b, node = ctx.tensor(0), ctx.tensor(1), ctx.node
    turn_a, turn_b = node.int_attribute("transA", 0), node.int_attribute("transB", 0)
    axes = axes_of(ctx.outputs[0].dims)
    row, column = indices_of(axes)
    (inner,) = axes_of([a.dims[0 if turn_a else 1]], "k")
    k = inner.index
    left = wide_load(0, a, (k, row) if turn_a else (row, k))
    right = wide_load(1, b, (column, k) if turn_b else (k, column))
    dtype = accumulator(a.dtype)
    total = _scaled(reduce("sum", [inner], call("mul", left, right)), _gemm_scale(node, dtype, "alpha"))
    if len(ctx.inputs) > 2 and ctx.inputs[2] is not None:
        addend = cast(broadcast_load(2, ctx.inputs[2], (row, column)), dtype)
        total = call("add", total, _scaled(addend, _gemm_scale(node, dtype, "beta")))
    return [TensorExpr(axes, cast(total, a.dtype))]


@dataclass(frozen=True)
class Equation:
    """An einsum equation with its ellipses resolved: one label per axis.

    Args:
        operands: Labels of each operand's axes.
        output: Labels of the result's axes.
    """

    operands: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]

    @property
    def summed(self) -> tuple[str, ...]:
        """Labels that the result lacks, in order of appearance."""
        seen = dict.fromkeys(label for labels in self.operands for label in labels)
        return tuple(label for label in seen if label not in self.output)


def parse_equation(text: str, ranks: Sequence[int]) -> Equation:
    """Reads an einsum equation for operands of `ranks`; axes of an ellipsis are labelled `...0`, `...1` from the right.

    Raises:
        ValueError: The equation is malformed or does not fit the ranks.
    """
    left, arrow, right = text.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"equation {text!r} names {len(terms)} operands, not {len(ranks)}")
    operands = [_labels(term, rank, text) for term, rank in zip(terms, ranks, strict=True)]
    widest = max((sum(label.startswith(".") for label in labels) for labels in operands), default=0)
    dots = tuple(f"...{i}" for i in reversed(range(widest)))
    if arrow:
        head, found, tail = right.partition("...")
        output = (*head, *(dots if found else ()), *tail)
    else:
        counts: dict[str, int] = {}
        for label in (label for labels in operands for label in labels):
            counts[label] = counts.get(label, 0) + 1
        output = (*dots, *sorted(label for label, n in counts.items() if n == 1 and not label.startswith(".")))
    known = {label for labels in operands for label in labels}
    if not set(output) <= known or len(set(output)) != len(output):
        raise ValueError(f"equation {text!r} has an output label that no operand has, or that is repeated")
    return Equation(tuple(operands), output)


def _labels(term: str, rank: int, text: str) -> tuple[str, ...]:
    head, dots, tail = term.partition("...")
    if not all(label.isalpha() for label in head + tail):
        raise ValueError(f"equation {text!r} is malformed at {term!r}")
    named = len(head) + len(tail)
    if named > rank or (not dots and named != rank):
        raise ValueError(f"equation {text!r} gives {term!r} to an operand of rank {rank}")
    return (*head, *(f"...{i}" for i in reversed(range(rank - named))), *tail)


def _extents(equation: Equation, shapes: Sequence[Sequence[Dim]]) -> dict[str, Dim]:
    """Extent of every label; an extent of 1 gives way to any other.

    Raises:
        ValueError: A label has two extents.
    """
    extents: dict[str, Dim] = {}
    for labels, shape in zip(equation.operands, shapes, strict=True):
        for label, extent in zip(labels, shape, strict=True):
            merged = broadcast_dims([(extents.get(label, 1),), (extent,)])
            if merged is None:
                raise ValueError(f"label {label!r} has extents {extents[label]} and {extent}")
            extents[label] = merged[0]
    return extents


def _infer_einsum(ctx: InferenceContext) -> Sequence[Type]:
    shapes = [ctx.shape(i) for i in range(len(ctx.inputs))]
    try:
        equation = parse_equation(ctx.node.str_attribute("equation", ""), [len(shape) for shape in shapes])
        extents = _extents(equation, shapes)
    except ValueError as error:
        ctx.fail(str(error))
    return [TensorType(ctx.tensor(0).dtype, tuple(extents[label] for label in equation.output))]


def _evaluate_einsum(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    equation = parse_equation(node.str_attribute("equation", ""), [array.ndim for array in inputs])
    extents = _extents(equation, [array.shape for array in inputs])
    sizes = {label: extent for label, extent in extents.items() if isinstance(extent, int)}
    number = {label: i for i, label in enumerate(sizes)}
    arguments: list[Any] = []
    for array, labels in zip(inputs, equation.operands, strict=True):
        full = np.broadcast_to(wide(array), [sizes[label] for label in labels])
        arguments += [full, [number[label] for label in labels]]
    result: Array = np.einsum(*arguments, [number[label] for label in equation.output], optimize=len(inputs) > 1)
    return [np.asarray(result).astype(inputs[0].dtype, copy=False)]


def _express_einsum(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    operands = [ctx.tensor(i) for i in range(len(ctx.inputs))]
    equation = parse_equation(ctx.node.str_attribute("equation", ""), [len(kind.dims) for kind in operands])
    extents = _extents(equation, [kind.dims for kind in operands])
    axes = axes_of([extents[label] for label in equation.output])
    inner = axes_of([extents[label] for label in equation.summed], "k")
    at = {label: axis.index for label, axis in zip((*equation.output, *equation.summed), (*axes, *inner), strict=True)}
    body: Scalar | None = None
    for position, (kind, labels) in enumerate(zip(operands, equation.operands, strict=True)):
        factor = wide_load(position, kind, broadcast_index(kind.dims, [at[label] for label in labels]))
        body = factor if body is None else call("mul", body, factor)
    assert body is not None, "einsum without operands"
    return [TensorExpr(axes, cast(reduce("sum", inner, body), operands[0].dtype))]


def _infer_matmul_integer(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(dtypes.INT32, matmul_dims(ctx, ctx.shape(0), ctx.shape(1)))]


def centred(array: Array, zero_point: Array | None, *, rows: bool) -> Array:
    """`array - zero_point` in int32; a 1-d zero point belongs to the rows of the left or the columns of the right."""
    result = array.astype(np.int32)
    if zero_point is None:
        return result
    zero = zero_point.astype(np.int32)
    return result - (zero[:, None] if rows and zero.ndim == 1 and array.ndim > 1 and zero.size > 1 else zero)


def _evaluate_matmul_integer(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    a, b, a_zero, b_zero = (*inputs, None, None)[:4]
    return [np.asarray(np.matmul(centred(a, a_zero, rows=True), centred(b, b_zero, rows=False)))]


def _express_matmul_integer(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    a, b = ctx.tensor(0), ctx.tensor(1)
    axes, inner, at_a, at_b = matmul_parts(a, b, ctx.outputs[0].dims)

    def operand(number: int, kind: TensorType, indices: tuple[Dim, ...], *, rows: bool) -> Scalar:
        value = cast(load(number, kind.dtype, indices), dtypes.INT32)
        zero = ctx.inputs[number + 2] if number + 2 < len(ctx.inputs) else None
        if zero is None:
            return value
        if rows and len(zero.dims) == 1 and len(kind.dims) > 1:
            position = broadcast_index(zero.dims, [indices[-2]])
        else:
            position = broadcast_index(zero.dims, indices[len(indices) - len(zero.dims) :])
        return call("sub", value, cast(load(number + 2, zero.dtype, position), dtypes.INT32))

    product = call("mul", operand(0, a, at_a, rows=True), operand(1, b, at_b, rows=False))
    return [TensorExpr(axes, reduce("sum", [inner], product))]


def _infer_det(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    if len(shape) < 2:
        ctx.fail(f"needs matrices, not a tensor of shape {list(shape)}")
    rows, columns = shape[-2:]
    if isinstance(rows, int) and isinstance(columns, int) and rows != columns:
        ctx.fail(f"needs square matrices, not {rows}x{columns}")
    return [TensorType(ctx.tensor(0).dtype, shape[:-2])]


def _evaluate_det(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (array,) = inputs
    return [np.asarray(np.linalg.det(wide(array))).astype(array.dtype, copy=False)]


for operator in (
    Operator("MatMul", _infer_matmul, _evaluate_matmul, expression=_express_matmul, traits=CONTRACTION),
    Operator("Gemm", _infer_gemm, _evaluate_gemm, expression=_express_gemm, traits=CONTRACTION),
    Operator("Einsum", _infer_einsum, _evaluate_einsum, expression=_express_einsum, traits=CONTRACTION),
    Operator(
        "MatMulInteger",
        _infer_matmul_integer,
        _evaluate_matmul_integer,
        expression=_express_matmul_integer,
        traits=CONTRACTION,
    ),
    Operator("Det", _infer_det, _evaluate_det),
):
    register(operator)
