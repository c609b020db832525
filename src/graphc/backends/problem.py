"""What one kernel computes: scalars over a set of axes, and the same over fewer axes where that is possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphc.backends.regions import Expander
from graphc.backends.windows import Window
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Layout, TensorType
from graphc.ir.dtypes import COMPLEX128
from graphc.ir.symbolic import linear_coefficient, minimum, multiply, product, symbols
from graphc.ops.expr import ArgReduce, Axis, Call, IndexValue, Load, Reduce, Scalar, axes_of, children, transform, walk


@dataclass(frozen=True)
class Problem:
    """What one kernel computes.

    Args:
        axes: Logical axes shared by all outputs.
        elements: The element of each output at the axes.
        inputs: Types of the numbered inputs.
        outputs: Types of the outputs.
        windows: The stretch of each axis that is computed, by its name; all of an axis that is not there.
        block: Lanes in which the first output's blocked axis is walked; the layout's block if None.
    """

    axes: tuple[Axis, ...]
    elements: tuple[Scalar, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    windows: Mapping[str, Window] = field(default_factory=dict)
    block: int | None = None

    def scalars(self) -> list[Scalar]:
        """Every scalar of every output once."""
        return list({id(s): s for element in self.elements for s in walk(element)}.values())


def build_problem(body: Graph, numbers: Sequence[int] | None = None) -> Problem:
    """Outputs of a body as scalars over one set of axes.

    Args:
        body: The body.
        numbers: Which outputs, all of one shape and layout; every one if None.

    Raises:
        BackendError: They differ in shape or layout.
    """
    outputs = [body.outputs[number] for number in (range(len(body.outputs)) if numbers is None else numbers)]
    shapes = {(value.tensor_type.dims, value.tensor_type.layout) for value in outputs}
    if len(shapes) != 1:
        kinds = sorted(str(value.type) for value in outputs)
        raise BackendError(f"one loop nest cannot write outputs of types {', '.join(kinds)}")
    expander = Expander(body)
    axes = axes_of(outputs[0].tensor_type.dims)
    index = [axis.index for axis in axes]
    return Problem(
        axes,
        tuple(expander.element(value, index) for value in outputs),
        tuple(value.tensor_type for value in body.inputs),
        tuple(value.tensor_type for value in outputs),
    )


def groups_of(body: Graph) -> list[list[int]]:
    """Numbers of a body's outputs, those together that are stored alike: one nest computes what they share once."""
    groups: dict[tuple[tuple[Dim, ...], Layout, bool], list[int]] = {}
    for number, value in enumerate(body.outputs):
        kind = value.tensor_type
        groups.setdefault((kind.dims, kind.layout, kind.dtype == COMPLEX128), []).append(number)
    return list(groups.values())


@dataclass
class Work:
    """What computing a problem takes.

    Args:
        operations: Arithmetic operations: one for each call of a scalar function and each element of a reduction.
        reads: Elements read of each input, by its number, each occurrence counted; an upper bound of what is fetched.
    """

    operations: Dim = 0
    reads: dict[int, Dim] = field(default_factory=dict)


def work_of(problem: Problem) -> Work:
    """Counts a problem's work: each scalar is computed once for each place along the axes that it depends on."""
    work, free = Work(), FreeSymbols(problem.elements)
    scalars = problem.scalars()
    extents = {axis.name: axis.extent for axis in (*problem.axes, *(a for s in scalars for a in _reduced(s)))}
    for scalar in scalars:
        within = {axis.name for axis in _reduced(scalar)}
        times = product([extents[name] for name in sorted(free[scalar] | within) if name in extents])
        if isinstance(scalar, Load):
            work.reads[scalar.input] = work.reads.get(scalar.input, 0) + times
        elif isinstance(scalar, Call | Reduce | ArgReduce):
            work.operations = work.operations + times
    return work


def _reduced(scalar: Scalar) -> tuple[Axis, ...]:
    """Axes that a scalar runs over itself."""
    match scalar:
        case Reduce(axes=axes):
            return axes
        case ArgReduce(axis=axis):
            return (axis,)
    return ()


def touched_of(body: Graph, works: Iterable[Work]) -> dict[int, Dim]:
    """Bytes read of each of a body's inputs: a gather touches a few rows of a table, a slice a part of its input."""
    reads: dict[int, Dim] = {}
    for work in works:
        reads = {number: reads.get(number, 0) + work.reads.get(number, 0) for number in {*reads, *work.reads}}
    return {
        number: minimum(
            value.tensor_type.storage_bytes, multiply(reads.get(number, 0), value.tensor_type.dtype.itemsize)
        )
        for number, value in enumerate(body.inputs)
    }


def merged(problem: Problem, *, inner: int = 0) -> Problem:
    """The same computation over fewer axes: adjacent ones that all operands walk in step become one.

    Args:
        problem: What is computed.
        inner: How many of the innermost axes, in the order of storage, stay by themselves.
    """
    problem = _without_units(in_storage_order(_flat_blocks(problem)))
    position = 0
    while position + 1 < len(problem.axes) - inner:
        joined = _merge(problem, position)
        if joined is None:
            position += 1
        else:
            problem = joined
    return problem


def in_storage_order(problem: Problem) -> Problem:
    """The same computation with every tensor that only has its axes in another order (NHWC) as a row-major one.

    Where all outputs are stored in one order, the axes are in that order too.
    """
    orders = [_order(kind) for kind in problem.inputs]
    order = _order(problem.outputs[0])
    same = order is not None and all(_order(kind) == order for kind in problem.outputs)
    if not any(orders) and not same:
        return problem

    def permute(scalar: Scalar) -> Scalar | None:
        if isinstance(scalar, Load) and (found := orders[scalar.input]) is not None:
            return replace(scalar, indices=tuple(scalar.indices[axis] for axis in found))
        return None

    problem = replace(
        problem,
        elements=tuple(transform(element, permute, {}) for element in problem.elements),
        inputs=tuple(map(_permuted, problem.inputs, orders)),
    )
    if not same or order is None:
        return problem
    axes = tuple(problem.axes[axis] for axis in order)
    return replace(problem, axes=axes, outputs=tuple(_permuted(kind, order) for kind in problem.outputs))


def _order(kind: TensorType) -> tuple[int, ...] | None:
    """The order of the axes in storage, where that is all that a layout says."""
    layout = kind.layout
    return layout.order if layout.order and layout == Layout(order=layout.order) else None


def _permuted(kind: TensorType, order: tuple[int, ...] | None) -> TensorType:
    return kind if order is None else TensorType(kind.dtype, tuple(kind.dims[axis] for axis in order))


def _flat_blocks(problem: Problem) -> Problem:
    """Where all tensors share one halo-free layout and are read where they are written, storage is one flat axis."""
    layout = problem.outputs[0].layout
    names = [str(axis.index) for axis in problem.axes]
    whole = layout.blocked_axis is not None and not layout.halo
    if whole:
        extent = problem.axes[layout.blocked_axis or 0].extent
        whole = isinstance(extent, int) and extent % layout.block == 0
    same = all(t.layout == layout and t.shape == problem.outputs[0].shape for t in problem.outputs)
    for scalar in problem.scalars():
        if isinstance(scalar, IndexValue | Reduce | ArgReduce):
            same = False
        if isinstance(scalar, Load):
            source = problem.inputs[scalar.input]
            scalar_input = source.numel == 1
            identity = source.layout == layout and [str(i) for i in scalar.indices] == names
            same = same and (identity or scalar_input)
    if not (whole and same):
        return problem
    flat = Axis(problem.axes[0].name, layout.storage_size(problem.outputs[0].dims))

    def relabel(scalar: Scalar) -> Scalar | None:
        if isinstance(scalar, Load) and problem.inputs[scalar.input].numel != 1:
            return replace(scalar, indices=(flat.index,))
        return None

    return Problem(
        (flat,),
        tuple(transform(element, relabel, {}) for element in problem.elements),
        tuple(t if t.numel == 1 else t.with_shape([flat.extent]) for t in problem.inputs),
        tuple(t.with_shape([flat.extent]) for t in problem.outputs),
    )


def _without_units(problem: Problem) -> Problem:
    """The same computation without output axes of extent 1, so that the innermost axis is one worth a vector."""
    if not all(t.layout.is_row_major for t in problem.outputs):
        return problem
    kept = [position for position, axis in enumerate(problem.axes) if axis.extent != 1]
    zero: dict[str, Dim] = {axis.name: 0 for axis in problem.axes if axis.extent == 1}
    if not zero or not kept:
        return problem
    return Problem(
        tuple(problem.axes[position] for position in kept),
        tuple(transform(element, lambda scalar: None, zero) for element in problem.elements),
        problem.inputs,
        tuple(t.with_shape([t.dims[position] for position in kept]) for t in problem.outputs),
    )


def _merge(problem: Problem, position: int) -> Problem | None:
    """Axes `position` and `position + 1` as one, or None where some operand does not walk them in step."""
    outer, inner = problem.axes[position], problem.axes[position + 1]
    if not all(t.layout.is_row_major for t in problem.outputs):
        return None
    joined = Axis(inner.name, multiply(outer.extent, inner.extent))
    places: dict[int, int | None] = {}
    for scalar in problem.scalars():
        if isinstance(scalar, IndexValue) and not _in_step(scalar.index, outer, inner):
            return None
        if isinstance(scalar, Load):
            at = _pair_position(scalar, problem.inputs[scalar.input], outer, inner)
            if at == -1 or places.setdefault(scalar.input, at) != at:
                return None
        if isinstance(scalar, Reduce) and any(symbols(a.extent) & {outer.name, inner.name} for a in scalar.axes):
            return None

    def relabel(scalar: Scalar) -> Scalar | None:
        if isinstance(scalar, Load) and (at := places[scalar.input]) is not None:
            return replace(scalar, indices=(*scalar.indices[:at], joined.index, *scalar.indices[at + 2 :]))
        return None

    def join(type_: TensorType, at: int | None) -> TensorType:
        if at is None:
            return type_
        return type_.with_shape([*type_.dims[:at], multiply(type_.dims[at], type_.dims[at + 1]), *type_.dims[at + 2 :]])

    # Where both axes stand in one index expression in step, the inner one alone now covers the range of both.
    return Problem(
        (*problem.axes[:position], joined, *problem.axes[position + 2 :]),
        tuple(transform(element, relabel, {outer.name: 0}) for element in problem.elements),
        tuple(join(t, places.get(i)) for i, t in enumerate(problem.inputs)),
        tuple(join(t, position) for t in problem.outputs),
    )


def _in_step(index: Dim, outer: Axis, inner: Axis) -> bool:
    """Whether an index moves along both axes as along one, or along neither."""
    along_outer = linear_coefficient(index, outer.name)
    along_inner = linear_coefficient(index, inner.name)
    if along_outer is None or along_inner is None or not isinstance(inner.extent, int):
        return False
    return along_outer == along_inner * inner.extent


def _pair_position(scalar: Load, source: TensorType, outer: Axis, inner: Axis) -> int | None:
    """Where a load walks both axes whole and side by side.

    None where each of its indices walks them in step or not at all; -1 where it does otherwise.
    """
    names = {outer.name, inner.name}
    affine = [index for index in scalar.indices if not isinstance(index, Scalar)]
    if all(_in_step(index, outer, inner) for index in affine):
        return None
    texts = [None if isinstance(i, Scalar) else str(i) for i in scalar.indices]
    used = [not isinstance(i, Scalar) and bool(symbols(i) & names) for i in scalar.indices]
    for at in range(len(texts) - 1):
        if texts[at] == outer.name and texts[at + 1] == inner.name and sum(used) == 2:
            whole = source.dims[at] == outer.extent and source.dims[at + 1] == inner.extent
            return at if whole and source.layout.is_row_major else -1
    return -1


class FreeSymbols:
    """Free index symbols of every node of a set of scalars, computed once."""

    def __init__(self, elements: Sequence[Scalar]) -> None:
        self._free: dict[int, frozenset[str]] = {}
        for element in elements:
            for node in walk(element):
                if id(node) not in self._free:
                    self._free[id(node)] = self._of(node)

    def __getitem__(self, scalar: Scalar) -> frozenset[str]:
        return self._free[id(scalar)]

    def _of(self, node: Scalar) -> frozenset[str]:
        found = frozenset().union(*(self._free[id(child)] for child in children(node)))
        match node:
            case IndexValue(index=index):
                return found | symbols(index)
            case Load(indices=indices):
                return found.union(*(symbols(i) for i in indices if not isinstance(i, Scalar)))
            case Reduce(axes=axes):
                return found.union(*(symbols(a.extent) for a in axes)) - {axis.name for axis in axes}
            case ArgReduce(axis=axis):
                return (found | symbols(axis.extent)) - {axis.name}
        return found
