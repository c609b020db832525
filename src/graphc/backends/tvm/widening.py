"""The left operand of a product of narrow floats, widened before the product reads it.

A tile broadcasts each of its elements once per panel of columns: converted there, every one would be converted as many
times, a scalar at a time. Widened once it is read as often as a float32 operand is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.backends.contraction import Contraction
from graphc.backends.element_types import is_narrow_float
from graphc.backends.extents import count_of, extent_of, unflatten
from graphc.backends.tvm.element_types import from_storage
from graphc.backends.tvm.tir import KernelBuilder
from graphc.ir import Dim
from graphc.ops.expr import Axis


class WideLeft:
    """A left operand in a workspace: `[rows][depth]`, rows in row-major order of the axes given.

    Args:
        problem: The contraction.
        axes: Axes whose places tell the row: those of the batch, then those of the rows.
        lanes: Width of a vector.
    """

    def __init__(self, problem: Contraction, axes: Sequence[Axis], lanes: int) -> None:
        self.problem = problem
        # A row is shared by all places of an axis that the operand does not change along.
        self.axes = tuple(axis for axis in axes if problem.left.depends_on(axis))
        self.lanes = lanes
        self.depth = extent_of([problem.inner])

    @staticmethod
    def needed(problem: Contraction) -> bool:
        """Whether the operand is of another type than it is computed in."""
        return is_narrow_float(problem.left.type.dtype)

    @property
    def elements(self) -> Dim:
        """Elements of the workspace."""
        return count_of(self.axes) * self.depth

    def start(self, places: Mapping[str, Dim]) -> Dim:
        """Where the row at `places` starts."""
        row: Dim = 0
        for axis in self.axes:
            row = row * axis.extent + places[axis.name]
        return row * self.depth

    def emit(self, builder: KernelBuilder, source: int, target: int, *, parallel: bool) -> None:
        """Widens every row.

        Args:
            builder: The kernel under construction.
            source: Pointer argument of the operand.
            target: Pointer argument of the workspace.
            parallel: Whether threads share the rows.
        """
        left, inner = self.problem.left, self.problem.inner
        stride = left.stride(inner)
        assert stride is not None, "read_by refuses others"
        vectors, rest = divmod(self.depth, self.lanes)
        with builder.parallel(count_of(self.axes), "row", enable=parallel) as row:
            places = unflatten(self.axes, row, builder.bounds)
            others = {axis.name: 0 for axis in (*self.problem.axes, inner) if axis.name not in places}
            base = builder.bind_index(left.at({**others, **places}, builder.bounds), 0, None, "base")

            def copy(k: Dim, lanes: int) -> None:
                value = builder.load(source, base + k * stride, lanes, stride)
                builder.store(target, from_storage(value, left.type.dtype), row * self.depth + k, lanes)

            if vectors:
                with builder.serial(vectors, "v") as vector:
                    copy(vector * self.lanes, self.lanes)
            if rest:
                with builder.serial(rest, "k") as k:
                    copy(vectors * self.lanes + k, 1)
