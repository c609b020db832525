"""What a matmul region computes: MatMul and Gemm as sums over one axis of two operands read at affine offsets.

An operand that reaches its anchor through movement (Transpose, Reshape, Slice) is read where it lies: its offset is an
expression over the contraction's axes, so no transposition is a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.backends.element_types import compute_dtype
from graphc.backends.extents import bounds_of, is_positive
from graphc.backends.regions import Expander
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType, Value
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import (
    Bounds,
    linear_coefficient,
    multiply,
    product,
    simplify,
    substitute,
    symbols,
)
from graphc.ops.contraction import matmul_parts
from graphc.ops.expr import Axis, Load, Scalar, axes_of, call, cast, const
from graphc.ops.indexing import broadcast_index, indices_of


@dataclass(frozen=True)
class View:
    """A body input read at an offset that is an expression over axes.

    Args:
        input: Number of the body input.
        type: Its type.
        offset: In elements of its storage.
    """

    input: int
    type: TensorType
    offset: Dim

    def stride(self, axis: Axis) -> int | None:
        """Elements between neighbours along `axis`; None where it is not constant."""
        return linear_coefficient(self.offset, axis.name)

    def depends_on(self, axis: Axis) -> bool:
        """Whether the element read changes along `axis`."""
        return axis.name in symbols(self.offset)

    def at(self, places: Mapping[str, Dim], bounds: Bounds) -> Dim:
        """The offset with axes replaced by index expressions over loop symbols, whose bounds are `bounds`."""
        return substitute(self.offset, places, bounds)


def storage_offset(type_: TensorType, index: Sequence[Dim], bounds: Bounds) -> Dim:
    """Elements from the start of a tensor's storage to the element at a logical index."""
    storage = type_.layout.storage_shape(type_.dims)
    offset: Dim = 0
    for position, place in enumerate(type_.layout.storage_index(index)):
        offset = offset + place * product(storage[position + 1 :])
    return simplify(offset, bounds)


def view_of(body: Graph, expander: Expander, value: Value, index: Sequence[Dim], bounds: Bounds, what: str) -> View:
    """How `value` is read at `index`.

    Raises:
        BackendError: It is computed, or gathered, and not just moved, from a body input.
    """
    element = expander.element(value, index)
    if not isinstance(element, Load) or any(isinstance(i, Scalar) for i in element.indices):
        raise BackendError(f"{what} is computed inside the region, not read")
    affine = [simplify(i, bounds) for i in element.indices if not isinstance(i, Scalar)]
    type_ = body.inputs[element.input].tensor_type
    return View(element.input, type_, storage_offset(type_, affine, bounds))


@dataclass(frozen=True)
class Contraction:
    """`anchor[batch..., row, column] = alpha * sum over inner of left * right + addend`.

    Args:
        anchor: The MatMul or Gemm.
        axes: Of the anchor's output, outermost first: batch axes, the row axis if there is one, the column axis.
        has_row: Whether the axis before the last is a row of the left operand, and not a batch axis.
        inner: The axis summed over.
        left: The left operand over `axes` and `inner`.
        right: The right operand.
        alpha: Factor of the product.
        addend: What is added to it, over `axes`, or None.
    """

    anchor: Node
    axes: tuple[Axis, ...]
    has_row: bool
    inner: Axis
    left: View
    right: View
    alpha: float = 1.0
    addend: Scalar | None = None

    @property
    def dtype(self) -> DType:
        """The type in which products are formed and summed."""
        return compute_dtype(self.right.type.dtype)

    @property
    def column(self) -> Axis:
        """The axis along which vectors run."""
        return self.axes[-1]

    @property
    def batch(self) -> tuple[Axis, ...]:
        """Axes of independent products."""
        return self.axes[: -2 if self.has_row else -1]

    @property
    def row(self) -> Axis | None:
        """The axis of the left operand's rows; None for a vector times a matrix."""
        return self.axes[-2] if self.has_row else None


def anchor_of(body: Graph, op_types: frozenset[str]) -> Node:
    """The one node of `op_types` (of ai.onnx) in a body.

    Raises:
        BackendError: There is none, or there are several.
    """
    found = [node for node in body.nodes if node.domain == "" and node.op_type in op_types]
    if len(found) != 1:
        raise BackendError(f"the region has {len(found)} of {', '.join(sorted(op_types))}, not one")
    return found[0]


def contraction_of(body: Graph) -> Contraction:
    """The contraction that a body is built around.

    Raises:
        BackendError: It has none, or one that is not of floats, or of an extent that is not bound.
    """
    anchor = anchor_of(body, frozenset({"MatMul", "Gemm"}))
    a, b = anchor.inputs[0], anchor.inputs[1]
    assert a is not None and b is not None
    for value in (a, b, anchor.output):
        type_ = value.tensor_type
        if not type_.dtype.is_float:
            raise BackendError(f"{anchor.op_type} of {type_.dtype}, not of floats")
        if not all(is_positive(extent, body.bounds) for extent in type_.dims):
            raise BackendError(f"%{value.name} has an extent that may be zero")
    expander = Expander(body)
    if anchor.op_type == "Gemm":
        return _gemm(body, expander, anchor, a, b)
    if len(b.tensor_type.dims) < 2:
        raise BackendError("the right operand is a vector")
    axes, inner, at_a, at_b = matmul_parts(a.tensor_type, b.tensor_type, anchor.output.tensor_type.dims)
    bounds = {**body.bounds, **bounds_of((*axes, inner))}
    return Contraction(
        anchor,
        axes,
        len(a.tensor_type.dims) > 1,
        inner,
        view_of(body, expander, a, at_a, bounds, "the left operand"),
        view_of(body, expander, b, at_b, bounds, "the right operand"),
    )


def _gemm(body: Graph, expander: Expander, anchor: Node, a: Value, b: Value) -> Contraction:
    axes = axes_of(anchor.output.tensor_type.dims)
    row, column = indices_of(axes)
    turned = bool(anchor.int_attribute("transA", 0))
    (inner,) = axes_of([a.tensor_type.dims[0 if turned else 1]], "k")
    k = inner.index
    bounds = {**body.bounds, **bounds_of((*axes, inner))}
    at_b = (column, k) if anchor.int_attribute("transB", 0) else (k, column)
    alpha, beta = anchor.float_attribute("alpha", 1.0), anchor.float_attribute("beta", 1.0)
    addend: Scalar | None = None
    if len(anchor.inputs) > 2 and (c := anchor.inputs[2]) is not None and beta != 0.0:
        addend = expander.element(c, broadcast_index(c.tensor_type.dims, (row, column)))
        if beta != 1.0:
            wide = compute_dtype(a.tensor_type.dtype)
            addend = call("mul", cast(addend, wide), const(beta, wide))
    return Contraction(
        anchor,
        axes,
        True,
        inner,
        view_of(body, expander, a, (k, row) if turned else (row, k), bounds, "the left operand"),
        view_of(body, expander, b, at_b, bounds, "the right operand"),
        alpha,
        addend,
    )


def flat_stride(view: View, axes: Sequence[Axis]) -> int | None:
    """Elements between neighbours in the row-major order of `axes`; None where they are not walked in step."""
    moving = [axis for axis in reversed(axes) if axis.extent != 1]
    if not moving:
        return 0
    step = view.stride(moving[0])
    expected: Dim | None = step
    for axis in moving:
        if expected is None or view.stride(axis) != expected:
            return None
        expected = multiply(expected, axis.extent)
    return step
