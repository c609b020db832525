"""What one kernel computes: scalars over a set of axes, and the same over fewer axes where that is possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphc.backends.regions import Expander
from graphc.backends.windows import Window
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Layout, TensorType
from graphc.ir.dtypes import COMPLEX128
from graphc.ir.symbolic import minimum, multiply, product, symbols
from graphc.ops.expr import ArgReduce, Axis, Call, IndexValue, Load, Reduce, Scalar, axes_of, children, walk


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
