"""What a product of matrices computes, read off its tensor expression: MatMul, Gemm, Einsum, products of integers.

    total[b, m, n] = sum over k of left[b, m, k] * right[b, k, n]

Axes that only the left operand changes along are rows, those of the right alone columns, those of both a batch. Each
kind is flattened into one, and so are the axes summed over. The operands are scalars: an operand that is moved, cast or
dequantized on its way is computed where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphc.backends.contraction import storage_offset
from graphc.backends.element_types import compute_dtype
from graphc.backends.extents import bounds_of, count_of, is_positive, unflatten
from graphc.backends.problem import FreeSymbols
from graphc.backends.regions import Expander
from graphc.backends.results import Result, results_of
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import Bounds, linear_coefficient, simplify, substitute
from graphc.ops.base import Trait, find
from graphc.ops.expr import Axis, Call, Cast, Load, Reduce, Scalar, axes_of, transform, walk


@dataclass(frozen=True)
class MatmulProblem:
    """A product of matrices and what follows it.

    Args:
        anchor: The node that is the product.
        batch: Axis of independent products, of extent 1 where there is one.
        row: Axis of the left operand's rows.
        column: Axis of the right operand's columns.
        inner: The axis summed over.
        left: Element of the left operand over `batch`, `row` and `inner`, in the type that the model gave it.
        right: Element of the right one over `batch`, `inner` and `column`.
        total: Stands for the sum in the elements of `results`.
        results: What is stored, over `batch`, `row` and `column`.
        inputs: Types of the body's inputs.
    """

    anchor: Node
    batch: Axis
    row: Axis
    column: Axis
    inner: Axis
    left: Scalar
    right: Scalar
    total: Load
    results: tuple[Result, ...]
    inputs: tuple[TensorType, ...]

    @property
    def bounds(self) -> Bounds:
        """Of the four axes."""
        return bounds_of((self.batch, self.row, self.column, self.inner))

    @property
    def macs(self) -> Dim:
        """Multiplications."""
        return count_of((self.batch, self.row, self.column, self.inner))

    def turned(self) -> MatmulProblem:
        """The same product of the transposed operands: rows and columns change places."""
        return replace(self, row=self.column, column=self.row, left=self.right, right=self.left)


@dataclass(frozen=True)
class Matrix:
    """An operand that is read, and not computed.

    Args:
        input: Number of the body's input.
        dtype: Of its elements.
        start: Offset of its first element, over the batch axis.
        along: Elements between neighbours along the row or column axis.
        inner: Elements between neighbours along the inner axis.
    """

    input: int
    dtype: DType
    start: Dim
    along: int
    inner: int


def matrix_of(problem: MatmulProblem, operand: Scalar, along: Axis) -> Matrix | None:
    """How an operand is read; None where it is computed, or read at no constant stride.

    Args:
        problem: The product.
        operand: `problem.left` or `problem.right`.
        along: Its row or column axis.
    """
    if not isinstance(operand, Load) or any(isinstance(i, Scalar) for i in operand.indices):
        return None
    index = [simplify(i, problem.bounds) for i in operand.indices if not isinstance(i, Scalar)]
    offset = storage_offset(problem.inputs[operand.input], index, problem.bounds)
    steps = [linear_coefficient(offset, axis.name) for axis in (along, problem.inner)]
    if steps[0] is None or steps[1] is None:
        return None
    start = substitute(offset, {along.name: 0, problem.inner.name: 0}, problem.bounds)
    return Matrix(operand.input, operand.dtype, start, steps[0], steps[1])


def matmul_of(body: Graph, anchor: Node | None = None) -> MatmulProblem:
    """The product that a body is built around.

    Args:
        body: A closed graph; what follows the anchor is pointwise or moves elements.
        anchor: The node whose expression is a sum of products; the body's one contraction if None.

    Raises:
        BackendError: It is no product of two operands, or one of no elements.
    """
    node = anchor or _only_contraction(body)
    axes = axes_of(node.output.tensor_type.dims)
    element = Expander(body).element(node.output, [axis.index for axis in axes])
    sums = [scalar for scalar in walk(element) if isinstance(scalar, Reduce)]
    if len(sums) != 1 or sums[0].op != "sum" or sums[0].counts:
        raise BackendError(f"{node.op} is not one sum of products", nodes=node.origins)
    (summed,) = sums
    if not isinstance(summed.body, Call) or summed.body.op != "mul":
        raise BackendError(f"{node.op} does not sum products", nodes=node.origins)
    if not all(is_positive(axis.extent, body.bounds) for axis in (*axes, *summed.axes)):
        raise BackendError(f"{node.op} has an extent that may be zero", nodes=node.origins)
    left, right = summed.body.arguments
    total = Load(summed.dtype, len(body.inputs), ())
    value = transform(element, lambda scalar: total if isinstance(scalar, Reduce) else None, {})
    results = results_of(body, node, axes, value)

    batch, rows, columns = _kinds(axes, left, right)
    b, m, n = Axis("b", count_of(batch)), Axis("m", count_of(rows)), Axis("n", count_of(columns))
    k = Axis("k", count_of(summed.axes))
    bounds = {**body.bounds, **bounds_of((b, m, n, k))}
    places: dict[str, Dim] = {axis.name: 0 for axis in axes if axis.extent == 1}
    for axis, group in ((b, batch), (m, rows), (n, columns), (k, summed.axes)):
        places.update(unflatten(group, axis.index if axis.extent != 1 else 0, bounds))
    return MatmulProblem(
        node,
        batch=b,
        row=m,
        column=n,
        inner=k,
        left=_narrow(_moved(left, places)),
        right=_narrow(_moved(right, places)),
        total=total,
        results=tuple(
            Result(_moved(r.element, places), tuple(substitute(i, places, bounds) for i in r.index), r.type)
            for r in results
        ),
        inputs=tuple(source.tensor_type for source in body.inputs),
    )


def _only_contraction(body: Graph) -> Node:
    found = []
    for node in body.nodes:
        operator = find(node)
        if operator is not None and operator.has(Trait.CONTRACTION):
            found.append(node)
    if len(found) != 1:
        raise BackendError(f"the region has {len(found)} products, not one")
    return found[0]


def _kinds(axes: Sequence[Axis], left: Scalar, right: Scalar) -> tuple[list[Axis], list[Axis], list[Axis]]:
    """Axes of the batch, of the rows and of the columns."""
    free = FreeSymbols([left, right])
    real = [axis for axis in axes if axis.extent != 1]
    rows = _last_run([axis.name in free[left] and axis.name not in free[right] for axis in real], real)
    columns = _last_run([axis.name in free[right] and axis.name not in free[left] for axis in real], real)
    return [axis for axis in real if axis not in rows and axis not in columns], rows, columns


def _last_run(wanted: Sequence[bool], axes: Sequence[Axis]) -> list[Axis]:
    """The last stretch of neighbouring axes that are wanted: they are walked as one."""
    end = len(axes)
    while end and not wanted[end - 1]:
        end -= 1
    start = end
    while start and wanted[start - 1]:
        start -= 1
    return list(axes[start:end])


def _moved(scalar: Scalar, places: Mapping[str, Dim]) -> Scalar:
    return transform(scalar, lambda _: None, places)


def _narrow(operand: Scalar) -> Scalar:
    """An operand without the cast into the type of the sum, where that loses nothing."""
    while isinstance(operand, Cast) and _is_exact(operand.value.dtype, operand.dtype):
        operand = operand.value
    return operand


def _is_exact(source: DType, target: DType) -> bool:
    return source.is_float and compute_dtype(source) == target
