"""Max and average pooling over row-major signals, images and volumes.

A window is separable: the rows under it are reduced into one row first, which stands in a buffer with the identity on
both sides, and neighbours in that row are reduced into results. A window of k x k then costs 2 k steps instead of k^2,
and only rows at the borders ask what lies inside.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.contraction import anchor_of
from graphc.backends.extents import ceildiv, is_positive
from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.scope import Lane
from graphc.backends.tvm.tasks import PARALLEL_MACS, Chunks, chunks_of
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast, lanes_of
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType, dtypes, symbol
from graphc.ir.symbolic import floordiv, maximum, minimum, product
from graphc.ops.expr import REDUCE_IDENTITY
from graphc.ops.pooling import counted_taps, pool_window
from graphc.ops.window import Window
from graphc.target import Target

MOST_ROWS = 49
"""Rows under a window up to which they are unrolled."""

MOST_COLUMNS = 32
"""Taps along a row up to which they are unrolled."""

LEAST_LANES = 4
"""Narrower vectors do not pay for narrow images."""


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code of one pool.

    Args:
        anchor: The pool.
        data: Number of its input in the body.
        type: Of its input.
        window: Its geometry.
        lanes: Width of a vector.
        chunks: Planes (a channel of an image each) shared among threads.
        width: Elements of the buffer for one padded row.
    """

    anchor: Node
    data: int
    type: TensorType
    window: Window
    lanes: int
    chunks: Chunks
    width: Dim

    @property
    def op(self) -> str:
        """What combines elements."""
        return "add" if self.anchor.op_type == "AveragePool" else "max"

    def counted(self, axis: int, place: Dim) -> Dim:
        """Taps along a spatial axis that the average of the window at a place divides by."""
        include = bool(self.anchor.int_attribute("count_include_pad", 0))
        return counted_taps(self.window, axis, place, include=include)


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a MaxPool or AveragePool of row-major float32; extents may be open.

    Args:
        body: The pool, and what follows it element by element.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants; none is packed.
        options: None is read.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    plan = _plan(body, target)
    output = plan.anchor.output.tensor_type

    def emit(builder: KernelBuilder) -> None:
        _Planes(builder, body, plan).emit()

    return build_kernel(
        "plane_pooling",
        body,
        target,
        [plan.chunks, plan.lanes],
        emit,
        flops=output.numel * product(plan.window.kernel),
        schedule={"lanes": plan.lanes, "tasks": str(plan.chunks.count) if plan.chunks.parallel else "serial"},
        workspaces=[plan.chunks.count * plan.width * 4],
    )


def _plan(body: Graph, target: Target) -> _Plan:
    anchor = anchor_of(body, frozenset({"MaxPool", "AveragePool"}))
    x = anchor.inputs[0]
    if x is None or x not in body.inputs:
        raise BackendError("the input of the pool is not an input of the region")
    if len(anchor.outputs) > 1 and anchor.outputs[1].name:
        raise BackendError("the pool answers where its maxima are")
    kind, output = x.tensor_type, anchor.output.tensor_type
    if kind.dtype != dtypes.FLOAT32 or not kind.layout.is_row_major:
        raise BackendError("the input is not row-major float32")
    if not all(is_positive(extent, body.bounds) for extent in (*kind.dims, *output.dims)):
        raise BackendError("an extent may be zero")
    window = pool_window(anchor, kind.dims)
    *rows, columns = window.kernel
    if math.prod(rows) > MOST_ROWS or columns > MOST_COLUMNS:
        raise BackendError(f"the window of {'x'.join(map(str, window.kernel))} is too large to be unrolled")
    lanes = target.lanes(dtypes.FLOAT32)
    last = output.dims[-1]
    while isinstance(last, int) and lanes > LEAST_LANES and lanes // 2 >= last:
        lanes //= 2
    # Whole vectors are read and written, also where the last results and elements fill a part of one.
    reads = (ceildiv(last, lanes) * lanes - 1) * window.strides[-1] + window.reach[-1]
    writes = window.pads_begin[-1] + ceildiv(kind.dims[-1], lanes) * lanes
    width = ceildiv(maximum(reads, writes), lanes) * lanes
    planes = product(kind.dims[:2])
    work = output.numel * (math.prod(rows) + columns)
    parallel = not isinstance(work, int) or work >= PARALLEL_MACS
    chunks = chunks_of(planes, target.cores, parallel=parallel)
    return _Plan(anchor, body.inputs.index(x), kind, window, lanes, chunks, width)


class _Planes:
    """Emits the loops of one pool."""

    def __init__(self, builder: KernelBuilder, body: Graph, plan: _Plan) -> None:
        self.builder = builder
        self.plan = plan
        self.spatial = plan.type.dims[2:]
        count = len(body.inputs)
        outputs = range(count, count + len(body.outputs))
        self.buffer = count + len(body.outputs)
        self.epilogue = Epilogue(builder, body, plan.anchor, {i: i for i in range(count)}, outputs)
        identity = REDUCE_IDENTITY["sum" if plan.op == "add" else "max"](dtypes.FLOAT32)
        self.identity = broadcast(element_types.constant(identity, dtypes.FLOAT32), plan.lanes)

    def emit(self) -> None:
        """Writes the whole kernel into the builder."""
        plan, builder = self.plan, self.builder
        channels = plan.type.dims[1]
        with plan.chunks.each(builder) as (chunk, plane):
            buffer = builder.bind_index(chunk * plan.width, 0, None, "buffer")
            with builder.serial(floordiv(plan.width, plan.lanes), "fill") as vector:
                builder.store(self.buffer, self.identity, buffer + vector * plan.lanes, plan.lanes)
            image = builder.bind_index(floordiv(plane, channels), 0, plan.type.dims[0] - 1, "image")
            channel = builder.bind_index(plane - image * channels, 0, channels - 1, "channel")
            with ExitStack() as stack:
                places = [stack.enter_context(builder.serial(extent, "out")) for extent in plan.window.output[:-1]]
                self._rows(plane, places, buffer)
                self._columns((image, channel), places, buffer)
        self.epilogue.finish()

    def _rows(self, plane: Dim, places: Sequence[Dim], buffer: Dim) -> None:
        """One row of the buffer: what lies under a row of windows, reduced along all axes but the last."""
        builder, window = self.builder, self.plan.window
        starts = [place * window.strides[axis] - window.pads_begin[axis] for axis, place in enumerate(places)]
        conditions: list[Expr] = []
        for axis, start in enumerate(starts):
            low, high = window.guards(axis)
            last = builder.index(start + window.reach[axis] - 1)
            conditions += [builder.index(start) >= T.int64(0)] if low else []
            conditions += [last < builder.index(self.spatial[axis])] if high else []
        if not conditions:
            self._reduce(self._whole(plane, starts), buffer)
            return
        inside = functools.reduce(T.And, conditions)
        with builder.when(inside):
            self._reduce(self._whole(plane, starts), buffer)
        with builder.when(T.Not(inside)):
            self._reduce(self._cut(plane, starts), buffer)

    def _whole(self, plane: Dim, starts: Sequence[Dim]) -> list[tuple[Dim, Expr | None]]:
        """The rows under windows that lie inside the input."""
        window = self.plan.window
        first = plane * product(self.spatial)
        for axis, start in enumerate(starts):
            first = first + start * product(self.spatial[axis + 1 :])
        first = self.builder.bind_index(self.builder.simplify(first), 0, None, "x")
        rows: list[tuple[Dim, Expr | None]] = []
        for taps in itertools.product(*map(range, window.kernel[:-1])):
            place = first
            for axis, tap in enumerate(taps):
                place = place + tap * window.dilations[axis] * product(self.spatial[axis + 1 :])
            rows.append((place, None))
        return rows

    def _cut(self, plane: Dim, starts: Sequence[Dim]) -> list[tuple[Dim, Expr | None]]:
        """The rows under windows at a border, each with whether it lies inside; others stand for those that do not."""
        builder, window = self.builder, self.plan.window
        axes: list[list[tuple[Dim, Expr]]] = []
        for axis, start in enumerate(starts):
            found = []
            for tap in range(window.kernel[axis]):
                place, extent = start + tap * window.dilations[axis], self.spatial[axis]
                at = builder.index(place)
                valid = T.And(at >= T.int64(0), at < builder.index(extent))
                near = builder.bind_index(maximum(0, minimum(place, extent - 1)), 0, extent - 1, "near")
                found.append((near * product(self.spatial[axis + 1 :]), valid))
            axes.append(found)
        base = plane * product(self.spatial)
        rows: list[tuple[Dim, Expr | None]] = []
        for taps in itertools.product(*axes):
            offset = functools.reduce(lambda total, tap: total + tap[0], taps, base)
            rows.append((offset, functools.reduce(T.And, (valid for _, valid in taps))))
        return rows

    def _reduce(self, rows: Sequence[tuple[Dim, Expr | None]], buffer: Dim) -> None:
        """Reduces rows at offsets, each with a condition that it counts, into the buffer."""
        plan, builder, lanes = self.plan, self.builder, self.plan.lanes
        target = buffer + plan.window.pads_begin[-1]

        def step(start: Dim, count: Dim | None) -> None:
            result: Expr | None = None
            for offset, valid in rows:
                value = builder.load(plan.data, offset + start, lanes, 1, count)
                if valid is not None:
                    value = T.Select(broadcast(valid, lanes), bind(value), self.identity)
                result = self._combined(bind(value), result)
            if count is not None:
                result = builder.choose(builder.first_lanes(count, lanes), result, self.identity)
            builder.store(self.buffer, result, target + start, lanes)

        self._vectors(plan.type.dims[-1], step)

    def _vectors(self, extent: Dim, step: Callable[[Dim, Dim | None], None]) -> None:
        """Calls `step` with the start of each vector of a row, and with how many lanes of the last one are inside."""
        builder, lanes = self.builder, self.plan.lanes
        if isinstance(extent, int):
            vectors, tail = divmod(extent, lanes)
            with builder.serial(vectors, "v") as vector:
                step(vector * lanes, None)
            if tail:
                step(vectors * lanes, tail)
            return
        whole = builder.bind_index(floordiv(extent, lanes), 0, None, "vectors")
        with builder.serial(whole, "v") as vector:
            step(builder.bind_index(vector * lanes, 0, extent - lanes, "start"), None)
        rest = builder.bind_index(extent - whole * lanes, 0, lanes - 1, "rest")
        with builder.when(builder.index(rest) > T.int64(0)):
            # As an expression, so that it can be seen to end where the row does.
            step(whole * lanes, extent - whole * lanes)

    def _columns(self, channel: tuple[Dim, Dim], places: Sequence[Dim], buffer: Dim) -> None:
        """A row of results from the buffer."""
        plan, builder, lanes = self.plan, self.builder, self.plan.lanes
        window, stride = plan.window, plan.window.strides[-1]

        def step(start: Dim, count: Dim | None) -> None:
            result: Expr | None = None
            for tap in range(window.kernel[-1]):
                place = buffer + start * stride + tap * window.dilations[-1]
                result = self._combined(bind(self._load(place)), result)
            with builder.lanes(lanes) as name:
                column = start + symbol(name)
                if plan.op == "add":
                    result = bind(self._divided(result, (*places, column)))
                self.epilogue.store(result, (*channel, *places, column), Lane(name, lanes, count))

        self._vectors(window.output[-1], step)

    def _load(self, place: Dim) -> Expr:
        """What neighbouring windows see at one tap."""
        lanes, stride = self.plan.lanes, self.plan.window.strides[-1]
        if stride == 2:
            return self.builder.load_picked(self.buffer, place, range(0, 2 * lanes, 2))
        return self.builder.load(self.buffer, place, lanes, stride)

    def _divided(self, total: Expr, places: Sequence[Dim]) -> Expr:
        """An average from a sum."""
        lanes = self.plan.lanes
        counts = [self.plan.counted(axis, place) for axis, place in enumerate(places)]
        whole = product(counts)
        if isinstance(whole, int):
            return total * broadcast(T.float32(1.0 / whole), lanes)
        *rows, columns = counts
        divisor = broadcast(T.Cast("float32", self.builder.index(product(rows))), lanes)
        across = self.builder.index(columns)
        kind = "float32" if lanes_of(across) == 1 else f"float32x{lanes}"
        return total / (divisor * broadcast(T.Cast(kind, across), lanes))

    def _combined(self, value: Expr, result: Expr | None) -> Expr:
        return value if result is None else bind(scalar_ops.apply(self.plan.op, dtypes.FLOAT32, [value, result]))
