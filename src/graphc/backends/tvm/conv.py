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

from graphc.backends.base import Kernel, Operand, content_key
from graphc.backends.regions import signature
from graphc.backends.tvm import objects
from graphc.backends.tvm.conv_problem import Convolution, Source, convolution_of, epilogue_inputs, flattened, source_of
from graphc.backends.tvm.conv_tiles import Plane, Schedule, Tile, choose_schedule
from graphc.backends.tvm.conv_weights import DirectWeights, merge_factor
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.loops import copy_tensor, unravel, unrolled
from graphc.backends.tvm.render import Lane
from graphc.backends.tvm.tasks import only
from graphc.backends.tvm.tir import KernelBuilder, Register, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ir.symbolic import minimum
from graphc.target import Target

UNROLL = 2
"""Input channels per iteration of the innermost loop."""

MOST_WASTE = 32
"""Times as many multiply-adds as the model asks for that merging groups may cost."""


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code of one direct convolution."""

    problem: Convolution
    source: Source
    weights: DirectWeights
    schedule: Schedule


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a 2-D Conv with constant weights.

    Args:
        body: One Conv and its epilogue.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants.
        options: `conv_tile` overrides the register tile: `(rows, columns, vectors)`.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    body = flattened(body)
    problem = convolution_of(body)
    if problem.weights not in constants:
        raise BackendError("the weights of the convolution are not a constant")
    after = epilogue_inputs(body, problem.anchor)
    if problem.weights in after or problem.data == problem.weights or problem.bias == problem.weights:
        raise BackendError("the weights of the convolution are read for something else too")
    plan = _plan(body, problem, target, options.get("conv_tile"))
    key = content_key(["conv", signature(body), target, plan.schedule, plan.weights, objects.versions()])
    name = f"graphc_conv_{key[:16]}"
    inputs = [value.tensor_type for value in body.inputs]
    outputs = [value.tensor_type for value in body.outputs]
    operands = [
        Operand("input", i, plan.weights.elements * 4, plan.weights.packing())
        if i == problem.weights
        else Operand("input", i, kind.storage_bytes)
        for i, kind in enumerate(inputs)
    ]
    operands += [Operand("output", i, kind.storage_bytes) for i, kind in enumerate(outputs)]
    if plan.source.is_staged:
        operands.append(Operand("workspace", 0, plan.source.type.storage_bytes))

    def emit() -> Any:
        pointers = [kind.dtype for kind in (*inputs, *outputs)]
        if plan.source.is_staged:
            pointers.append(dtypes.FLOAT32)
        with KernelBuilder(name, pointers, vector_bytes=target.vector_bytes, bounds=body.bounds) as builder:
            _Conv(builder, body, plan).emit()
        return builder.function

    moved: Dim = 0
    for operand in operands:
        moved = moved + operand.size
    return Kernel(
        key=key,
        template="conv",
        operands=tuple(operands),
        dims=(),
        flops=2 * problem.macs,
        bytes=moved,
        schedule=_describe(plan),
        compile=lambda: objects.compile_function(emit(), name, target),
    )


def _plan(body: Graph, problem: Convolution, target: Target, override: tuple[int, int, int] | None) -> _Plan:
    lanes = target.lanes(dtypes.FLOAT32)
    source = source_of(problem, body.inputs[problem.data].tensor_type)
    small_in, small_out = problem.inputs // problem.group, problem.outputs // problem.group
    is_blocked = source.type.layout.blocked_axis is not None
    merged = merge_factor(problem.group, small_in, small_out, source.block if is_blocked else 1, lanes)
    if merged > MOST_WASTE:
        raise BackendError(f"groups of {small_in} channels are too small for vectors of {lanes}")
    inputs, outputs = merged * small_in, merged * small_out
    (rows, columns), taps = problem.window.output, (problem.window.kernel[0], problem.window.kernel[1])
    blocks = -(-outputs // lanes)
    groups = problem.group // merged
    plane = Plane(
        rows,
        columns,
        blocks,
        problem.batch * groups,
        inputs * taps[0] * taps[1],
        inputs * taps[0] * taps[1] * blocks * lanes * 4,
        inputs * problem.height * problem.width * 4,
    )
    schedule = choose_schedule(target, plane, whole_blocks=groups > 1, tile=Tile(*override) if override else None)
    depth = min(source.block, inputs)
    weights = DirectWeights(problem.outputs, problem.group, merged, inputs, taps, depth, schedule.tile.vectors, lanes)
    return _Plan(problem, source, weights, schedule)


def _describe(plan: _Plan) -> dict[str, Any]:
    facts: dict[str, Any] = {"tile": str(plan.schedule.tile)}
    facts["tasks"] = f"{plan.schedule.order} first" if plan.schedule.parallel else "serial"
    if plan.source.is_staged:
        facts["input"] = "copied to give it a border"
    if plan.weights.merged > 1:
        facts["groups"] = f"{plan.weights.merged} of {plan.weights.group} in one"
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
        groups, full, tail = self.weights.groups, self.weights.full_parts, self.weights.tail_blocks
        parts = full + (tail > 0)
        if plan.order == "rows":
            extents: tuple[int, ...] = (groups, problem.batch, slices)
        else:
            extents = (groups, parts, problem.batch, slices)
        with builder.parallel(math.prod(extents), "task", enable=plan.parallel) as task:
            index = unravel(builder, task, extents)
            group, image, part = index[0], index[-2], index[-1]
            if plan.order == "rows":
                with builder.serial(full, "oc") as channel:
                    self._rows(image, group, channel, part, slices, plan.tile.vectors)
                if tail:
                    self._rows(image, group, full, part, slices, tail)
            else:
                if full:
                    with only(builder, index[1], parts, below=full):
                        channel = builder.bind_index(index[1], 0, full - 1, "oc") if full > 1 else 0
                        self._rows(image, group, channel, part, slices, plan.tile.vectors)
                if tail:
                    with only(builder, index[1], parts, last=True):
                        self._rows(image, group, full, part, slices, tail)
        self.epilogue.finish()

    def _rows(self, image: Dim, group: Dim, channel: Dim, part: Dim, slices: int, vectors: int) -> None:
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
            self._columns(image, group, channel, row, height, vectors)
        if tail:
            with only(builder, part, slices, last=True):
                self._columns(image, group, channel, full * height, tail, vectors)

    def _columns(self, image: Dim, group: Dim, channel: Dim, row: Dim, height: int, vectors: int) -> None:
        width = self.schedule.tile.columns
        full, tail = divmod(self.problem.window.output[1], width)
        with self.builder.serial(full, "col") as position:
            self._tile(image, group, channel, row, position * width, Tile(height, width, vectors))
        if tail:
            self._tile(image, group, channel, row, full * width, Tile(height, tail, vectors))

    def _tile(self, image: Dim, group: Dim, channel: Dim, row: Dim, column: Dim, tile: Tile) -> None:
        """One tile of results, from clearing the registers to the stores."""
        builder, weights = self.builder, self.weights
        block = channel * self.schedule.tile.vectors
        first = group * (weights.blocks * self.lanes) + block * self.lanes
        counts = [self._count(channel, v) for v in range(tile.vectors)]
        sums = [[builder.accumulator(self.lanes) for _ in range(tile.vectors)] for _ in range(tile.rows * tile.columns)]
        for v in range(tile.vectors):
            start = bind(self._bias(first + v * self.lanes, counts[v]))
            for pixel in sums:
                pixel[v].value = start
        self._accumulate(sums, image, group, block, row, column, tile)
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
        inside = self.problem.outputs // self.weights.groups
        first = (channel * self.schedule.tile.vectors + vector) * self.lanes
        return inside - first if first + self.lanes > inside else None

    def _bias(self, channel: Dim, count: int | None) -> Any:
        if self.problem.bias is None:
            return broadcast(T.float32(0), self.lanes)
        return self.builder.load(self.problem.bias, channel, self.lanes, 1, count)

    def _accumulate(
        self, sums: list[list[Register]], image: Dim, group: Dim, block: Dim, row: Dim, column: Dim, tile: Tile
    ) -> None:
        """Sums over input channels and taps into the registers."""
        builder, weights, strides, window = self.builder, self.weights, self.strides, self.problem.window
        depth = weights.depth
        top = row * window.strides[0] - window.pads_begin[0]
        left = column * window.strides[1] - window.pads_begin[1]
        data = strides.at(image, 0, top, left)
        if weights.groups > 1:
            blocks = self.source.type.layout.blocked_axis is not None
            data = data + group * (
                weights.inputs // depth * strides.block if blocks else weights.inputs * strides.channel
            )
        width = tile.vectors * self.lanes
        packed = group * weights.group_elements + block * (self.lanes * weights.reduction)
        rows, columns = weights.taps

        def channels(outer: Dim, extent: int) -> None:
            with builder.serial(rows, "kh") as kh, builder.serial(columns, "kw") as kw:
                at = data + outer * strides.block
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

        full, rest = divmod(weights.inputs, depth)
        with builder.serial(full, "ic") as outer:
            channels(outer, depth)
        if rest:
            channels(full, rest)

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
