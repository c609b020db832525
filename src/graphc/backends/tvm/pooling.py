"""Max and average pooling over blocks of channels.

Each input row under a tile is reduced along the row first, once for all windows that see it, then into their results.
At borders the window is cut to the taps inside the image, which are known there, so that nothing is tested per tap.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.contraction import anchor_of
from graphc.backends.conv_problem import Source
from graphc.backends.extents import ceildiv
from graphc.backends.local_extents import Localized, localized
from graphc.backends.tvm import scalar_ops
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.scope import Lane
from graphc.backends.tvm.tasks import PARALLEL_MACS, RowTiles, channel_tasks, only, row_tiles, split_until_balanced
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType, dtypes, symbol
from graphc.ir.symbolic import floordiv, maximum, minimum
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
    """Everything that decides the code of one pool; `rows` and `columns` are empty where the image's size is open."""

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
    def includes_padding(self) -> bool:
        """Whether an average counts the padding."""
        return bool(self.anchor.int_attribute("count_include_pad", 0))

    @property
    def is_average(self) -> bool:
        """Whether results are means and not maxima."""
        return self.anchor.op_type == "AveragePool"


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a 2-D MaxPool or AveragePool of float32 in blocks of channels.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    local = localized(body)
    plan = _plan(local, target)
    taps = plan.window.kernel[0] * plan.window.kernel[1]

    def emit(builder: KernelBuilder) -> None:
        (_Pool if plan.rows else _OpenPool)(builder, local.body, plan).emit()

    return build_kernel(
        "pooling",
        local.body,
        target,
        [plan.tiles, plan.width],
        emit,
        flops=plan.anchor.output.tensor_type.numel * taps,
        schedule={"tile": f"{plan.tiles.height}x{plan.width} pixels"},
        local=local,
    )


def _plan(local: Localized, target: Target) -> _Plan:
    body = local.body
    anchor = anchor_of(body, frozenset({"MaxPool", "AveragePool"}))
    x = anchor.inputs[0]
    if x is None or x not in body.inputs:
        raise BackendError("the input of the pool is not an input of the region")
    if len(anchor.outputs) > 1 and anchor.outputs[1].name:
        raise BackendError("the pool answers where its maxima are")
    kind, lanes = x.tensor_type, target.lanes(dtypes.FLOAT32)
    if kind.dtype != dtypes.FLOAT32 or kind.rank != 4 or not isinstance(kind.dims[1], int) or kind.numel == 0:
        raise BackendError("the pool is not 2-D over float32 with channels of a bound number")
    layout = kind.layout
    if layout.blocked_axis != 1 or layout.block != lanes or layout.order or any(map(any, layout.halo[:2])):
        raise BackendError("the input is not stored in blocks of one vector of channels")
    window = pool_window(anchor, kind.dims)
    if max(window.kernel) > MOST_TAPS:
        raise BackendError(f"more than {MOST_TAPS} taps along an axis")
    include = bool(anchor.int_attribute("count_include_pad", 0))
    batch, channels = local.usual(kind.dims[0], 1), _int(kind.dims[1])
    blocks = batch * -(-channels // lanes)
    taps = window.kernel[0] * window.kernel[1]
    sizes = [local.usual(extent) for extent in anchor.output.tensor_type.dims[2:]]
    parallel = batch * channels * math.prod(sizes) * taps >= PARALLEL_MACS
    data = body.inputs.index(x)

    def slices(height: int, rows: int) -> int:
        return split_until_balanced(blocks, rows // height, target.cores) if parallel else 1

    if not all(isinstance(extent, int) for extent in (*window.spatial, *window.output)):
        _check_open(window, anchor)
        height, width = _tile(window, sizes[0], sizes[1], target)
        size = max(1, ceildiv(sizes[0], height * slices(height, sizes[0])))
        tiles = RowTiles(anchor.output.tensor_type.dims[2], height, size)
        return _Plan(anchor, data, kind, window, lanes, (), (), 0, tiles, width, parallel)
    rows, columns = (tuple(segments(window, axis, include=include)) for axis in (0, 1))
    body_rows = max(range(len(rows)), key=lambda i: rows[i].count)
    height, width = _tile(window, rows[body_rows].count, max(s.count for s in columns), target)
    tiles = row_tiles(rows[body_rows].count, height, slices(height, rows[body_rows].count))
    return _Plan(anchor, data, kind, window, lanes, rows, columns, body_rows, tiles, width, parallel)


def _check_open(window: Window, anchor: Node) -> None:
    """Raises BackendError where some window of some image may see none of it."""
    for pads, reach, dilation in zip(
        zip(window.pads_begin, window.pads_end, strict=True), window.reach, window.dilations, strict=True
    ):
        if dilation > 1 or anchor.int_attribute("ceil_mode", 0) or any(not _is_below(pad, reach) for pad in pads):
            raise BackendError("a window of an image whose size is open may lie in the padding entirely")


def _is_below(pad: Dim, reach: int) -> bool:
    """Whether padding is narrower than a window: that which depends on the extent always is."""
    return not isinstance(pad, int) or pad < reach


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
        self.begins: Sequence[Dim] = plan.window.pads_begin
        strides = Source(plan.type, False).strides()
        self.strides = strides.map(lambda step: builder.bind_index(step, 0, None, "step"))
        count = len(body.inputs)
        outputs = range(count, count + len(body.outputs))
        self.epilogue = Epilogue(builder, body, plan.anchor, {i: i for i in range(count)}, outputs)

    def emit(self) -> None:
        """Writes the whole kernel into the builder."""
        self._each_block(self.plan.tiles.blocks, self._block)
        self.epilogue.finish()

    def _each_block(self, parts: Dim, emit: Callable[[Dim, Dim, Dim, int | None], None]) -> None:
        """Calls `emit(image, block of channels, part, channels or None for all)` with all of them among threads."""
        builder, plan = self.builder, self.plan
        extents = plan.type.dims[0], _int(plan.type.dims[1]), parts
        channel_tasks(builder, extents, plan.lanes, emit, parallel=plan.parallel)

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
        top, left = (place[a] * window.strides[a] - self.begins[a] for a in (0, 1))
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


class _OpenPool(_Pool):
    """Emits the loops of a pool over images whose size only the call knows.

    Windows that lie inside the image go in tiles, as those of bound images. Of the others, at its borders, each counts
    its taps when it runs.
    """

    def __init__(self, builder: KernelBuilder, body: Graph, plan: _Plan) -> None:
        super().__init__(builder, body, plan)
        window = plan.window
        self.begins = [builder.bind_index(pad, 0, None, "begin") for pad in window.pads_begin]
        self.pixels = plan.anchor.output.tensor_type.dims[2:]
        self.inside: list[tuple[Dim, Dim]] = []
        for axis, (begin, pixels) in enumerate(zip(self.begins, self.pixels, strict=True)):
            stride = window.strides[axis]
            low = builder.bind_index(minimum(pixels, ceildiv(begin, stride)), 0, pixels, "low")
            fitting = floordiv(window.spatial[axis] + begin - window.reach[axis], stride) + 1
            high = builder.bind_index(maximum(low, minimum(pixels, fitting)), 0, pixels, "high")
            self.inside.append((low, high))
        whole = (Segment(0, 0, 0, taps, taps) for taps in window.kernel)
        self.whole = next(whole), next(whole)

    def emit(self) -> None:
        """Writes the whole kernel into the builder."""
        low, high = self.inside[0]
        rows = self.builder.bind_index(high - low, 0, self.pixels[0], "rows")
        tiles = RowTiles(rows, self.plan.tiles.height, self.plan.tiles.size)

        def inner(image: Dim, block: Dim, part: Dim, count: int | None) -> None:
            tiles.each(self.builder, part, lambda row, height: self._inner_rows(image, block, low + row, height, count))

        def borders(image: Dim, block: Dim, part: Dim, count: int | None) -> None:
            for start, end in ((0, low), (high, self.pixels[0])):
                with self.builder.serial(end - start, "row") as row:
                    self._stretch(image, block, start + row, (0, self.pixels[1]), count)

        self._each_block(tiles.blocks, inner)
        self._each_block(1, borders)
        self.epilogue.finish()

    def _inner_rows(self, image: Dim, block: Dim, row: Dim, height: int, count: int | None) -> None:
        low, high = self.inside[1]
        width, columns = self.plan.width, high - low

        def tile(column: Dim, size: int) -> None:
            self._tile(image, block, self.whole, (row, low + column), (height, size), count)

        RowTiles(columns, width, ceildiv(columns, width)).each(self.builder, 0, tile)
        for number in range(height):
            self._stretch(image, block, row + number, (0, low), count)
            self._stretch(image, block, row + number, (high, self.pixels[1]), count)

    def _stretch(self, image: Dim, block: Dim, row: Dim, columns: tuple[Dim, Dim], count: int | None) -> None:
        """Windows at a border, one by one."""
        with self.builder.serial(columns[1] - columns[0], "col") as column:
            self._pixel(image, block, (row, columns[0] + column), count)

    def _pixel(self, image: Dim, block: Dim, place: tuple[Dim, Dim], count: int | None) -> None:
        builder, plan, window = self.builder, self.plan, self.plan.window
        starts: list[Dim] = []
        taps: list[Dim] = []
        counted: Dim = 1
        for axis in (0, 1):
            # Dilations are 1: the taps inside are neighbours.
            start = place[axis] * window.strides[axis] - self.begins[axis]
            end = minimum(start + window.kernel[axis], window.spatial[axis])
            starts.append(builder.bind_index(maximum(start, 0), 0, None, "from"))
            taps.append(builder.bind_index(end - starts[axis], 0, window.kernel[axis], "taps"))
            if plan.includes_padding:
                most = window.spatial[axis] + window.pads_end[axis] - start
                counted = counted * minimum(window.kernel[axis], most)
            else:
                counted = counted * taps[axis]
        result = builder.accumulator(plan.lanes)
        result.value = broadcast(T.float32(0.0 if plan.is_average else -math.inf), plan.lanes)
        with builder.serial(taps[0], "kh") as i, builder.serial(taps[1], "kw") as j:
            at = self.strides.at(image, block, starts[0] + i, starts[1] + j)
            value = builder.load(plan.data, builder.bind_index(builder.simplify(at), 0, None, "x"), plan.lanes)
            result.value = self._combined(bind(value), result.value)
        found = result.value
        if plan.is_average:
            found = bind(found / broadcast(T.Cast("float32", builder.index(counted)), plan.lanes))
        with builder.lanes(plan.lanes) as name:
            index = [image, block * plan.lanes + symbol(name), *place]
            self.epilogue.store(found, index, Lane(name, plan.lanes, count))
