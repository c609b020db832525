"""Tensor expressions: what each element of an output is, as a scalar expression over loads of the inputs.

    y = TensorExpr(shape, dtype, axes, body)      means      y[axes] = body        for every index in shape

`axes` are named index symbols, one per output axis. `body` is a `Scalar`: constants, index values, loads of inputs at
index expressions (quasi-affine `Dim`s over the axes, or scalars computed from other loads, a gather), arithmetic,
selection and reductions over further axes. Every backend renders this one form; `graphc.ops.evaluate` renders it in
NumPy.

Semantics, defined here once:

- Integers wrap around at their width. `div` of integers truncates toward zero, `floordiv` rounds toward minus infinity,
  `mod` takes the sign of the divisor (Python's `%`), `fmod` that of the dividend (C's). An integer division by zero
  gives 0; it never traps.
- `min` and `max` propagate NaN. Comparisons with NaN are false, except `ne`.
- `select` is lazy: a load in the branch that is not taken may lie outside its tensor and has no effect. That is how
  padding and concatenation are written.
- A cast between integers wraps. A cast from float to integer truncates toward zero into int32 (from there it wraps into
  8 and 16 bits and less) or, for uint32 and 64-bit types, into int64; NaN and what lies outside gives the lowest of
  those two. The upper half of uint64 is reached too. That is what C compiled for x86-64 does, and NumPy there.
- A cast to a narrower float rounds to nearest, ties to even; float64 reaches bfloat16 and narrower types by way of
  float32. Beyond the range it gives infinity, or NaN in a type without, or the largest number in a type with neither.
- Arithmetic in float16 and bfloat16 is carried out in float32 and rounded after each operation only where the operator
  says so; a renderer may keep the wider value inside one fused region.
- A reduction over an empty range gives its identity.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import Dim, substitute, symbol

Index: TypeAlias = "Dim | Scalar"
"""Where a load reads along one axis: a quasi-affine index expression, or a computed integer scalar (a gather)."""

ScaleRounding: TypeAlias = Literal["up", "down", "nearest"]
"""How a number becomes a power of two (float8_e8m0fnu): away from zero, toward zero, or the nearest, ties up."""


@dataclass(frozen=True, eq=False)
class Scalar:
    """Base of scalar expressions; an immutable DAG whose shared nodes mean one evaluation."""

    dtype: DType


@dataclass(frozen=True, eq=False)
class Const(Scalar):
    """A number of type `dtype`."""

    value: int | float | bool | complex


@dataclass(frozen=True, eq=False)
class IndexValue(Scalar):
    """The value of an index expression, as an int64 scalar."""

    index: Dim


@dataclass(frozen=True, eq=False)
class Load(Scalar):
    """Element of input number `input` at `indices`, one per logical axis.

    A computed index (`Scalar`) must lie in range: the operator wraps negative ones first; backends check or clamp
    according to `checked`.
    """

    input: int
    indices: tuple[Index, ...]
    checked: bool = False
    """Whether a computed index out of range must be reported as an error of the step (Gather), never read."""


@dataclass(frozen=True, eq=False)
class Call(Scalar):
    """`op` of SCALAR_OPS applied to arguments."""

    op: str
    arguments: tuple[Scalar, ...]


@dataclass(frozen=True, eq=False)
class Select(Scalar):
    """`then` where `condition` (bool) holds, else `otherwise`; only the chosen branch is evaluated."""

    condition: Scalar
    then: Scalar
    otherwise: Scalar


@dataclass(frozen=True, eq=False)
class Cast(Scalar):
    """`value` converted to `dtype`."""

    value: Scalar
    saturate: bool = False
    """Whether what lies beyond the range of an 8-bit float becomes its largest number."""
    rounding: ScaleRounding = "nearest"
    """How a number becomes a power of two (float8_e8m0fnu)."""


@dataclass(frozen=True)
class Axis:
    """A named index symbol that runs over `0 <= symbol < extent`."""

    name: str
    extent: Dim

    @property
    def index(self) -> Dim:
        """The axis as an index expression."""
        return symbol(self.name)


@dataclass(frozen=True, eq=False)
class Reduce(Scalar):
    """`op` (`sum`, `prod`, `min`, `max`, `any`, `all`) of `body` over `axes`.

    Where there are `counts`, one int64 for each axis, the data decides how far it runs: over `0 <= symbol < count`, at
    most the axis's extent and not at all for a negative count. Counts depend on no reduction axis; `body` outside of
    them is not evaluated.
    """

    op: str
    axes: tuple[Axis, ...]
    body: Scalar
    counts: tuple[Scalar, ...] = ()


@dataclass(frozen=True, eq=False)
class ArgReduce(Scalar):
    """Position (int64) along the one axis of the largest (`argmax`) or smallest (`argmin`) `body`.

    Ties go to the first, or to the last with `last`; a NaN wins over every number, as in NumPy.
    """

    op: str
    axis: Axis
    body: Scalar
    last: bool = False


@dataclass(frozen=True, eq=False)
class TensorExpr:
    """One output as a function of its index.

    Args:
        axes: One per logical output axis; their extents are the shape.
        body: The element at the axes' index; its dtype is the output's.
    """

    axes: tuple[Axis, ...]
    body: Scalar

    @property
    def dtype(self) -> DType:
        """Element type of the output."""
        return self.body.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Logical extents of the output."""
        return tuple(axis.extent for axis in self.axes)


@dataclass(frozen=True)
class ScalarOp:
    """Facts of a scalar operation that all renderers share.

    Args:
        arity: Number of arguments.
        result: `same` as the first argument's dtype, or `bool`.
        cost: Rough flops of one application, for cost models.
    """

    arity: int
    result: str = "same"
    cost: int = 1


SCALAR_OPS: dict[str, ScalarOp] = {
    **{name: ScalarOp(2) for name in ("add", "sub", "mul", "min", "max", "and", "or", "xor", "shl", "shr")},
    **{name: ScalarOp(2, cost=8) for name in ("div", "floordiv", "mod", "fmod")},
    **{name: ScalarOp(2, cost=40) for name in ("pow", "atan2")},
    **{name: ScalarOp(2, result="bool") for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: ScalarOp(1) for name in ("neg", "abs", "not", "sign", "floor", "ceil", "round", "trunc")},
    **{name: ScalarOp(1, cost=8) for name in ("sqrt", "rsqrt", "reciprocal")},
    **{
        name: ScalarOp(1, cost=20)
        for name in (
            *("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan"),
            *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf"),
        )
    },
    **{name: ScalarOp(1, result="bool") for name in ("isnan", "isinf", "isfinite")},
}
"""Every scalar operation. `and`, `or`, `xor`, `not` are bitwise on integers and logical on bool; `shr` is logical on
unsigned and arithmetic on signed integers; a shift by the width or more, or by less than 0, gives 0 (or the sign).
`round` is half to even. `sign` of NaN is NaN. `reciprocal` and `rsqrt` are exact divisions, never approximations."""

REDUCE_IDENTITY: dict[str, Callable[[DType], int | float | bool]] = {
    "sum": lambda dtype: 0,
    "prod": lambda dtype: 1,
    "max": lambda dtype: lowest(dtype),
    "min": lambda dtype: highest(dtype),
    "any": lambda dtype: False,
    "all": lambda dtype: True,
}


def lowest(dtype: DType) -> int | float | bool:
    """The identity of `max`: minus infinity, the least integer, or False."""
    if dtype.is_float:
        return float("-inf")
    if dtype.kind == "bool":
        return False
    return -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0


def highest(dtype: DType) -> int | float | bool:
    """The identity of `min`: infinity, the greatest integer, or True."""
    if dtype.is_float:
        return float("inf")
    if dtype.kind == "bool":
        return True
    return (1 << (dtype.bits - (dtype.kind == "int"))) - 1


def const(value: int | float | bool | complex, dtype: DType) -> Const:
    """A constant of type `dtype`."""
    if isinstance(value, complex) or dtype.kind == "complex":
        return Const(dtype, complex(value))
    if dtype.kind == "bool":
        return Const(dtype, bool(value))
    return Const(dtype, float(value) if dtype.is_float else int(value))


def call(op: str, *arguments: Scalar) -> Call:
    """Applies a scalar operation; the first argument's dtype decides the result's unless it is a predicate."""
    facts = SCALAR_OPS[op]
    assert len(arguments) == facts.arity, f"{op} takes {facts.arity} arguments, not {len(arguments)}"
    kinds = {argument.dtype for argument in arguments}
    assert len(kinds) == 1, f"{op} of mixed dtypes {kinds}"
    return Call(dtypes.BOOL if facts.result == "bool" else arguments[0].dtype, op, arguments)


def select(condition: Scalar, then: Scalar, otherwise: Scalar) -> Scalar:
    """Lazy choice between two scalars of one dtype."""
    assert condition.dtype == dtypes.BOOL and then.dtype == otherwise.dtype, (condition, then, otherwise)
    return Select(then.dtype, condition, then, otherwise)


def cast(value: Scalar, dtype: DType, *, saturate: bool = False, rounding: ScaleRounding = "nearest") -> Scalar:
    """Conversion; nothing where the dtype is right already."""
    return value if value.dtype == dtype else Cast(dtype, value, saturate, rounding)


def index_value(index: Index) -> Scalar:
    """An index as an int64 scalar."""
    return cast(index, dtypes.INT64) if isinstance(index, Scalar) else IndexValue(dtypes.INT64, index)


def load(input: int, dtype: DType, indices: Sequence[Index], *, checked: bool = False) -> Load:
    """Element of an input."""
    return Load(dtype, input, tuple(indices), checked)


def reduce(op: str, axes: Sequence[Axis], body: Scalar, counts: Sequence[Scalar] = ()) -> Scalar:
    """Reduction over `axes`, as far as `counts` say if there are any; the body itself where there are no axes."""
    assert len(counts) in (0, len(axes)), "a count for each axis"
    return Reduce(body.dtype, op, tuple(axes), body, tuple(counts)) if axes else body


def compare(op: str, left: Index, right: Index) -> Scalar:
    """Predicate over index values, e.g. `compare("lt", i, n)`."""
    return call(op, index_value(left), index_value(right))


def all_of(*conditions: Scalar) -> Scalar:
    """Conjunction of one or more predicates."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = call("and", result, condition)
    return result


_counter = itertools.count()


def axes_of(shape: Sequence[Dim], prefix: str = "i") -> tuple[Axis, ...]:
    """Axes with fresh names over `shape`."""
    return tuple(Axis(f"{prefix}${next(_counter)}", extent) for extent in shape)


def children(scalar: Scalar) -> tuple[Scalar, ...]:
    """Direct subexpressions, computed indices of a load among them."""
    match scalar:
        case Call(arguments=arguments):
            return arguments
        case Select(condition=condition, then=then, otherwise=otherwise):
            return (condition, then, otherwise)
        case Cast(value=value):
            return (value,)
        case Load(indices=indices):
            return tuple(index for index in indices if isinstance(index, Scalar))
        case Reduce(body=body, counts=counts):
            return (*counts, body)
        case ArgReduce(body=body):
            return (body,)
    return ()


def transform(scalar: Scalar, leaf: Callable[[Scalar], Scalar | None], axes: Mapping[str, Dim]) -> Scalar:
    """A copy with index symbols replaced by `axes`, and with every node for which `leaf` answers a scalar replaced.

    Shared subexpressions stay shared. `leaf` sees nodes after their indices were replaced; answering None keeps them.
    """
    done: dict[int, Scalar] = {}

    def index(value: Index) -> Index:
        return visit(value) if isinstance(value, Scalar) else substitute(value, axes)

    def visit(node: Scalar) -> Scalar:
        found = done.get(id(node))
        if found is None:
            rebuilt = rebuild(node)
            found = leaf(rebuilt) or rebuilt
            done[id(node)] = found
        return found

    def rebuild(node: Scalar) -> Scalar:
        match node:
            case Const():
                return node
            case IndexValue(dtype=dtype, index=value):
                return IndexValue(dtype, substitute(value, axes))
            case Load(dtype=dtype, input=number, indices=indices, checked=checked):
                return Load(dtype, number, tuple(index(i) for i in indices), checked)
            case Call(dtype=dtype, op=op, arguments=arguments):
                return Call(dtype, op, tuple(visit(a) for a in arguments))
            case Select(dtype=dtype, condition=condition, then=then, otherwise=otherwise):
                return Select(dtype, visit(condition), visit(then), visit(otherwise))
            case Cast(value=value):
                return replace(node, value=visit(value))
            case Reduce(dtype=dtype, op=op, axes=inner, body=body, counts=counts):
                return Reduce(dtype, op, _bind(inner), visit(body), tuple(visit(count) for count in counts))
            case ArgReduce(dtype=dtype, op=op, axis=axis, body=body, last=last):
                return ArgReduce(dtype, op, _bind((axis,))[0], visit(body), last)
        raise AssertionError(f"unknown scalar {node!r}")

    def _bind(inner: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(Axis(axis.name, substitute(axis.extent, axes)) for axis in inner)

    return visit(scalar)


def rename_reductions(scalar: Scalar) -> Scalar:
    """A copy whose reduction axes have fresh names, so that one expression can be inlined twice."""
    names: dict[str, Dim] = {}
    fresh: dict[str, Axis] = {}
    for axis in reduction_axes(scalar):
        (new,) = axes_of([axis.extent], "r")
        names[axis.name], fresh[axis.name] = new.index, new

    def rebind(node: Scalar) -> Scalar | None:
        match node:
            case Reduce(dtype=dtype, op=op, axes=axes, body=body, counts=counts):
                return Reduce(dtype, op, tuple(Axis(fresh[a.name].name, a.extent) for a in axes), body, counts)
            case ArgReduce(dtype=dtype, op=op, axis=axis, body=body, last=last):
                return ArgReduce(dtype, op, Axis(fresh[axis.name].name, axis.extent), body, last)
        return None

    return transform(scalar, rebind, names) if names else scalar


def reduction_axes(scalar: Scalar) -> tuple[Axis, ...]:
    """Axes bound by reductions anywhere inside."""
    found: dict[str, Axis] = {}
    for node in walk(scalar):
        if isinstance(node, Reduce):
            found.update((axis.name, axis) for axis in node.axes)
        elif isinstance(node, ArgReduce):
            found[node.axis.name] = node.axis
    return tuple(found.values())


def walk(scalar: Scalar) -> list[Scalar]:
    """Every node of the DAG once, operands before users."""
    seen: set[int] = set()
    order: list[Scalar] = []
    stack: list[tuple[Scalar, bool]] = [(scalar, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(children(node)) if id(child) not in seen)
    return order


def loads(scalar: Scalar) -> list[Load]:
    """Every load of the DAG once."""
    return [node for node in walk(scalar) if isinstance(node, Load)]
