"""The operands of a product on a GPU: in what they are multiplied, how constants are stored for it, and their blocks.

Products of 8-bit integers with zero points become products of signed bytes:

    sum of (a - za) * (b - zb)  =  sum of a * b  -  za * sum of b  -  zb * sum of a  +  K * za * zb

(B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018,
section 2.3). Unsigned bytes are shifted by 128, zero points with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphc.backends.base import Packing
from graphc.backends.contraction import storage_offset
from graphc.backends.extents import bound
from graphc.backends.matmul_problem import MatmulProblem, Matrix, matrix_of
from graphc.backends.problem import FreeSymbols
from graphc.backends.triton.indices import index_value, place
from graphc.backends.triton.masks import masks_of
from graphc.backends.triton.occupancy import Arithmetic
from graphc.backends.triton.render import PAIRS, Renderer
from graphc.backends.triton.scope import Scope, Value
from graphc.errors import BackendError
from graphc.ir import Dim, TensorType, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import linear_coefficient, simplify
from graphc.ops.expr import Axis, Call, Cast, Const, Load, Scalar, call, cast, children, const, loads

SHIFT = 128
"""What is subtracted from unsigned bytes."""

_BYTES = (dtypes.INT8, dtypes.UINT8)
_PADDING = 16
"""Elements to whose multiple packed rows are padded, so that each starts where a whole vector may be loaded."""


@dataclass(frozen=True)
class Multiplication:
    """What multiplies.

    Args:
        arithmetic: The unit of the GPU.
        dtype: Type of the operands there.
        total: Type of the sums.
        precision: Triton's word for how singles are multiplied; empty for other types.
    """

    arithmetic: Arithmetic
    dtype: DType
    total: DType
    precision: str = ""


@dataclass(frozen=True)
class Operand:
    """One operand of a product.

    Args:
        scalar: Its element, without the zero point.
        zero: What is subtracted from each element, as an int32; None for nothing.
        matrix: How it is read where it is not computed; where `packing` is given, how it is read in that form.
        packing: For a constant: the form in which it is stored.
        size: Bytes of that form.
        sums: Offset in bytes of the sums over the inner axis, int32, that a packed right operand of bytes ends in.
        signed: Whether bytes are signed already.
        packed_offset: Where an element stands in that form, over the axes of the product.
    """

    scalar: Scalar
    zero: Scalar | None = None
    matrix: Matrix | None = None
    packing: Packing | None = None
    size: int = 0
    sums: int | None = None
    signed: bool = True

    packed_offset: Dim = 0

    @property
    def is_packed(self) -> bool:
        """Whether it is read in a form of its own."""
        return self.packing is not None


def multiplication_of(problem: MatmulProblem, *, tf32: bool) -> Multiplication:
    """In what a product is multiplied.

    Args:
        problem: The product.
        tf32: Whether products of singles may be rounded to tf32.

    Raises:
        BackendError: It is one of integers wider than bytes, or of what kernels do not multiply.
    """
    total, pair = problem.total.dtype, {problem.left.dtype, problem.right.dtype}
    if total.is_integer:
        if _centred(problem.left) is None or _centred(problem.right) is None:
            raise BackendError(f"a product of {problem.left.dtype} and {problem.right.dtype} that are no bytes")
        return Multiplication("byte", dtypes.INT8, dtypes.INT32)
    if total == dtypes.FLOAT64:
        return Multiplication("double", dtypes.FLOAT64, dtypes.FLOAT64)
    if total != dtypes.FLOAT32:
        raise BackendError(f"a product summed in {total}")
    for narrow in (dtypes.FLOAT16, dtypes.BFLOAT16):
        if pair == {narrow}:
            return Multiplication("half", narrow, total)
    return Multiplication("tf32" if tf32 else "single", dtypes.FLOAT32, total, "tf32" if tf32 else "ieee")


def _centred(scalar: Scalar) -> tuple[Load, Scalar | None] | None:
    """Bytes as they are loaded and their zero point; None where a scalar is something else."""
    zero: Scalar | None = None
    if isinstance(scalar, Call) and scalar.op == "sub":
        scalar, zero = scalar.arguments
    if not isinstance(scalar, Cast) or scalar.dtype != dtypes.INT32:
        return None
    value = scalar.value
    return (value, zero) if isinstance(value, Load) and value.dtype in _BYTES else None


def operand_of(problem: MatmulProblem, multiplication: Multiplication, scalar: Scalar, along: Axis) -> Operand:
    """An operand as the model stores it.

    Args:
        problem: The product.
        multiplication: What multiplies.
        scalar: `problem.left` or `problem.right`.
        along: Its row or column axis.

    Raises:
        BackendError: A zero point changes along the inner axis.
    """
    if multiplication.arithmetic != "byte":
        return Operand(scalar, matrix=matrix_of(problem, scalar, along))
    found = _centred(scalar)
    assert found is not None, "multiplication_of refuses what is no byte"
    load, zero = found
    if zero is not None and problem.inner.name in FreeSymbols([zero])[zero]:
        raise BackendError("a zero point changes along the inner axis")
    signed = load.dtype == dtypes.INT8
    return Operand(load, _shifted(zero, signed=signed), matrix_of(problem, load, along), signed=signed)


def _shifted(zero: Scalar | None, *, signed: bool) -> Scalar | None:
    """The zero point of bytes after unsigned ones were shifted; None where it is 0."""
    shift = 0 if signed else SHIFT
    known = 0 if zero is None else _integer(zero)
    if known is not None:
        return const(known - shift, dtypes.INT32) if known != shift else None
    assert zero is not None
    return call("sub", cast(zero, dtypes.INT32), const(shift, dtypes.INT32)) if shift else cast(zero, dtypes.INT32)


def _integer(scalar: Scalar) -> int | None:
    """The value of a constant; None where a scalar is none."""
    while isinstance(scalar, Cast):
        scalar = scalar.value
    return int(scalar.value) if isinstance(scalar, Const) and not isinstance(scalar.value, complex) else None


def packed(problem: MatmulProblem, multiplication: Multiplication, operand: Operand, *, sums: bool) -> Operand:
    """A constant right operand in the form that loads fastest, or as it is where that is as fast.

    Bytes and tf32 go to the tensor cores only with the inner axis innermost. Others go either way, but rows that start
    at no multiples of 16 bytes are not loaded in whole vectors. The form depends on no tile and no number of rows, so
    that all kernels that read a weight share it.

    Args:
        problem: The product.
        multiplication: What multiplies.
        operand: The right operand.
        sums: Whether sums over the inner axis are wanted with it.
    """
    matrix = operand.matrix
    if matrix is None or not isinstance(matrix.start, int) or _is_read_again(problem, matrix.input):
        return operand
    vector = 16 // matrix.dtype.itemsize
    by_inner = matrix.inner == 1 and matrix.along % vector == 0
    by_column = matrix.along == 1 and matrix.inner % vector == 0
    fits = by_inner or (by_column and multiplication.arithmetic not in ("tf32", "byte"))
    if fits and matrix.start % vector == 0 and operand.signed and not sums:
        return operand
    return _packed(operand, matrix, problem.column, problem.inner, sums=sums)


def _is_read_again(problem: MatmulProblem, number: int) -> bool:
    others = [problem.left, *(result.element for result in problem.results)]
    return any(load.input == number for scalar in others for load in loads(scalar))


def _packed(operand: Operand, matrix: Matrix, column: Axis, inner: Axis, *, sums: bool) -> Operand:
    columns, depth = bound(column.extent), bound(inner.extent)
    row = -(-depth // _PADDING) * _PADDING
    start, step_n, step_k = matrix.start, matrix.along, matrix.inner
    assert isinstance(start, int), "the caller has looked"
    shifts = not operand.signed

    def apply(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        # As words: NumPy has no strided views of types that it does not know.
        flat = np.ascontiguousarray(array).reshape(-1)[start:].view(f"u{array.dtype.itemsize}")
        strides = (step_n * flat.itemsize, step_k * flat.itemsize)
        rows = np.lib.stride_tricks.as_strided(flat, (columns, depth), strides, writeable=False)
        result = np.zeros((columns, row), rows.dtype)
        result[:, :depth] = rows ^ SHIFT if shifts else rows
        if not sums:
            return np.asarray(result.view(array.dtype).reshape(-1))
        totals = result.view(np.int8).sum(axis=1, dtype=np.int32)
        whole = np.concatenate([result.view(np.uint8).reshape(-1), totals.view(np.uint8)])
        return np.asarray(whole.view(array.dtype))

    parameters: dict[str, int] = {"start": start, "stride_n": step_n, "stride_k": step_k}
    parameters |= {"columns": columns, "depth": depth, "shifts": shifts, "sums": sums}
    size = columns * row * matrix.dtype.itemsize
    return replace(
        operand,
        matrix=Matrix(matrix.input, dtypes.INT8 if shifts else matrix.dtype, 0, row, 1),
        packing=Packing("matmul_rows", tuple(parameters.items()), apply),
        size=size + (4 * columns if sums else 0),
        sums=size if sums else None,
        signed=True,
        packed_offset=_index(column) * row + _index(inner),
    )


def _index(axis: Axis) -> Dim:
    return axis.index if axis.extent != 1 else 0


def inner_step(problem: MatmulProblem, operand: Operand) -> int | None:
    """Elements between neighbours along the inner axis, in the largest input that an operand is made of."""
    if operand.matrix is not None:
        return operand.matrix.inner
    largest = max(loads(operand.scalar), key=lambda load: bound(problem.inputs[load.input].numel), default=None)
    if largest is None or any(isinstance(i, Scalar) for i in largest.indices):
        return None
    index = [simplify(i, problem.bounds) for i in largest.indices if not isinstance(i, Scalar)]
    offset = storage_offset(problem.inputs[largest.input], index, problem.bounds)
    return linear_coefficient(offset, problem.inner.name)


def paired(kind: TensorType) -> tuple[int, Packing] | None:
    """How a constant of 4-bit integers is stored two in a byte, and in how many bytes; None for others."""
    if not kind.dtype.is_integer or kind.dtype.bits != 4 or not kind.layout.is_row_major:
        return None
    return -(-bound(kind.numel) // (2 * PAIRS)) * PAIRS, Packing("nibbles", (("pairs", PAIRS),), _in_pairs)


def _in_pairs(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = array.reshape(-1).astype(np.int8).view(np.uint8) & 15
    chunks = np.append(flat, np.zeros(-flat.size % (2 * PAIRS), np.uint8)).reshape(-1, 2, PAIRS)
    return np.asarray(chunks[:, 0] | chunks[:, 1] << 4).reshape(-1)


def hoist(renderer: Renderer, operand: Operand, scope: Scope, inner: Axis) -> None:
    """Writes what an operand is computed from that does not change along the inner axis (scales), before the loop.

    Args:
        renderer: Of the kernel.
        operand: The operand.
        scope: Has places of the other axes; keeps what was computed.
        inner: The axis summed over.
    """
    if operand.matrix is not None:
        return
    free = FreeSymbols([operand.scalar])
    stack, seen = [operand.scalar], set[int]()
    while stack:
        scalar = stack.pop()
        if id(scalar) in seen:
            continue
        seen.add(id(scalar))
        if inner.name in free[scalar]:
            stack.extend(children(scalar))
        elif loads(scalar):
            renderer.render(scalar, scope)


def block(
    renderer: Renderer, operand: Operand, multiplication: Multiplication, scope: Scope, inner: Axis, hint: str
) -> Value:
    """Writes what brings one block of an operand, in the type in which it is multiplied.

    Args:
        renderer: Of the kernel.
        operand: The operand.
        multiplication: What multiplies.
        scope: Has places of the axes, and masks of what counts as 0.
        inner: The axis summed over.
        hint: How to call it.
    """
    code = renderer.code
    if operand.matrix is None or not _loads_as_is(operand, multiplication):
        value = renderer.tensor(operand.scalar, scope)
        # Loads are masked; what was computed from zeros need not be zero, and what is broadcast was masked nowhere.
        inside = [
            mask for mask in scope.masks if mask.dims & scope.places[inner.name].dims or not mask.dims & value.dims
        ]
        text = value.text
        if multiplication.arithmetic == "byte" and not operand.signed:
            text = code.bind(f"({text} ^ {SHIFT}).to(tl.int8, bitcast=True)")
        if inside:
            text = code.bind(f"tl.where({' & '.join(mask.text for mask in inside)}, {text}, 0)")
        if multiplication.dtype != dtypes.FLOAT32 or operand.scalar.dtype == dtypes.FLOAT64:
            text = f"{text}.to(tl.{multiplication.dtype.name})"
        return Value(code.bind(text, hint), value.dims.union(*(mask.dims for mask in inside)))
    matrix = operand.matrix
    renderer.reads.add(matrix.input)
    if operand.is_packed:
        offset = operand.packed_offset
    else:
        load = operand.scalar
        assert isinstance(load, Load)
        index = [place(scope, i) for i in load.indices if not isinstance(i, Scalar)]
        offset = storage_offset(renderer.inputs[matrix.input], index, scope.bounds)
    at = index_value(code, scope, place(scope, offset))
    masks = [mask for mask in scope.masks if mask.dims]
    dims = at.dims.union(*(mask.dims for mask in masks))
    text = at.text if dims == at.dims else f"{at.text} + tl.zeros({scope.shape(dims)}, tl.int32)"
    mask = masks_of(code, scope, dims)
    # What is no byte of the sum is 0 after the shift.
    other = SHIFT if not operand.signed else 0
    masked = f", mask={mask.text}, other={other}" if mask is not None else ""
    name = code.bind(f"tl.load(in{matrix.input} + {text}{masked})", hint)
    if not operand.signed:
        name = code.bind(f"({name} ^ {SHIFT}).to(tl.int8, bitcast=True)", hint)
    return Value(name, dims)


def _loads_as_is(operand: Operand, multiplication: Multiplication) -> bool:
    """Whether an operand is multiplied in the very form in which it is stored."""
    assert operand.matrix is not None
    return multiplication.arithmetic == "byte" or operand.matrix.dtype == multiplication.dtype


def copies(operand: Operand, multiplication: Multiplication) -> bool:
    """Whether an operand goes from memory to shared memory as it is."""
    return operand.matrix is not None and operand.signed and _loads_as_is(operand, multiplication)


def bytes_read(problem: MatmulProblem, scalars: Sequence[Scalar]) -> int:
    """Bytes of all inputs that some scalars read."""
    numbers = {load.input for scalar in scalars for load in loads(scalar)} - {problem.total.input}
    return sum(bound(problem.inputs[number].storage_bytes) for number in numbers)
