"""The engine of pointwise operators: each element of the output from the elements at the same (broadcast) place.

Tables of operators stand in the files beside this one. A row gives an operator's name, the dtypes it takes, its NumPy
meaning and its scalar form. NumPy meanings take and answer arrays of the operator's own dtype; 16-bit and narrower
floats come to them as float32 and are rounded once at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import (
    Array,
    Datum,
    ExpressionContext,
    InferenceContext,
    Operator,
    Propagate,
    Trait,
    broadcast_dims,
    register,
)
from graphc.ops.conversion import working
from graphc.ops.expr import Scalar, TensorExpr, axes_of, call, const
from graphc.ops.indexing import broadcast_load, indices_of

Domain: TypeAlias = Callable[[DType], bool]
"""Which dtypes an operator takes."""

Meaning: TypeAlias = Callable[..., Array]
Form: TypeAlias = Callable[..., Scalar]


def is_float(dtype: DType) -> bool:
    """Real floating point."""
    return dtype.is_float


def is_signed(dtype: DType) -> bool:
    """Numbers that have a sign."""
    return dtype.is_float or dtype.kind == "int"


def is_numeric(dtype: DType) -> bool:
    """Real numbers."""
    return dtype.is_float or dtype.is_integer


def is_integer(dtype: DType) -> bool:
    """Signed and unsigned integers."""
    return dtype.is_integer


def is_bool(dtype: DType) -> bool:
    """Truth values."""
    return dtype.kind == "bool"


def is_numeric_or_bool(dtype: DType) -> bool:
    """Real numbers and truth values."""
    return is_numeric(dtype) or dtype.kind == "bool"


def is_any(dtype: DType) -> bool:
    """Every dtype."""
    return True


def widened(array: Array) -> Array:
    """`array` in the type in which its arithmetic is carried out."""
    return array.astype(working(dtypes.from_numpy(array.dtype)), copy=False)


def broadcast_inputs(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    """The shape that all inputs broadcast to; None where a rank is unknown."""
    shapes = []
    for index, value in enumerate(ctx.node.inputs):
        if value is not None:
            shape = ctx.tensor(index).shape
            if shape is None:
                return None
            shapes.append(shape)
    found = broadcast_dims(shapes)
    if found is None:
        ctx.fail(f"shapes {', '.join(str(list(shape)) for shape in shapes)} do not broadcast")
    return found


def express_pointwise(ctx: ExpressionContext, scalar: Form) -> Sequence[TensorExpr] | None:
    """One output whose elements `scalar(node, *elements)` gives; None where text is among them."""
    if any(kind is not None and kind.dtype == dtypes.STRING for kind in (*ctx.inputs, *ctx.outputs)):
        return None
    axes = axes_of(ctx.outputs[0].dims)
    indices = indices_of(axes)
    elements = [None if kind is None else broadcast_load(i, kind, indices) for i, kind in enumerate(ctx.inputs)]
    return [TensorExpr(axes, scalar(ctx.node, *elements))]


def pointwise(
    name: str,
    arity: int | None,
    domain: Domain,
    meaning: Meaning,
    form: Form,
    *,
    result: DType | None = None,
    traits: Iterable[Trait] = (),
    propagate: Propagate | None = None,
    separate: Sequence[int] = (),
    required: int | None = None,
    elementwise: bool = True,
    operator_set: str = "",
) -> Operator:
    """Registers a pointwise operator.

    Args:
        name: Operator.
        arity: Number of inputs it can have; None for any number from one on.
        domain: Dtypes that its first input takes.
        meaning: `meaning(node, *arrays)` in NumPy.
        form: `form(node, *elements)` as a scalar expression.
        result: Dtype of the output; that of the first input if None.
        traits: Traits besides POINTWISE.
        propagate: How it acts on the elements of shapes.
        separate: Inputs whose dtype may differ from the first's.
        required: Number of inputs that must be there; `arity` if None.
        elementwise: Whether `meaning` gets narrow floats widened and has its result rounded.
        operator_set: Domain of the operator; `""` is ai.onnx.
    """

    def infer(ctx: InferenceContext) -> Sequence[Type]:
        count = len(ctx.node.inputs)
        least = (arity if required is None else required) or 1
        if count < least or (arity is not None and count > arity):
            ctx.fail(f"takes {least if least == arity else f'{least} or more'} inputs, not {count}")
        first = ctx.tensor(0).dtype
        for index in range(count):
            if index < least or arity is None or ctx.has(index):
                found = ctx.tensor(index).dtype
                if index not in separate and found != first:
                    ctx.fail(f"input {index} is {found}, but input 0 is {first}")
        if not domain(first):
            ctx.fail(f"does not take {first}")
        return [TensorType(result or first, broadcast_inputs(ctx))]

    def evaluate(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
        dtype = result.numpy if result is not None else np.asarray(arrays[0]).dtype
        given = [None if array is None else np.asarray(array) for array in arrays]
        if elementwise:
            given = [None if array is None else widened(array) for array in given]
        return [np.asarray(meaning(node, *given)).astype(dtype, copy=False)]

    return register(
        Operator(
            name,
            infer,
            evaluate,
            domain=operator_set,
            traits=frozenset({Trait.POINTWISE, *traits}),
            expression=lambda ctx: express_pointwise(ctx, form),
            propagate=propagate,
            scalar=form,
        )
    )


def unary(op: str) -> Form:
    """The scalar operation `op` of one element."""
    return lambda node, x: call(op, x)


def binary(op: str) -> Form:
    """The scalar operation `op` of two elements."""
    return lambda node, x, y: call(op, x, y)


def folded(op: str) -> Form:
    """`op` over all elements, from the left."""
    return lambda node, *elements: functools.reduce(lambda a, b: call(op, a, b), elements)


def like(x: Scalar, value: float) -> Scalar:
    """`value` as a constant of the dtype of `x`."""
    return const(value, x.dtype)


def propagate_elementwise(function: Callable[..., Dim | None]) -> Propagate:
    """Applies `function` to the known elements of the inputs; unknown where it answers None."""

    def propagate(ctx: InferenceContext) -> tuple[Dim, ...] | None:
        operands = []
        for index in range(len(ctx.node.inputs)):
            dims, kind = ctx.dims(index), ctx.inputs[index]
            if dims is None or not isinstance(kind, TensorType) or len(kind.dims) > 1:
                return None
            operands.append(dims)
        length = max(map(len, operands))
        if any(len(dims) not in (1, length) for dims in operands):
            return None
        spread = [dims * length if len(dims) == 1 else dims for dims in operands]
        found = [function(*elements) for elements in zip(*spread, strict=True)]
        return None if any(element is None for element in found) else tuple(e for e in found if e is not None)

    return propagate


def propagate_whole(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    """The elements of the first input where they are integers already (rounding, casting)."""
    kind = ctx.tensor(0)
    return ctx.dims(0) if kind.dtype.is_integer or kind.dtype.is_float else None
