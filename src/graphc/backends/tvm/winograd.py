"""Winograd convolution: 3x3 with stride 1 as products of transformed tiles, with up to four times fewer multiply-adds.

Transformed inputs V and products M live in workspaces, both as [point][channel block][tile][lane]. The relative error
is a few times that of a direct convolution (3e-6 to 6e-6 for 4x4 tiles), and a NaN or infinity spreads over the tiles
that see it; option `winograd` turns it off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.conv_problem import Convolution, Source, check_weights, convolution_of, source_of
from graphc.backends.extents import ceildiv
from graphc.backends.local_extents import Localized, localized
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.conv_weights import DirectWeights
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.loops import copy_tensor, unrolled
from graphc.backends.tvm.scope import Lane
from graphc.backends.tvm.tasks import RowTiles, only
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast
from graphc.backends.tvm.winograd_plan import WinogradPlan, choose_plan, padded_vectors
from graphc.backends.tvm.winograd_transforms import filter_packing, two_sided
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ir.symbolic import floordiv, maximum, minimum, multiply
from graphc.target import Target

UNROLL = 2
"""Input channels per iteration of the innermost loop."""


@dataclass(frozen=True)
class _Kernel:
    """Everything that decides the code of one Winograd convolution."""

    problem: Convolution
    source: Source
    weights: DirectWeights
    plan: WinogradPlan

    @property
    def input_blocks(self) -> int:
        """Channel blocks of the input."""
        return -(-self.problem.inputs // self.weights.lanes)

    @property
    def input_point(self) -> int:
        """Elements of V from one point to the next."""
        return padded_vectors(self.input_blocks * self.plan.block, self.weights.lanes) * self.weights.lanes

    @property
    def output_point(self) -> int:
        """Elements of M from one point to the next."""
        return padded_vectors(self.plan.tile.vectors * self.plan.block, self.weights.lanes) * self.weights.lanes

    @property
    def input_slot(self) -> int:
        """Elements of V of one block of tiles."""
        return self.plan.transform.points * self.input_point

    @property
    def output_slot(self) -> int:
        """Elements of M of one block of tiles and one group of channel blocks."""
        return self.plan.transform.points * self.output_point

    def workspaces(self) -> tuple[int, int]:
        """Bytes of V and of M."""
        inputs = self.plan.slots if self.plan.order == "tiles" else 1
        return inputs * self.input_slot * 4, self.plan.slots * self.output_slot * 4


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a 3x3 Conv of stride 1 with constant weights.

    Args:
        body: One Conv and its epilogue.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants.
        options: `winograd=False` refuses; `winograd_size` (2 or 4) and `winograd_order` ("tiles" or "channels") force
            what the cost would choose.

    Raises:
        BackendError: The body is something else, or a direct convolution is faster; the message says what.
    """
    if not options.get("winograd", True):
        raise BackendError("Winograd convolution is turned off")
    local = localized(body)
    problem = _accepted(local, constants)
    plan = choose_plan(problem, target, size=options.get("winograd_size"), order=options.get("winograd_order"))
    if plan is None:
        raise BackendError("a direct convolution is faster")
    lanes = target.lanes(dtypes.FLOAT32)
    parts = _Kernel(
        problem,
        source_of(problem, local.body.inputs[problem.data].tensor_type, lanes),
        DirectWeights(problem.outputs, problem.inputs, 1, (1, 1), lanes, plan.tile.vectors, lanes),
        plan,
    )
    facts = plan.describe()
    if parts.source.is_staged:
        facts["input"] = "copied to give it a border"

    def emit(builder: KernelBuilder) -> None:
        _Winograd(builder, local.body, parts).emit()

    filters = plan.transform.points * parts.weights.elements * 4, filter_packing(plan.transform, parts.weights)
    return build_kernel(
        "winograd",
        local.body,
        target,
        [plan.describe(), plan.slots],
        emit,
        flops=problem.flops,
        schedule=facts,
        packed={problem.weights: filters},
        workspaces=[*parts.workspaces(), *parts.source.workspaces],
        local=local,
    )


def alternatives(body: Graph, target: Target, constants: frozenset[int]) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring: every size of tiles in either order.

    Raises:
        BackendError: As of `lower`.
    """
    _accepted(localized(body), constants)
    return [{"winograd_size": size, "winograd_order": order} for size in (4, 2) for order in ("tiles", "channels")]


def _accepted(local: Localized, constants: frozenset[int]) -> Convolution:
    """The convolution of a body that can be transformed.

    Raises:
        BackendError: It cannot; the message says why.
    """
    problem = convolution_of(local.body, local=local)
    window = problem.window
    if window.kernel != (3, 3) or window.strides != (1, 1) or window.dilations != (1, 1) or problem.group != 1:
        raise BackendError("the convolution is not 3x3 of stride 1, dense in taps and channels")
    check_weights(problem, local.body, constants)
    return problem


def _all_below(builder: KernelBuilder, pairs: Sequence[tuple[int, Dim]]) -> Any:
    """Whether each place is below its extent, 1 at least: True or False where that is known, or a condition."""
    open_ = [(place, extent) for place, extent in pairs if not isinstance(extent, int) and place > 0]
    if any(isinstance(extent, int) and place >= extent for place, extent in pairs):
        return False
    conditions = [builder.index(place) < builder.index(extent) for place, extent in open_]
    return functools.reduce(T.And, conditions) if conditions else True


class _Winograd:
    """Emits the loops of one Winograd convolution."""

    def __init__(self, builder: KernelBuilder, body: Graph, parts: _Kernel) -> None:
        self.builder = builder
        self.body = body
        self.parts = parts
        self.problem = parts.problem
        self.plan = parts.plan
        self.weights = parts.weights
        self.lanes = parts.weights.lanes
        self.strides = parts.source.strides().map(lambda step: builder.bind_index(step, 0, None, "step"))
        self.batch, size = parts.problem.plane.batch, parts.plan.transform.size
        self.pixels = parts.problem.plane.rows, parts.problem.plane.columns
        rows, columns = (builder.bind_index(ceildiv(extent, size), 1, None, "grid") for extent in self.pixels)
        self.grid = rows, columns
        self.tiles = builder.bind_index(self.batch * rows * columns, 1, None, "tiles")
        self.is_open = not isinstance(self.tiles, int)
        count = len(body.inputs)
        outputs = range(count, count + len(body.outputs))
        self.v, self.m = outputs.stop, outputs.stop + 1
        self.data = outputs.stop + 2 if parts.source.is_staged else parts.problem.data
        self.epilogue = Epilogue(builder, body, parts.problem.anchor, {i: i for i in range(count)}, outputs)

    def emit(self) -> None:
        """Writes the whole kernel into the builder."""
        builder, problem = self.builder, self.problem
        if self.parts.source.is_staged:
            original = self.body.inputs[problem.data].tensor_type
            copy_tensor(builder, original, problem.data, self.parts.source.type, self.data)
        if self.plan.order == "tiles":
            self._by_tiles()
        else:
            self._by_channels()
        self.epilogue.finish()

    def _by_tiles(self) -> None:
        """Every thread takes blocks of tiles through all three steps."""
        builder, plan, weights = self.builder, self.plan, self.weights
        size: Dim = plan.block
        if self.is_open:
            # Blocks are no larger than what there is for each thread.
            size = builder.bind_index(minimum(plan.block, ceildiv(self.tiles, plan.slots)), 1, plan.block, "size")
        blocks = builder.bind_index(ceildiv(self.tiles, size), 1, None, "blocks")
        share = builder.bind_index(ceildiv(blocks, plan.slots), 1, None, "share")
        even = not self.is_open and multiply(share, plan.slots) == blocks
        with builder.parallel(plan.slots, "slot") as slot:
            rounds: Dim = share if even else maximum(0, minimum(share, blocks - slot * share))
            with builder.serial(builder.simplify(rounds), "block") as block:
                start = builder.bind_index((slot * share + block) * size, 0, self.tiles - 1, "start")
                count: Dim = size
                if self.is_open:
                    count = builder.bind_index(minimum(size, self.tiles - start), 1, plan.block, "count")
                elif multiply(blocks, size) != self.tiles:
                    count = minimum(size, self.tiles - start)
                with builder.serial(count, "tile") as tile:
                    self._transform_input(slot * self.parts.input_slot, start, tile)
                with builder.serial(weights.full_parts, "oc") as part:
                    self._channels(slot, slot * self.parts.input_slot, part, weights.vectors, start, count)
                if weights.tail_blocks:
                    self._channels(
                        slot, slot * self.parts.input_slot, weights.full_parts, weights.tail_blocks, start, count
                    )

    def _by_channels(self) -> None:
        """All tiles are transformed, then every thread takes some output channels; open ones a block at a time."""
        builder, block = self.builder, self.plan.block
        if not self.is_open:
            self._all_channels(0, self.tiles)
            return
        with builder.serial(ceildiv(self.tiles, block), "block") as number:
            start = builder.bind_index(number * block, 0, self.tiles - 1, "start")
            self._all_channels(start, builder.bind_index(minimum(block, self.tiles - start), 1, block, "count"))

    def _all_channels(self, start: Dim, count: Dim) -> None:
        """One block of tiles, all of whose channels the threads share."""
        builder, plan, weights = self.builder, self.plan, self.weights
        with builder.parallel(count, "tile") as tile:
            self._transform_input(0, start, tile)
        parts = weights.parts
        slots = min(plan.slots, parts)
        share = -(-parts // slots)
        with builder.parallel(slots, "slot") as slot:
            even = share * slots == parts
            rounds: Dim = share if even else minimum(share, parts - slot * share)
            with builder.serial(rounds, "oc") as step:
                part = builder.bind_index(builder.simplify(slot * share + step), 0, parts - 1, "part")
                if weights.full_parts:
                    with only(builder, part, parts, below=weights.full_parts):
                        inside = builder.bind_index(part, 0, weights.full_parts - 1, "part")
                        self._channels(slot, 0, inside, weights.vectors, start, count)
                if weights.tail_blocks:
                    with only(builder, part, parts, last=True):
                        self._channels(slot, 0, weights.full_parts, weights.tail_blocks, start, count)

    def _place(self, tile: Dim) -> tuple[Dim, Dim, Dim]:
        """Image, row and column of a tile."""
        builder = self.builder
        rows, columns = self.grid
        tile = builder.bind_index(builder.simplify(tile), 0, self.tiles - 1, "t")
        row = builder.simplify(tile // columns)
        image: Dim = 0
        if self.batch != 1:
            image = builder.bind_index(builder.simplify(tile // (rows * columns)), 0, self.batch - 1, "n")
            row = builder.simplify(row % rows)
        column = builder.bind_index(builder.simplify(tile % columns), 0, columns - 1, "tx")
        return image, builder.bind_index(row, 0, rows - 1, "ty"), column

    def _at_edges(self, row: Dim, column: Dim, emit: Callable[[Dim, Dim, Dim, Dim], None]) -> None:
        """Calls `emit(row, column, height, width)` where tiles are whole, and where the image ends inside them."""
        size = self.plan.transform.size
        height, width = self.pixels
        rows, columns = self.grid
        if not (isinstance(height, int) and isinstance(width, int)):
            self._at_open_edges(row, column, emit)
            return
        assert isinstance(rows, int)
        assert isinstance(columns, int)

        @contextmanager
        def along(place: Dim, extent: int, *, last: bool) -> Iterator[Dim]:
            if last:
                with only(self.builder, place, extent, last=True):
                    yield extent - 1
            else:
                with only(self.builder, place, extent, below=extent - 1):
                    yield self.builder.bind_index(place, 0, extent - 2, "inner")

        def cases(extent: int, pixels: int) -> list[tuple[bool | None, int]]:
            tail = pixels % size
            if not tail:
                return [(None, size)]
            return [(False, size), (True, tail)] if extent > 1 else [(None, tail)]

        for last_row, inside_rows in cases(rows, height):
            for last_column, inside_columns in cases(columns, width):
                with ExitStack() as stack:
                    y, x = row, column
                    if last_row is not None:
                        y = stack.enter_context(along(row, rows, last=last_row))
                    if last_column is not None:
                        x = stack.enter_context(along(column, columns, last=last_column))
                    emit(y, x, inside_rows, inside_columns)

    def _at_open_edges(self, row: Dim, column: Dim, emit: Callable[[Dim, Dim, Dim, Dim], None]) -> None:
        """As `_at_edges`, where only the call knows the image's size: a tile is whole, or asks for each pixel."""
        builder, size = self.builder, self.plan.transform.size
        inside = [
            builder.bind_index(minimum(size, extent - place * size), 1, size, "inside")
            for place, extent in zip((row, column), self.pixels, strict=True)
        ]
        whole = [builder.index(count) == builder.index(size) for count in inside]
        with builder.when(T.And(*whole)):
            places = [
                builder.bind_index(place, 0, floordiv(extent, size) - 1, "inner")
                for place, extent in zip((row, column), self.pixels, strict=True)
            ]
            emit(places[0], places[1], size, size)
        with builder.when(T.Not(T.And(*whole))):
            emit(row, column, inside[0], inside[1])

    def _transform_input(self, slot: Dim, start: Dim, tile: Dim) -> None:
        """All channel blocks of one tile into V."""
        builder, plan, plane = self.builder, self.plan, self.problem.plane
        transform, lanes, block = plan.transform, self.lanes, plan.block
        image, row, column = self._place(start + tile)
        zero = broadcast(T.float32(0), lanes)

        def whole(y: Dim, x: Dim, height: Dim, width: Dim) -> None:
            with builder.serial(self.parts.input_blocks, "ic") as channel:
                top, left = y * transform.size - plane.top, x * transform.size - plane.left
                data = builder.bind_index(builder.simplify(self.strides.at(image, channel, top, left)), 0, None, "x")
                made = builder.bind_index(builder.simplify(slot + (channel * block + tile) * lanes), 0, None, "v")

                def load(i: int, j: int) -> Expr:
                    # Past what the results inside the image need there may be no storage.
                    exists = _all_below(builder, ((i - 2, height), (j - 2, width)))
                    if exists is False:
                        return zero
                    place = data + i * self.strides.row + j * self.strides.column
                    if exists is True:
                        return builder.load(self.data, place, lanes)
                    found = builder.accumulator(lanes)
                    found.value = zero
                    with builder.when(exists):
                        found.value = builder.load(self.data, place, lanes)
                    return found.value

                def store(i: int, j: int, value: Expr) -> None:
                    point = i * transform.reach + j
                    builder.store(self.v, value, made + point * self.parts.input_point, lanes)

                two_sided(transform.input, transform.reach, load, store)

        self._at_edges(row, column, whole)

    def _channels(self, slot: Dim, inputs: Dim, part: Dim, vectors: int, start: Dim, count: Dim) -> None:
        """Products of a block of tiles with one group of channel blocks, transformed back and stored."""
        builder, plan = self.builder, self.plan
        results = slot * self.parts.output_slot
        group = self.weights.inputs * self.weights.lanes
        base = part * (plan.transform.points * self.weights.vectors * group)
        with builder.serial(plan.transform.points, "point") as point:
            filters = builder.bind_index(builder.simplify(base + point * (vectors * group)), 0, None, "u")
            source = builder.bind_index(builder.simplify(inputs + point * self.parts.input_point), 0, None, "v")
            made = builder.bind_index(builder.simplify(results + point * self.parts.output_point), 0, None, "m")
            width = plan.tile.columns
            tiles: Dim = count if self.is_open else plan.block

            def products(first: Dim, columns: int) -> None:
                self._products(filters, source, made, first, columns, vectors)

            RowTiles(tiles, width, ceildiv(tiles, width)).each(builder, 0, products)
        first = part * self.weights.vectors
        whole = self.problem.outputs // self.lanes
        with builder.serial(count, "tile") as tile:
            image, row, column = self._place(start + tile)
            inside = vectors if not isinstance(part, int) else min(vectors, whole - part * self.weights.vectors)
            with builder.serial(inside, "v") as vector:
                self._transform_output(results, tile, vector, first + vector, None, (image, row, column))
            if inside < vectors:
                rest = self.problem.outputs - whole * self.lanes
                self._transform_output(results, tile, inside, whole, rest, (image, row, column))

    def _products(self, filters: Dim, source: Dim, made: Dim, first: Dim, tiles: int, vectors: int) -> None:
        """One register tile of one point: sums over input channels."""
        builder, lanes, block = self.builder, self.lanes, self.plan.block
        width = vectors * lanes
        sums = [[builder.accumulator(lanes) for _ in range(vectors)] for _ in range(tiles)]
        for register in (r for row in sums for r in row):
            register.value = broadcast(T.float32(0), lanes)

        def step(data: Dim, weights: Dim) -> None:
            right = [bind(builder.load(self.problem.weights, weights + v * lanes, lanes)) for v in range(vectors)]
            for number, row in enumerate(sums):
                factor = bind(broadcast(builder.load(self.v, data + number * lanes), lanes))
                for register, vector in zip(row, right, strict=True):
                    register.value = register.value + factor * vector

        def channels(outer: Dim, extent: int) -> None:
            data = source + (outer * block + first) * lanes
            weights = filters + outer * (lanes * width)
            unrolled(builder, extent, UNROLL, lambda k: step(data + k, weights + k * width))

        full, rest = divmod(self.problem.inputs, lanes)
        with builder.serial(full, "ic") as outer:
            channels(outer, lanes)
        if rest:
            channels(full, rest)
        for number, row in enumerate(sums):
            for v, register in enumerate(row):
                builder.store(self.m, register.value, made + (v * block + first + number) * lanes, lanes)

    def _transform_output(
        self, results: Dim, tile: Dim, vector: Dim, block: Dim, count: int | None, place: tuple[Dim, Dim, Dim]
    ) -> None:
        """One tile of one channel block: from M to the stores."""
        builder, plan, lanes = self.builder, self.plan, self.lanes
        transform = plan.transform
        image, row, column = place
        source = results + (vector * plan.block + tile) * lanes
        source = builder.bind_index(builder.simplify(source), 0, None, "m")
        zero = broadcast(T.float32(0), lanes)
        bias = zero
        if self.problem.bias is not None:
            bias = bind(builder.load(self.problem.bias, block * lanes, lanes, 1, count))

        def whole(y: Dim, x: Dim, height: Dim, width: Dim) -> None:
            def load(i: int, j: int) -> Expr:
                point = i * transform.reach + j
                return builder.load(self.m, source + point * self.parts.output_point, lanes)

            def store(i: int, j: int, value: Expr) -> None:
                exists = _all_below(builder, ((i, height), (j, width)))
                if exists is False:
                    return
                with ExitStack() as stack:
                    if exists is not True:
                        stack.enter_context(builder.when(exists))
                    name = stack.enter_context(builder.lanes(lanes))
                    index = [image, block * lanes + symbol(name), y * transform.size + i, x * transform.size + j]
                    self.epilogue.store(value + bias, index, Lane(name, lanes, count))

            two_sided(transform.output, transform.reach, load, store)

        self._at_edges(row, column, whole)
