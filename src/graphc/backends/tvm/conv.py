"""Direct convolution over blocks of channels: any kernel, stride, dilation and group count, and whatever follows it.

The input is read where it lies if its layout keeps a wide enough zero border, else the kernel first copies it into one
that does. Results stay in registers until the epilogue has been applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.conv_problem import Convolution, Source, check_weights, convolution_of, source_of
from graphc.backends.conv_shapes import row_joins, two_dimensional, with_joined_rows
from graphc.backends.extents import ceildiv
from graphc.backends.local_extents import Localized, localized
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.conv_tiles import (
    MOST_VECTORS,
    ORDERS,
    Schedule,
    Sweep,
    Tile,
    choose_schedule,
    choose_tile,
    sweep_cost,
)
from graphc.backends.tvm.conv_weights import DirectWeights
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.loops import copy_tensor, unravel, unrolled
from graphc.backends.tvm.scope import Lane
from graphc.backends.tvm.tasks import RowTiles, only
from graphc.backends.tvm.tir import KernelBuilder, Register, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ir.symbolic import minimum, product
from graphc.target import Target

UNROLL = 2
"""Input channels per iteration of the innermost loop."""


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code of one direct convolution."""

    problem: Convolution
    source: Source
    weights: DirectWeights
    schedule: Schedule

    @property
    def columns(self) -> RowTiles:
        """Tiles along a row: the row is long where rows were joined, and then cut for threads."""
        plane, width = self.problem.plane, self.schedule.tile.columns
        size = self.schedule.task_columns or ceildiv(plane.columns, width)
        return RowTiles(plane.columns, width, size)

    @property
    def rows(self) -> RowTiles:
        """Tiles along a column, of open images."""
        return RowTiles(self.problem.plane.rows, self.schedule.tile.rows, self.schedule.task_rows)


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a Conv along one or two axes with constant weights.

    Args:
        body: One Conv and its epilogue.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants.
        options: `conv_tile` overrides the register tile: `(rows, columns, vectors)`; `conv_order` what neighbouring
            tasks share: "rows" or "channels".

    Raises:
        BackendError: The body is something else; the message says what.
    """
    body = two_dimensional(body)
    _accepted(localized(body), constants)
    shapes = [localized(with_joined_rows(body, count)) for count in row_joins(body)]
    plans = [_plan(shape, target, options) for shape in shapes]
    local, plan = min(zip(shapes, plans, strict=True), key=lambda choice: choice[1].schedule.cost)
    problem = plan.problem

    def emit(builder: KernelBuilder) -> None:
        _Conv(builder, local.body, plan).emit()

    return build_kernel(
        "conv",
        local.body,
        target,
        [plan.schedule, plan.weights],
        emit,
        flops=problem.flops,
        schedule=_describe(plan),
        packed={problem.weights: (plan.weights.elements * 4, plan.weights.packing())},
        workspaces=plan.source.workspaces,
        local=local,
    )


def alternatives(body: Graph, target: Target, constants: frozenset[int]) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring: the best tile of each width, and the best of all in either order.

    Raises:
        BackendError: As of `lower`.
    """
    local = localized(two_dimensional(body))
    problem = _accepted(local, constants)
    plane = _plane(problem, _packed(local.body, problem, target, 1))
    widths = range(1, min(plane.blocks, MOST_VECTORS) + 1)
    tiles = [choose_tile(target, plane, vectors=width) for width in widths]
    tiles.sort(key=lambda tile: sweep_cost(tile, plane))
    found: list[dict[str, Any]] = [{"conv_tile": [tile.rows, tile.columns, tile.vectors]} for tile in tiles]
    return found + [{**found[0], "conv_order": order} for order in ORDERS]


def _accepted(local: Localized, constants: frozenset[int]) -> Convolution:
    """The convolution of a body that this template takes.

    Raises:
        BackendError: It does not; the message says why.
    """
    problem = convolution_of(local.body, local=local)
    if problem.is_depthwise and problem.group > 1:
        raise BackendError("the convolution is depthwise: vectors of channels share no input")
    check_weights(problem, local.body, constants)
    return problem


def _packed(body: Graph, problem: Convolution, target: Target, vectors: int) -> DirectWeights:
    """The weights in panels of so many vectors of output channels."""
    source = _source(body, problem)
    # Groups start at any channel: of planes, each is a block of its own.
    depth = 1 if problem.group > 1 and not source.is_blocked else min(source.block, problem.inputs)
    kernel = problem.window.kernel
    lanes = target.lanes(dtypes.FLOAT32)
    return DirectWeights(problem.outputs, problem.inputs, problem.group, (kernel[0], kernel[1]), depth, vectors, lanes)


def _source(body: Graph, problem: Convolution) -> Source:
    return source_of(problem, body.inputs[problem.data].tensor_type, reads_padding=problem.group > 1)


def _plane(problem: Convolution, packed: DirectWeights) -> Sweep:
    rows, columns = problem.window.output
    work = round(problem.inputs // problem.group * packed.waste) * packed.taps[0] * packed.taps[1]
    image = problem.inputs * problem.height * problem.width * 4
    taps = packed.elements * 4
    return Sweep(rows, columns, packed.blocks, problem.batch, work, taps, image, is_open=problem.plane.is_open)


def _plan(local: Localized, target: Target, options: Mapping[str, Any]) -> _Plan:
    body = local.body
    problem = convolution_of(body, local=local)
    source = _source(body, problem)
    override, order = options.get("conv_tile"), options.get("conv_order")
    if override is not None:
        packed = _packed(body, problem, target, override[2])
        schedule = choose_schedule(target, _plane(problem, packed), Tile(*override), order)
        return _Plan(problem, source, packed, schedule)
    if problem.group == 1:
        schedule = choose_schedule(target, _plane(problem, _packed(body, problem, target, 1)), order=order)
        return _Plan(problem, source, _packed(body, problem, target, schedule.tile.vectors), schedule)
    most = min(-(-problem.outputs // target.lanes(dtypes.FLOAT32)), MOST_VECTORS)
    choices = [_packed(body, problem, target, vectors) for vectors in range(1, most + 1)]
    planes = [_plane(problem, packed) for packed in choices]
    tiles = [choose_tile(target, plane, vectors=packed.vectors) for plane, packed in zip(planes, choices, strict=True)]
    costs = [sweep_cost(tile, plane) for tile, plane in zip(tiles, planes, strict=True)]
    best = costs.index(min(costs))
    return _Plan(problem, source, choices[best], choose_schedule(target, planes[best], tiles[best], order))


def _describe(plan: _Plan) -> dict[str, Any]:
    facts: dict[str, Any] = {"tile": str(plan.schedule.tile)}
    facts["tasks"] = f"{plan.schedule.order} first" if plan.schedule.parallel else "serial"
    if plan.source.is_staged:
        facts["input"] = "copied to give it a border"
    if plan.weights.waste > 1:
        facts["groups"] = f"{plan.weights.waste:.2g} times the multiply-adds"
    return facts


@dataclass(frozen=True)
class _Task:
    """What one thread takes at a time: an image, some of its rows, and a piece of each of them."""

    image: Dim
    part: Dim
    piece: Dim


class _Conv:
    """Emits the loops of one direct convolution."""

    def __init__(self, builder: KernelBuilder, body: Graph, plan: _Plan) -> None:
        self.builder = builder
        self.body = body
        self.problem = plan.problem
        self.source = plan.source
        self.weights = plan.weights
        self.schedule = plan.schedule
        self.lanes = plan.weights.lanes
        self.plane = plan.problem.plane
        self.plan = plan
        self.strides = plan.source.strides().map(lambda step: builder.bind_index(step, 0, None, "step"))
        count = len(body.inputs)
        outputs = range(count, count + len(body.outputs))
        self.data = outputs.stop if plan.source.is_staged else plan.problem.data
        self.epilogue = Epilogue(builder, body, plan.problem.anchor, {i: i for i in range(count)}, outputs)

    def emit(self) -> None:
        """Writes the whole kernel into the builder."""
        problem, plan, builder = self.problem, self.schedule, self.builder
        if self.source.is_staged:
            original = self.body.inputs[problem.data].tensor_type
            copy_tensor(builder, original, problem.data, self.source.type, self.data)
        parts, full, tail = self.weights.parts, self.weights.full_parts, self.weights.tail_blocks
        slices, pieces = self._slices(), self.plan.columns.blocks
        grid = (self.plane.batch, slices, pieces)
        extents = grid if plan.order == "rows" else (parts, *grid)
        with builder.parallel(product(extents), "task", enable=plan.parallel) as task:
            *outer, image, part, piece = unravel(builder, task, extents)
            at = _Task(image, part, piece)
            if plan.order == "rows":
                if full:
                    with builder.serial(full, "oc") as channel:
                        self._rows(at, channel, plan.tile.vectors)
                if tail:
                    self._rows(at, full, tail)
            else:
                if full:
                    with only(builder, outer[0], parts, below=full):
                        channel = builder.bind_index(outer[0], 0, full - 1, "oc") if full > 1 else 0
                        self._rows(at, channel, plan.tile.vectors)
                if tail:
                    with only(builder, outer[0], parts, last=True):
                        self._rows(at, full, tail)
        self.epilogue.finish()

    def _slices(self) -> Dim:
        """Parts that the rows are cut into."""
        if self.plane.is_open:
            return self.plan.rows.blocks
        return -(-(self.problem.window.output[0] // self.schedule.tile.rows) // self.schedule.task_rows)

    def _rows(self, at: _Task, channel: Dim, vectors: int) -> None:
        """The rows of one task for `vectors` channel blocks."""
        builder, plan = self.builder, self.schedule
        height = plan.tile.rows
        if self.plane.is_open:
            self.plan.rows.each(builder, at.part, lambda row, rows: self._columns(at, channel, row, rows, vectors))
            return
        full, tail = divmod(self.problem.window.output[0], height)
        first = at.part * plan.task_rows
        slices = self._slices()
        even = slices * plan.task_rows == full
        count = builder.simplify(plan.task_rows if even else minimum(plan.task_rows, full - first))
        with builder.serial(count, "row") as tile_row:
            row = builder.simplify((first + tile_row) * height)
            if not even:
                row = builder.bind_index(row, 0, (full - 1) * height, "h")
            self._columns(at, channel, row, height, vectors)
        if tail:
            with only(builder, at.part, slices, last=True):
                self._columns(at, channel, full * height, tail, vectors)

    def _columns(self, at: _Task, channel: Dim, row: Dim, height: int, vectors: int) -> None:
        def tile(column: Dim, width: int) -> None:
            self._tile(at.image, channel, row, column, Tile(height, width, vectors))

        self.plan.columns.each(self.builder, at.piece, tile)

    def _tile(self, image: Dim, channel: Dim, row: Dim, column: Dim, tile: Tile) -> None:
        """One tile of results, from clearing the registers to the stores."""
        builder, weights = self.builder, self.weights
        first = channel * weights.width
        counts = [self._count(channel, v) for v in range(tile.vectors)]
        sums = [[builder.accumulator(self.lanes) for _ in range(tile.vectors)] for _ in range(tile.rows * tile.columns)]
        for v in range(tile.vectors):
            start = bind(self._bias(first + v * self.lanes, counts[v]))
            for pixel in sums:
                pixel[v].value = start
        self._accumulate(sums, image, channel, row, column, tile)
        for number, pixel in enumerate(sums):
            h, w = row + number // tile.columns, column + number % tile.columns
            for v in range(tile.vectors):
                with builder.lanes(self.lanes) as name:
                    lane = Lane(name, self.lanes, counts[v])
                    index = [image, first + v * self.lanes + symbol(name), h, w]
                    self.epilogue.store(pixel[v].value, index, lane)

    def _count(self, channel: Dim, vector: int) -> int | None:
        """Lanes inside the tensor; None where all are."""
        if not isinstance(channel, int):
            return None
        inside = self.problem.outputs
        first = channel * self.weights.width + vector * self.lanes
        return inside - first if first + self.lanes > inside else None

    def _bias(self, channel: Dim, count: int | None) -> Any:
        if self.problem.bias is None:
            return broadcast(T.float32(0), self.lanes)
        return self.builder.load(self.problem.bias, channel, self.lanes, 1, count)

    def _accumulate(
        self, sums: list[list[Register]], image: Dim, channel: Dim, row: Dim, column: Dim, tile: Tile
    ) -> None:
        """Sums over input channels and taps into the registers."""
        builder, weights, strides, window = self.builder, self.weights, self.strides, self.problem.window
        depth = weights.depth
        step = strides.block if self.source.is_blocked else strides.channel * depth
        top = row * window.strides[0] - self.plane.top
        left = column * window.strides[1] - self.plane.left
        data = strides.at(image, 0, top, left)
        width = tile.vectors * self.lanes
        packed = channel * (weights.width * weights.reduction)
        rows, columns = weights.taps
        full, rest = divmod(weights.inputs, depth)
        count: Dim = full
        if weights.group > 1:
            data = data + self._first_block(channel) * step
            counts = set(weights.block_counts[: weights.full_parts])
            count = weights.block_count(channel) if isinstance(channel, int) or len(counts) > 1 else counts.pop()
            rest = 0

        def channels(outer: Dim, extent: int) -> None:
            with builder.serial(rows, "kh") as kh, builder.serial(columns, "kw") as kw:
                at = data + outer * step
                at = at + kh * (window.dilations[0] * strides.row) + kw * (window.dilations[1] * strides.column)
                at = builder.bind_index(builder.simplify(at), 0, None, "x")
                source = packed + outer * (rows * columns * depth * width) + (kh * columns + kw) * (extent * width)
                source = builder.bind_index(builder.simplify(source), 0, None, "w")
                unrolled(
                    builder,
                    extent,
                    UNROLL,
                    lambda k: self._step(sums, at + k * strides.channel, source + k * width, tile),
                )

        with builder.serial(count, "ic") as outer:
            channels(outer, depth)
        if rest:
            channels(full, rest)

    def _first_block(self, channel: Dim) -> Dim:
        """The first input block that a part of a grouped convolution reads, computed once."""
        first = self.builder.simplify(self.weights.first_block(channel))
        return self.builder.bind_index(first, 0, -(-self.problem.inputs // self.weights.depth) - 1, "ic")

    def _step(self, sums: list[list[Register]], data: Dim, weights: Dim, tile: Tile) -> None:
        """One input channel at one tap."""
        builder, strides, window = self.builder, self.strides, self.problem.window
        vectors = [
            bind(builder.load(self.problem.weights, weights + v * self.lanes, self.lanes)) for v in range(tile.vectors)
        ]
        for number, pixel in enumerate(sums):
            h, w = divmod(number, tile.columns)
            place = data + h * window.strides[0] * strides.row + w * window.strides[1] * strides.column
            factor = bind(broadcast(builder.load(self.data, place), self.lanes))
            for register, vector in zip(pixel, vectors, strict=True):
                register.value = register.value + factor * vector
