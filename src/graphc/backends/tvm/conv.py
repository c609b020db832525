"""Direct convolution over blocks of channels: any kernel, stride, dilation and group count, and whatever follows it.

The input is read where it lies if its layout keeps a wide enough zero border, else the kernel first copies it into one
that does. Results stay in registers until the epilogue has been applied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.conv_problem import Convolution, Source, check_weights, convolution_of, source_of
from graphc.backends.conv_shapes import row_joins, two_dimensional, with_joined_rows
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.conv_tiles import (
    MOST_VECTORS,
    ORDERS,
    Plane,
    Schedule,
    Tile,
    choose_schedule,
    choose_tile,
    sweep_cost,
)
from graphc.backends.tvm.conv_weights import DirectWeights
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.loops import copy_tensor, unravel, unrolled
from graphc.backends.tvm.scope import Lane
from graphc.backends.tvm.tasks import only
from graphc.backends.tvm.tir import KernelBuilder, Register, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ir.symbolic import minimum
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
    problem = _accepted(body, constants)
    shapes = [with_joined_rows(body, count) for count in row_joins(body)]
    plans = [_plan(shape, convolution_of(shape), target, options) for shape in shapes]
    body, plan = min(zip(shapes, plans, strict=True), key=lambda choice: choice[1].schedule.cost)

    def emit(builder: KernelBuilder) -> None:
        _Conv(builder, body, plan).emit()

    return build_kernel(
        "conv",
        body,
        target,
        [plan.schedule, plan.weights],
        emit,
        flops=2 * problem.macs,
        schedule=_describe(plan),
        packed={problem.weights: (plan.weights.elements * 4, plan.weights.packing())},
        workspaces=plan.source.workspaces,
    )


def alternatives(body: Graph, target: Target, constants: frozenset[int]) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring: the best tile of each width, and the best of all in either order.

    Raises:
        BackendError: As of `lower`.
    """
    body = two_dimensional(body)
    problem = _accepted(body, constants)
    plane = _plane(problem, _packed(body, problem, target, 1))
    widths = range(1, min(plane.blocks, MOST_VECTORS) + 1)
    tiles = [choose_tile(target, plane, vectors=width) for width in widths]
    tiles.sort(key=lambda tile: sweep_cost(tile, plane))
    found: list[dict[str, Any]] = [{"conv_tile": [tile.rows, tile.columns, tile.vectors]} for tile in tiles]
    return found + [{**found[0], "conv_order": order} for order in ORDERS]


def _accepted(body: Graph, constants: frozenset[int]) -> Convolution:
    """The convolution of a body that this template takes.

    Raises:
        BackendError: It does not; the message says why.
    """
    problem = convolution_of(body)
    if problem.is_depthwise and problem.group > 1:
        raise BackendError("the convolution is depthwise: vectors of channels share no input")
    check_weights(problem, body, constants)
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


def _plane(problem: Convolution, packed: DirectWeights) -> Plane:
    rows, columns = problem.window.output
    work = round(problem.inputs // problem.group * packed.waste) * packed.taps[0] * packed.taps[1]
    image = problem.inputs * problem.height * problem.width * 4
    return Plane(rows, columns, packed.blocks, problem.batch, work, packed.elements * 4, image)


def _plan(body: Graph, problem: Convolution, target: Target, options: Mapping[str, Any]) -> _Plan:
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
        self.strides = plan.source.strides()
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
        slices = -(-(problem.window.output[0] // plan.tile.rows) // plan.task_rows)
        parts, full, tail = self.weights.parts, self.weights.full_parts, self.weights.tail_blocks
        extents = (problem.batch, slices) if plan.order == "rows" else (parts, problem.batch, slices)
        with builder.parallel(math.prod(extents), "task", enable=plan.parallel) as task:
            *outer, image, part = unravel(builder, task, extents)
            if plan.order == "rows":
                if full:
                    with builder.serial(full, "oc") as channel:
                        self._rows(image, channel, part, slices, plan.tile.vectors)
                if tail:
                    self._rows(image, full, part, slices, tail)
            else:
                if full:
                    with only(builder, outer[0], parts, below=full):
                        channel = builder.bind_index(outer[0], 0, full - 1, "oc") if full > 1 else 0
                        self._rows(image, channel, part, slices, plan.tile.vectors)
                if tail:
                    with only(builder, outer[0], parts, last=True):
                        self._rows(image, full, part, slices, tail)
        self.epilogue.finish()

    def _rows(self, image: Dim, channel: Dim, part: Dim, slices: int, vectors: int) -> None:
        """The rows of one task for `vectors` channel blocks."""
        builder, plan = self.builder, self.schedule
        height = plan.tile.rows
        full, tail = divmod(self.problem.window.output[0], height)
        first = part * plan.task_rows
        even = slices * plan.task_rows == full
        count = builder.simplify(plan.task_rows if even else minimum(plan.task_rows, full - first))
        with builder.serial(count, "row") as tile_row:
            row = builder.simplify((first + tile_row) * height)
            if not even:
                row = builder.bind_index(row, 0, (full - 1) * height, "h")
            self._columns(image, channel, row, height, vectors)
        if tail:
            with only(builder, part, slices, last=True):
                self._columns(image, channel, full * height, tail, vectors)

    def _columns(self, image: Dim, channel: Dim, row: Dim, height: int, vectors: int) -> None:
        width = self.schedule.tile.columns
        full, tail = divmod(self.problem.window.output[1], width)
        with self.builder.serial(full, "col") as position:
            self._tile(image, channel, row, position * width, Tile(height, width, vectors))
        if tail:
            self._tile(image, channel, row, full * width, Tile(height, tail, vectors))

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
        top = row * window.strides[0] - window.pads_begin[0]
        left = column * window.strides[1] - window.pads_begin[1]
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
