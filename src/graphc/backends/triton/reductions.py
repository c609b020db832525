"""Reductions and searches for the greatest or least inside an expression: loops that keep a result for each place.

What reduces a row of a block at once is in `graphc.backends.triton.rows`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from graphc.backends.element_types import compute_dtype
from graphc.backends.triton import element_types, scalar_ops
from graphc.backends.triton.indices import index_value, place
from graphc.backends.triton.scope import Code, Dims, Place, Scope, Value
from graphc.ir import Dim, dtypes, symbol
from graphc.ops.expr import REDUCE_IDENTITY, ArgReduce, Reduce, Scalar, children

UNROLL_REDUCTION = 27
"""Reductions of at most this many elements, those of a 3x3x3 window, are unrolled."""

UNROLLED_SCALARS = 600
"""Scalars of which unrolled elements may consist."""


class Site(Protocol):
    """A point of the kernel at which expressions are rendered.

    Attributes:
        code: The function under construction.
        scope: What is known there.
    """

    code: Code
    scope: Scope

    def visit(self, scalar: Scalar) -> Value:
        """The value of `scalar` there."""
        ...

    def tensor(self, scalar: Scalar) -> Value:
        """As `visit`, but no literal."""
        ...

    def at(self, scope: Scope) -> Site:
        """The same in another scope."""
        ...

    def where(self, condition: Value) -> Site:
        """The same where a condition holds; elsewhere nothing is read."""
        ...

    def dims_of(self, scalar: Scalar) -> Dims:
        """Dimensions of the block along which a scalar may differ."""
        ...


def identity_of(scalar: Reduce | ArgReduce) -> str:
    """The literal that changes nothing when it is combined with a body's value."""
    op = scalar.op if isinstance(scalar, Reduce) else scalar.op.removeprefix("arg")
    dtype = compute_dtype(scalar.body.dtype)
    return element_types.constant(REDUCE_IDENTITY[op](dtype), dtype).text


def reduce(site: Site, scalar: Reduce) -> Value:
    """The value of a reduction at every place of the block."""
    extents = [place(site.scope, axis.extent) for axis in scalar.axes]
    if not scalar.counts and all(isinstance(extent, int) for extent in extents):
        total = math.prod(extent for extent in extents if isinstance(extent, int))
        if total <= UNROLL_REDUCTION and total * _size(site, scalar.body) <= UNROLLED_SCALARS:
            return _unrolled(site, scalar, [int(extent) for extent in extents if isinstance(extent, int)])
    counts = [site.tensor(count) for count in scalar.counts]
    dims = site.dims_of(scalar).union(*(count.dims for count in counts))
    dtype = compute_dtype(scalar.dtype)
    code = site.code
    total_name = code.bind(
        f"tl.full({site.scope.shape(dims)}, {identity_of(scalar)}, {element_types.triton_name(dtype)})", "sum"
    )
    held = Value(total_name, dims)
    with ExitStack() as stack:
        places: dict[str, Place] = {}
        condition: Value | None = None
        for number, (axis, extent) in enumerate(zip(scalar.axes, extents, strict=True)):
            last = extent - 1 if isinstance(extent, int) else None
            end = _text(site, extent)
            index = code.name("r")
            if counts:
                limit = _clamped(site, counts[number], end)
                end = limit.text if not limit.dims else code.bind(f"tl.max({limit.text})", "n")
            stack.enter_context(code.block(f"for {index} in range(0, {end}):"))
            places[axis.name] = Place(index, 0, last)
            if counts and limit.dims:
                inside = Value(code.bind(f"{index} < {limit.text}", "m"), limit.dims)
                condition = inside if condition is None else _both(code, condition, inside)
        inner = site.at(site.scope.inner({name: symbol(f"{name}@") for name in places}, _renamed(places)))
        if condition is not None:
            inner = inner.where(condition)
        value = inner.visit(scalar.body)
        combined = scalar_ops.apply(code, scalar_ops.COMBINE[scalar.op], dtype, (held, value)).text
        if condition is not None:
            combined = f"tl.where({condition.text}, {code.bind(combined)}, {total_name})"
        code.emit(f"{total_name} = {combined}")
    return Value(total_name, dims, depth=value.depth)


def arg_reduce(site: Site, scalar: ArgReduce) -> Value:
    """The position of the greatest or least: walks the axis with the best so far and its position, at every place."""
    code = site.code
    extent = place(site.scope, scalar.axis.extent)
    dims = site.dims_of(scalar)
    dtype = compute_dtype(scalar.body.dtype)
    shape = site.scope.shape(dims)
    is_bool = dtype == dtypes.BOOL
    kept = "tl.uint8" if is_bool else element_types.triton_name(dtype)
    start = str(int(scalar.op == "argmin")) if is_bool else identity_of(scalar)
    best = code.bind(f"tl.full({shape}, {start}, {kept})", "best")
    at = code.bind(f"tl.full({shape}, 0, tl.int64)", "at")
    index = code.name("r")
    last = extent - 1 if isinstance(extent, int) else None
    with code.block(f"for {index} in range(0, {_text(site, extent)}):"):
        places = {scalar.axis.name: Place(index, 0, last)}
        inner = site.at(site.scope.inner({scalar.axis.name: symbol(f"{scalar.axis.name}@")}, _renamed(places)))
        value = inner.tensor(scalar.body)
        text = code.bind(f"{value.text}.to(tl.uint8)") if is_bool else value.text
        chosen = code.bind(beats(scalar, text, best, dtype.is_float), "m")
        code.emit(f"{best} = tl.where({chosen}, {text}, {best})")
        code.emit(f"{at} = tl.where({chosen}, tl.cast({index}, tl.int64), {at})")
    return Value(at, dims, depth=value.depth)


def beats(scalar: ArgReduce, value: str, best: str, is_float: bool) -> str:
    """Whether an element takes the lead; a NaN beats every number and keeps the lead."""
    sign = {"argmax": ">", "argmin": "<"}[scalar.op] + ("=" if scalar.last else "")
    better = f"{value} {sign} {best}"
    if not is_float:
        return better
    missing = f"({value} != {value})"
    return f"({better}) | {missing}" if scalar.last else f"({better}) | ({missing} & ({best} == {best}))"


def _unrolled(site: Site, scalar: Reduce, extents: Sequence[int]) -> Value:
    dtype = compute_dtype(scalar.dtype)
    result: Value | None = None
    for position in range(math.prod(extents)):
        bound: dict[str, Dim] = {}
        rest = position
        for axis, extent in zip(reversed(scalar.axes), reversed(extents), strict=True):
            rest, bound[axis.name] = divmod(rest, extent)
        value = site.at(site.scope.inner(bound)).visit(scalar.body)
        if result is not None:
            made = scalar_ops.apply(site.code, scalar_ops.COMBINE[scalar.op], dtype, (result, value))
            value = Value(site.code.bind(made.text), made.dims, depth=made.depth)
        result = value
    return Value(identity_of(scalar), literal=True) if result is None else result


def _size(site: Site, scalar: Scalar) -> int:
    """How many scalars there are to compute anew."""
    seen, stack = set[int](), [scalar]
    while stack:
        node = stack.pop()
        if id(node) not in seen and id(node) not in site.scope.values:
            seen.add(id(node))
            stack += children(node)
    return len(seen)


def _renamed(places: Mapping[str, Place]) -> dict[str, Place]:
    """Places by symbols that are no axes' names."""
    return {f"{name}@": known for name, known in places.items()}


def _clamped(site: Site, count: Value, extent: str) -> Value:
    """A count of the data's as one between nothing and all."""
    bounded = site.code.bind(f"tl.maximum(tl.minimum({count.text}, {extent}), 0).to(tl.int32)", "n")
    return Value(bounded, count.dims)


def _both(code: Code, left: Value, right: Value) -> Value:
    return Value(code.bind(f"{left.text} & {right.text}", "m"), left.dims | right.dims)


def _text(site: Site, extent: Dim) -> str:
    return index_value(site.code, site.scope, extent).text
