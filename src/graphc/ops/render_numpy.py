"""Tensor expressions rendered in NumPy: the executable form of the semantics that `graphc.ops.expr` states.

Every output axis and every reduction axis gets a dimension of its own in one broadcasting grid, so each scalar
operation is one vectorized NumPy call. Loads are checked: one that is not guarded by a `select` and leaves its tensor
is an error here, which makes this renderer the oracle for the bounds of every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from graphc.errors import ExecutionError
from graphc.ir import Dim, symbolic
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import SymbolicInt
from graphc.ops.base import Array
from graphc.ops.conversion import convert, working
from graphc.ops.expr import (
    REDUCE_IDENTITY,
    ArgReduce,
    Axis,
    Call,
    Cast,
    Const,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    Select,
    TensorExpr,
    children,
    reduction_axes,
    walk,
)

BLOCK = 1 << 21
"""Grid points (outputs times reduced elements) evaluated at once; bounds the memory of the temporaries."""


def evaluate_expression(
    expression: TensorExpr, inputs: Sequence[Array | None], bindings: Mapping[str, int] | None = None
) -> Array:
    """The tensor that `expression` describes.

    Arithmetic of 16-bit and narrower floats is carried out in float32 and rounded at casts and at the end.

    Args:
        expression: What to evaluate.
        inputs: Arrays by the numbers that loads use; None where no load reads.
        bindings: Values of the symbols in extents and indices, output and reduction axes aside.

    Raises:
        ExecutionError: A load that is evaluated lies outside its tensor.
        OptionError: A symbol has no binding.
    """
    bound = dict(bindings or {})
    shape = tuple(symbolic.evaluate(axis.extent, bound) for axis in expression.axes)
    reductions = reduction_axes(expression.body)
    extents = {axis.name: symbolic.evaluate(axis.extent, bound) for axis in reductions}
    result = np.empty(shape, dtype=expression.dtype.numpy)
    extents.update(_counted_extents(expression, shape, bound, inputs))
    depth = _reduced_points(expression.body, extents)
    for block in _blocks(tuple((0, extent) for extent in shape), max(1, BLOCK // max(1, depth))):
        window = tuple(slice(low, high) for low, high in block)
        grid = _Grid(expression.axes, block, reductions, extents, bound, inputs)
        with np.errstate(all="ignore"):
            found = grid.visit(expression.body, None).astype(expression.dtype.numpy, copy=False)
        result[window] = np.broadcast_to(grid.trim(found), result[window].shape)
    return result


def erf(x: Array) -> Array:
    """The error function, exact to the rounding of float64 and of `x`'s type."""
    flat = np.fromiter(map(math.erf, x.reshape(-1).tolist()), np.float64, count=x.size)
    return flat.astype(x.dtype).reshape(x.shape)


def truncated_division(left: Array, right: Array) -> Array:
    """Integer quotient rounded toward zero; 0 where the divisor is 0."""
    quotient = np.floor_divide(left, right)
    inexact = (np.remainder(left, right) != 0) & ((left < 0) != (right < 0))
    return np.where(inexact, quotient + quotient.dtype.type(1), quotient)


def _reduced_points(body: Scalar, extents: Mapping[str, int]) -> int:
    """The largest number of points that nested reductions visit for one output."""
    points: dict[int, int] = {}
    for node in walk(body):
        inner = max((points[id(child)] for child in children(node)), default=1)
        if isinstance(node, Reduce):
            inner *= math.prod(extents[axis.name] for axis in node.axes)
        elif isinstance(node, ArgReduce):
            inner *= extents[node.axis.name]
        points[id(node)] = inner
    return points[id(body)]


def _counted_extents(
    expression: TensorExpr, shape: Sequence[int], bindings: Mapping[str, int], inputs: Sequence[Array | None]
) -> dict[str, int]:
    """How far the data lets the reduction axes run that have counts, at the most."""
    found: dict[str, int] = {}
    ragged = [node for node in walk(expression.body) if isinstance(node, Reduce) and node.counts]
    for node in ragged if math.prod(shape) else ():
        grid = _Grid(expression.axes, [(0, extent) for extent in shape], (), {}, bindings, inputs)
        for axis, count in zip(node.axes, node.counts, strict=True):
            limit = symbolic.evaluate(axis.extent, bindings)
            with np.errstate(all="ignore"):
                found[axis.name] = min(max(int(grid.visit(count, None).max()), 0), limit)
    return found | {axis.name: 0 for node in ragged for axis in node.axes if axis.name not in found}


def _blocks(window: tuple[tuple[int, int], ...], limit: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Parts of `window` with at most `limit` points each, halving the longest axis; nothing for an empty window."""
    lengths = [high - low for low, high in window]
    if math.prod(lengths) <= limit:
        if math.prod(lengths):
            yield window
        return
    axis = max(range(len(lengths)), key=lengths.__getitem__)
    low, high = window[axis]
    middle = (low + high) // 2
    for part in ((low, middle), (middle, high)):
        yield from _blocks((*window[:axis], part, *window[axis + 1 :]), limit)


class _Grid:
    """One block of outputs: index values of every axis as arrays that broadcast against each other."""

    def __init__(
        self,
        axes: Sequence[Axis],
        block: Sequence[tuple[int, int]],
        reductions: Sequence[Axis],
        extents: Mapping[str, int],
        bindings: Mapping[str, int],
        inputs: Sequence[Array | None],
    ) -> None:
        self.rank = len(axes)
        self.ndim = self.rank + len(reductions)
        self.extents = extents
        self.inputs = inputs
        self.places = {axis.name: self.rank + i for i, axis in enumerate(reductions)}
        self.symbols: dict[str, Array] = {name: np.asarray(value, np.int64) for name, value in bindings.items()}
        for position, (axis, (low, high)) in enumerate(zip(axes, block, strict=True)):
            self.symbols[axis.name] = self._along(position, np.arange(low, high))
        for axis in reductions:
            self.symbols[axis.name] = self._along(self.places[axis.name], np.arange(extents[axis.name]))
        self._indices: dict[Dim, Array] = {}
        self._done: dict[tuple[int, int], Array] = {}
        self._masks: list[Array] = []

    def trim(self, array: Array) -> Array:
        """A result without the (all reduced) dimensions of reduction axes."""
        return array.reshape(array.shape[: self.rank]) if array.ndim == self.ndim else array

    def visit(self, node: Scalar, mask: Array | None) -> Array:
        """Value of `node` at every point of the grid; only those where `mask` holds matter."""
        key = (id(node), 0 if mask is None or isinstance(node, Const | IndexValue) else id(mask))
        found = self._done.get(key)
        if found is None:
            found = self._done[key] = self._compute(node, mask)
        return found

    def _compute(self, node: Scalar, mask: Array | None) -> Array:
        match node:
            case Const(dtype=dtype, value=value):
                return np.asarray(value, dtype=dtype.numpy).astype(working(dtype))
            case IndexValue(index=index):
                return self.index(index)
            case Load():
                return self._load(node, mask)
            case Call(op=op, arguments=arguments):
                return _apply(op, node.dtype, [self.visit(argument, mask) for argument in arguments])
            case Select(condition=condition, then=then, otherwise=otherwise):
                return self._select(self.visit(condition, mask), then, otherwise, mask)
            case Cast():
                found = convert(
                    self.visit(node.value, mask), node.dtype, saturate=node.saturate, rounding=node.rounding
                )
                return found.astype(working(node.dtype), copy=False)
            case Reduce(op=op, axes=axes, body=body, counts=()):
                return self._reduce(op, node.dtype, axes, self.visit(body, mask))
            case Reduce():
                return self._reduce_counted(node, mask)
            case ArgReduce():
                return self._arg_reduce(node, self.visit(node.body, mask))
        raise AssertionError(f"unknown scalar {node!r}")

    def index(self, value: Dim) -> Array:
        """An index expression at every point of the grid."""
        if isinstance(value, int):
            return np.asarray(value, np.int64)
        found = self._indices.get(value)
        if found is None:
            found = self._indices[value] = self._polynomial(value)
        return found

    def _polynomial(self, value: SymbolicInt) -> Array:
        total = np.asarray(0, np.int64)
        for monomial, coefficient in value.terms:
            term = np.asarray(coefficient, np.int64)
            for atom in monomial:
                if atom.op == "symbol":
                    factor = self.symbols[atom.name]
                else:
                    left, right = map(self._polynomial, atom.arguments)
                    factor = _ATOMS[atom.op](left, right)
                term = np.asarray(term * factor)
            total = np.asarray(total + term)
        return total

    def _load(self, node: Load, mask: Array | None) -> Array:
        source = self.inputs[node.input]
        assert source is not None, f"input {node.input} is absent"
        places = []
        for axis, index in enumerate(node.indices):
            place = self.visit(index, mask).astype(np.int64) if isinstance(index, Scalar) else self.index(index)
            outside = (place < 0) | (place >= source.shape[axis])
            if outside.any():
                wrong = outside if mask is None else outside & mask
                if wrong.any():
                    raise ExecutionError(
                        f"index out of range: reads {_first(place, wrong)} of axis {axis} with extent"
                        f" {source.shape[axis]} of input {node.input}"
                    )
                place = np.clip(place, 0, max(0, source.shape[axis] - 1))
            places.append(place)
        if source.size == 0:
            shape = np.broadcast_shapes(*(place.shape for place in places))
            return np.zeros(shape, dtype=working(node.dtype))
        return np.asarray(source[tuple(places)]).astype(working(node.dtype), copy=False)

    def _select(self, condition: Array, then: Scalar, otherwise: Scalar, mask: Array | None) -> Array:
        if condition.all():
            return self.visit(then, mask)
        if not condition.any():
            return self.visit(otherwise, mask)
        return np.where(
            condition,
            self.visit(then, self._narrowed(mask, condition)),
            self.visit(otherwise, self._narrowed(mask, ~condition)),
        )

    def _narrowed(self, mask: Array | None, condition: Array) -> Array:
        narrowed = condition if mask is None else mask & condition
        self._masks.append(narrowed)  # Kept alive: results are remembered by the identity of their mask.
        return narrowed

    def _spread(self, array: Array, axes: Sequence[Axis]) -> Array:
        """`array` with all dimensions of the grid, full along `axes`."""
        full = array.reshape((1,) * (self.ndim - array.ndim) + array.shape)
        shape = list(full.shape)
        for axis in axes:
            shape[self.places[axis.name]] = self.extents[axis.name]
        return np.broadcast_to(full, shape)

    def _reduce(self, op: str, dtype: DType, axes: Sequence[Axis], body: Array) -> Array:
        places = tuple(self.places[axis.name] for axis in axes)
        spread = self._spread(body, axes)
        # A float32 sum is formed in float64: the order of summation must not show in an oracle.
        wide = np.dtype(np.float64) if op in ("sum", "prod") and dtype.is_float else spread.dtype
        identity = np.asarray(REDUCE_IDENTITY[op](dtype)).astype(wide)
        reduced = _REDUCTIONS[op].reduce(spread.astype(wide, copy=False), axis=places, keepdims=True, initial=identity)
        return _held(np.asarray(reduced), dtype)

    def _reduce_counted(self, node: Reduce, mask: Array | None) -> Array:
        """A reduction of which each output takes as many elements as its own counts say."""
        inside = np.ones((), np.bool_)
        for axis, count in zip(node.axes, node.counts, strict=True):
            inside = inside & (self.symbols[axis.name] < self.visit(count, mask))
        identity = np.asarray(REDUCE_IDENTITY[node.op](node.dtype)).astype(working(node.dtype))
        body = np.where(inside, self.visit(node.body, self._narrowed(mask, inside)), identity)
        return self._reduce(node.op, node.dtype, node.axes, body)

    def _arg_reduce(self, node: ArgReduce, body: Array) -> Array:
        place = self.places[node.axis.name]
        extent = self.extents[node.axis.name]
        if extent == 0:
            raise ExecutionError(f"{node.op} over an axis without elements")
        spread = self._spread(body, [node.axis])
        find = np.argmax if node.op == "argmax" else np.argmin
        if node.last:
            return np.asarray(extent - 1 - find(np.flip(spread, place), axis=place, keepdims=True))
        return np.asarray(find(spread, axis=place, keepdims=True))

    def _along(self, position: int, values: Array) -> Array:
        return values.astype(np.int64).reshape([-1 if i == position else 1 for i in range(self.ndim)])


def _first(places: Array, wrong: Array) -> int:
    spread = np.broadcast_to(places, np.broadcast_shapes(places.shape, wrong.shape))
    return int(spread[np.broadcast_to(wrong, spread.shape)].flat[0])


def _held(array: Array, dtype: DType) -> Array:
    """`array` in the working type of `dtype`: integers wrapped to their width, narrow floats not rounded."""
    held = array.astype(working(dtype), copy=False)
    return held if dtype.is_float or held.dtype == dtype.numpy else held.astype(dtype.numpy).astype(held.dtype)


def _apply(op: str, dtype: DType, arguments: Sequence[Array]) -> Array:
    first = arguments[0]
    if op in _ROUNDINGS and first.dtype.kind in "iu":
        return first
    result = np.asarray(_CALLS[op](*arguments))
    if dtype.kind == "bool":
        return result.astype(np.bool_, copy=False)
    return _held(result, dtype)


def _divide(left: Array, right: Array) -> Array:
    return truncated_division(left, right) if left.dtype.kind in "iu" else np.divide(left, right)


def _power(left: Array, right: Array) -> Array:
    if left.dtype.kind in "iu":
        return np.power(left.astype(np.float64), right.astype(np.float64))
    return np.power(left, right)


def _sigmoid(x: Array) -> Array:
    one = x.dtype.type(1)
    return np.asarray(one / (one + np.exp(-x)))


_ROUNDINGS = frozenset({"floor", "ceil", "round", "trunc"})
_ATOMS: Mapping[str, Callable[[Array, Array], Array]] = {
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "min": np.minimum,
    "max": np.maximum,
}
_REDUCTIONS: Mapping[str, np.ufunc] = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "any": np.logical_or,
    "all": np.logical_and,
}
_CALLS: Mapping[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "fmod": np.fmod,
    "pow": _power,
    "atan2": np.arctan2,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x.dtype.type(1) / np.sqrt(x),
    "reciprocal": lambda x: x.dtype.type(1) / x,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sigmoid": _sigmoid,
    "erf": erf,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "isfinite": np.isfinite,
}
