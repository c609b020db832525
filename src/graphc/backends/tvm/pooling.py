"""Max and average pooling over blocks of channels.

Each input row under a tile is reduced along the row first, once for all windows that see it, then into their results.
At borders the window is cut to the taps inside the image, which are known there, so that nothing is tested per tap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.contraction import anchor_of
from graphc.backends.conv_problem import Source
from graphc.backends.tvm import scalar_ops
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.scope import Lane
from graphc.backends.tvm.tasks import PARALLEL_MACS, RowTiles, channel_tasks, only, row_tiles, split_until_balanced
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType, dtypes, symbol
from graphc.ops.pooling import pool_window
from graphc.ops.window import Window
from graphc.target import Target

MOST_TAPS = 7
"""Taps along an axis up to which a window is unrolled."""


@dataclass(frozen=True)
class Segment:
    """Neighbouring windows, along one axis, that have the same taps inside the image.

    Args:
        start: The first of them.
        count: How many.
        first: First tap inside.
        last: One past the last tap inside.
        counted: Taps that an average divides by.
    """

    start: int
    count: int
    first: int
    last: int
    counted: int


def segments(window: Window, axis: int, *, include: bool) -> list[Segment]:
    """The windows along an axis, in order.

    Args:
        window: Static geometry.
        axis: Spatial axis.
        include: Whether averages count the padding.
    """
    found: list[Segment] = []
    for output in range(_int(window.output[axis])):
        start = output * window.strides[axis] - _int(window.pads_begin[axis])
        inside = [
            k
            for k in range(window.kernel[axis])
            if 0 <= start + k * window.dilations[axis] < _int(window.spatial[axis])
        ]
        pads = (window.pads_begin[axis], window.pads_end[axis]) if include else (0, 0)
        counted = _int(window.valid_taps(axis, output, begin=pads[0], end=pads[1]))
        if not inside:
            raise BackendError("a window lies in the padding entirely")
        one = Segment(output, 1, inside[0], inside[-1] + 1, counted)
        last = found[-1] if found else None
        if last and (last.first, last.last, last.counted) == (one.first, one.last, one.counted):
            found[-1] = Segment(last.start, last.count + 1, last.first, last.last, last.counted)
        else:
            found.append(one)
    return found


def _int(value: Dim) -> int:
    assert isinstance(value, int), "lower refuses extents that are not bound"
    return value


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code of one pool."""

    anchor: Node
    data: int
    type: TensorType
    window: Window
    lanes: int
    rows: tuple[Segment, ...]
    columns: tuple[Segment, ...]
    body_rows: int
    tiles: RowTiles
    width: int
    parallel: bool

    @property
    def is_average(self) -> bool:
        """Whether results are means and not maxima."""
        return self.anchor.op_type == "AveragePool"


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a 2-D MaxPool or AveragePool of float32 in blocks of channels.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    plan = _plan(body, target)
    taps = plan.window.kernel[0] * plan.window.kernel[1]

    def emit(builder: KernelBuilder) -> None:
        _Pool(builder, body, plan).emit()

    return build_kernel(
        "pooling",
        body,
        target,
        [plan.tiles, plan.width],
        emit,
        flops=plan.anchor.output.tensor_type.numel * taps,
        schedule={"tile": f"{plan.tiles.height}x{plan.width} pixels"},
    )


def _plan(body: Graph, target: Target) -> _Plan:
    anchor = anchor_of(body, frozenset({"MaxPool", "AveragePool"}))
    x = anchor.inputs[0]
    if x is None or x not in body.inputs:
        raise BackendError("the input of the pool is not an input of the region")
    if len(anchor.outputs) > 1 and anchor.outputs[1].name:
        raise BackendError("the pool answers where its maxima are")
    kind, lanes = x.tensor_type, target.lanes(dtypes.FLOAT32)
    if kind.dtype != dtypes.FLOAT32 or kind.rank != 4 or not kind.is_static or kind.numel == 0:
        raise BackendError("the pool is not 2-D over float32 of bound extents")
    layout = kind.layout
    if layout.blocked_axis != 1 or layout.block != lanes or layout.order or any(map(any, layout.halo[:2])):
        raise BackendError("the input is not stored in blocks of one vector of channels")
    window = pool_window(anchor, kind.dims)
    if max(window.kernel) > MOST_TAPS:
        raise BackendError(f"more than {MOST_TAPS} taps along an axis")
    include = bool(anchor.int_attribute("count_include_pad", 0))
    rows, columns = (tuple(segments(window, axis, include=include)) for axis in (0, 1))
    body_rows = max(range(len(rows)), key=lambda i: rows[i].count)
    height, width = _tile(window, rows[body_rows].count, max(s.count for s in columns), target)
    batch, channels = _int(kind.dims[0]), _int(kind.dims[1])
    blocks = batch * -(-channels // lanes)
    taps = window.kernel[0] * window.kernel[1]
    work = _int(anchor.output.tensor_type.numel) * taps
    parallel = work >= PARALLEL_MACS
    slices = split_until_balanced(blocks, rows[body_rows].count // height, target.cores) if parallel else 1
    tiles = row_tiles(rows[body_rows].count, height, slices)
    data = body.inputs.index(x)
    return _Plan(anchor, data, kind, window, lanes, rows, columns, body_rows, tiles, width, parallel)


def _tile(window: Window, rows: int, columns: int, target: Target) -> tuple[int, int]:
    """Rows and columns of a tile: several rows where windows of neighbouring rows overlap."""
    overlap = window.dilations[0] * (window.kernel[0] - 1) + 1 > window.strides[0]
    height = min(rows, 3 if overlap and window.strides[0] == 1 else 2 if overlap else 1)
    # Results, one row's partial results and the elements they share must stay in registers.
    width = max(1, (target.vector_registers - 4) // (height + 2))
    return height, min(width, columns)


class _Pool:
    """Emits the loops of one pool."""

    def __init__(self, builder: KernelBuilder, body: Graph, plan: _Plan) -> None:
        self.builder = builder
        self.plan = plan
        self.strides = Source(plan.type, False).strides()
        count = len(body.inputs)
        outputs = range(count, count + len(body.outputs))
        self.epilogue = Epilogue(builder, body, plan.anchor, {i: i for i in range(count)}, outputs)

    def emit(self) -> None:
        """Writes the whole kernel into the builder."""
        builder, plan = self.builder, self.plan
        batch, channels = _int(plan.type.dims[0]), _int(plan.type.dims[1])
        channel_tasks(builder, (batch, channels, plan.tiles.blocks), plan.lanes, self._block, parallel=plan.parallel)
        self.epilogue.finish()

    def _block(self, image: Dim, block: Dim, part: Dim, count: int | None) -> None:
        """A few rows of one block of channels; rows at the borders belong to the first and the last few."""
        plan = self.plan
        for number, rows in enumerate(plan.rows):
            if number < plan.body_rows:
                with only(self.builder, part, plan.tiles.blocks, below=1):
                    self._border(image, block, rows, count)
            elif number > plan.body_rows:
                with only(self.builder, part, plan.tiles.blocks, last=True):
                    self._border(image, block, rows, count)
        body = plan.rows[plan.body_rows]

        def emit(row: Dim, height: int) -> None:
            self._columns(image, block, body, body.start + row, height, count)

        plan.tiles.each(self.builder, part, emit)

    def _border(self, image: Dim, block: Dim, rows: Segment, count: int | None) -> None:
        for row in range(rows.start, rows.start + rows.count):
            self._columns(image, block, rows, row, 1, count)

    def _columns(self, image: Dim, block: Dim, rows: Segment, row: Dim, height: int, count: int | None) -> None:
        for columns in self.plan.columns:
            full, tail = divmod(columns.count, self.plan.width)
            with self.builder.serial(full, "col") as position:
                first = columns.start + position * self.plan.width
                self._tile(image, block, (rows, columns), (row, first), (height, self.plan.width), count)
            if tail:
                first = columns.start + full * self.plan.width
                self._tile(image, block, (rows, columns), (row, first), (height, tail), count)

    def _tile(
        self,
        image: Dim,
        block: Dim,
        parts: tuple[Segment, Segment],
        place: tuple[Dim, Dim],
        size: tuple[int, int],
        count: int | None,
    ) -> None:
        builder, plan, window = self.builder, self.plan, self.plan.window
        top, left = (place[a] * window.strides[a] - window.pads_begin[a] for a in (0, 1))
        data = builder.bind_index(builder.simplify(self.strides.at(image, block, top, left)), 0, None, "x")
        uses: dict[int, list[int]] = defaultdict(list)
        for row in range(size[0]):
            for tap in range(parts[0].first, parts[0].last):
                uses[row * window.strides[0] + tap * window.dilations[0]].append(row)
        results: list[list[Expr | None]] = [[None] * size[1] for _ in range(size[0])]
        for i, seen_by in sorted(uses.items()):
            for column, value in enumerate(self._row(data + i * self.strides.row, parts[1], size[1])):
                for row in seen_by:
                    results[row][column] = self._combined(value, results[row][column])
        scale = broadcast(T.float32(1.0 / (parts[0].counted * parts[1].counted)), plan.lanes)
        for row, found in enumerate(results):
            for column, value in enumerate(found):
                with builder.lanes(plan.lanes) as name:
                    index = [image, block * plan.lanes + symbol(name), place[0] + row, place[1] + column]
                    result = bind(value * scale) if plan.is_average else value
                    self.epilogue.store(result, index, Lane(name, plan.lanes, count))

    def _row(self, data: Dim, columns: Segment, width: int) -> list[Expr]:
        """One input row, reduced under each of `width` neighbouring windows."""
        window = self.plan.window
        loaded: dict[int, Expr] = {}
        found: list[Expr] = []
        for column in range(width):
            result: Expr | None = None
            for tap in range(columns.first, columns.last):
                j = column * window.strides[1] + tap * window.dilations[1]
                if j not in loaded:
                    place = data + j * self.strides.column
                    loaded[j] = bind(self.builder.load(self.plan.data, place, self.plan.lanes))
                result = self._combined(loaded[j], result)
            found.append(result)
        return found

    def _combined(self, value: Expr, result: Expr | None) -> Expr:
        if result is None:
            return value
        op = "add" if self.plan.is_average else "max"
        return bind(scalar_ops.apply(op, dtypes.FLOAT32, [value, result]))
