"""Depthwise convolution: every channel convolved alone, a vector of channels at a time.

A tile of results stays in registers while the inputs under its windows pass by: each is loaded once and used for every
tap that sees it. Taps stay in registers too where they fit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.conv_problem import Convolution, Source, check_weights, convolution_of, source_of
from graphc.backends.conv_shapes import two_dimensional
from graphc.backends.extents import ceildiv
from graphc.backends.local_extents import Localized, localized
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.conv_weights import depthwise_packing
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.loops import copy_tensor
from graphc.backends.tvm.scope import Lane
from graphc.backends.tvm.tasks import PARALLEL_MACS, RowTiles, channel_tasks, row_tiles, split_until_balanced
from graphc.backends.tvm.tir import KernelBuilder, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ops.window import StaticWindow
from graphc.target import Target

MOST_TAPS = 49
"""Taps up to which a tile is unrolled whole."""

TILE_OVERHEAD = 8
"""Vector operations that one more tile costs."""

_MOST_ROWS = 4
"""Rows of a tile."""

_MOST_OPEN_ROWS = 2
"""Rows of a tile of an open image: the rows that are left over have tiles of every halved height and width."""

_Uses = dict[tuple[int, int], list[tuple[int, int]]]
"""For an input position of a tile, rows and columns from its first: the results it adds to, and by which tap."""


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code of one depthwise convolution."""

    problem: Convolution
    source: Source
    lanes: int
    rows: RowTiles
    columns: RowTiles
    parallel: bool


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a depthwise Conv along one or two axes with constant weights.

    Args:
        body: One Conv and its epilogue.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants.
        options: `depthwise_tile` overrides the register tile: `(rows, columns)`.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    local = localized(two_dimensional(body))
    problem = _accepted(local, constants)
    lanes = target.lanes(dtypes.FLOAT32)
    plan = _plan(local, problem, target, options.get("depthwise_tile"))
    taps = problem.window.kernel[0] * problem.window.kernel[1]
    weight_bytes = -(-problem.inputs // lanes) * lanes * taps * 4
    facts = {"tile": f"{plan.rows.height}x{plan.columns.height} pixels"}
    if plan.source.is_staged:
        facts["input"] = "copied to give it a border"

    def emit(builder: KernelBuilder) -> None:
        _Depthwise(builder, local.body, plan).emit()

    return build_kernel(
        "depthwise",
        local.body,
        target,
        [plan.rows, plan.columns.height],
        emit,
        flops=problem.flops,
        schedule=facts,
        packed={problem.weights: (weight_bytes, depthwise_packing(lanes))},
        workspaces=plan.source.workspaces,
        local=local,
    )


def alternatives(body: Graph, target: Target, constants: frozenset[int]) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring: the best tile of each height.

    Raises:
        BackendError: As of `lower`.
    """
    problem = _accepted(localized(two_dimensional(body)), constants)
    tiles = sorted(tile_costs(target, problem.window).items(), key=lambda entry: entry[1])
    best: dict[int, tuple[int, int]] = {}
    for tile, _ in tiles:
        best.setdefault(tile[0], tile)
    return [{"depthwise_tile": list(tile)} for tile in best.values()]


def _accepted(local: Localized, constants: frozenset[int]) -> Convolution:
    """The convolution of a body that this template takes.

    Raises:
        BackendError: It does not; the message says why.
    """
    problem = convolution_of(local.body, local=local)
    if not problem.is_depthwise or problem.group == 1:
        raise BackendError("the convolution is not depthwise")
    if problem.window.kernel[0] * problem.window.kernel[1] > MOST_TAPS:
        raise BackendError(f"more than {MOST_TAPS} taps")
    check_weights(problem, local.body, constants)
    return problem


def _plan(local: Localized, problem: Convolution, target: Target, override: tuple[int, int] | None) -> _Plan:
    lanes, plane = target.lanes(dtypes.FLOAT32), problem.plane
    most = _MOST_OPEN_ROWS if plane.is_open else _MOST_ROWS
    height, width = override or choose_tile(target, problem.window, most)
    blocks = problem.batch * -(-problem.inputs // lanes)
    parallel = problem.macs >= PARALLEL_MACS
    full = max(1, problem.window.output[0] // height)
    slices = split_until_balanced(blocks, full, target.cores) if parallel else 1
    return _Plan(
        problem,
        source_of(problem, local.body.inputs[problem.data].tensor_type, lanes),
        lanes,
        row_tiles(plane.rows, height, slices, usual=local.usual(plane.rows)),
        RowTiles(plane.columns, width, ceildiv(plane.columns, width)),
        parallel,
    )


def tile_uses(window: StaticWindow, rows: int, columns: int) -> _Uses:
    """What a tile of `rows` x `columns` results reads, and for what."""
    uses: _Uses = defaultdict(list)
    for result in range(rows * columns):
        row, column = divmod(result, columns)
        for tap in range(window.kernel[0] * window.kernel[1]):
            i, j = divmod(tap, window.kernel[1])
            place = (
                row * window.strides[0] + i * window.dilations[0],
                column * window.strides[1] + j * window.dilations[1],
            )
            uses[place].append((result, tap))
    return uses


def choose_tile(target: Target, window: StaticWindow, most_rows: int = _MOST_ROWS) -> tuple[int, int]:
    """Rows, `most_rows` of them at most, and columns of the tile with which results take the fewest operations."""
    costs = tile_costs(target, window, most_rows)
    return min(costs, key=costs.__getitem__)


def tile_costs(
    target: Target, window: StaticWindow, most_rows: int = _MOST_ROWS
) -> dict[tuple[int, int], tuple[float, int]]:
    """For every tile, rows by columns: its vector operations, and its rank among equals."""
    taps = window.kernel[0] * window.kernel[1]
    registers = target.vector_registers
    # Taps that do not fit beside the results are operands in memory, a load for every multiply-add.
    resident = taps if taps + 6 < registers else 0
    most = registers - resident - 2

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        total = 0.0
        for rows, row_count in _parts(window.output[0], tile[0]):
            for columns, column_count in _parts(window.output[1], tile[1]):
                work = rows * columns * taps
                loads = len(tile_uses(window, rows, columns)) + (taps if resident else work)
                total += row_count * column_count * (work + 0.5 * loads + TILE_OVERHEAD)
        return total, -tile[1]

    tiles = [
        (rows, columns)
        for rows in range(1, min(most_rows, window.output[0]) + 1)
        for columns in range(1, min(most // rows, window.output[1]) + 1)
    ]
    return {tile: cost(tile) for tile in tiles}


def _parts(extent: int, size: int) -> list[tuple[int, int]]:
    full, tail = divmod(extent, size)
    return [part for part in ((size, full), (tail, 1 if tail else 0)) if part[1]]


class _Depthwise:
    """Emits the loops of one depthwise convolution."""

    def __init__(self, builder: KernelBuilder, body: Graph, plan: _Plan) -> None:
        self.builder = builder
        self.body = body
        self.plan = plan
        self.problem = plan.problem
        self.strides = plan.source.strides().map(lambda step: builder.bind_index(step, 0, None, "step"))
        count = len(body.inputs)
        outputs = range(count, count + len(body.outputs))
        self.data = outputs.stop if plan.source.is_staged else plan.problem.data
        self.epilogue = Epilogue(builder, body, plan.problem.anchor, {i: i for i in range(count)}, outputs)

    def emit(self) -> None:
        """Writes the whole kernel into the builder."""
        builder, plan, problem = self.builder, self.plan, self.problem
        if plan.source.is_staged:
            original = self.body.inputs[problem.data].tensor_type
            copy_tensor(builder, original, problem.data, plan.source.type, self.data)
        extents = (problem.plane.batch, problem.inputs, plan.rows.blocks)
        channel_tasks(builder, extents, plan.lanes, self._block, parallel=plan.parallel)
        self.epilogue.finish()

    def _block(self, image: Dim, block: Dim, part: Dim, count: int | None) -> None:
        """A few rows of one block of channels."""

        def rows(row: Dim, height: int) -> None:
            def tile(column: Dim, width: int) -> None:
                self._tile(image, block, row, column, height, width, count)

            self.plan.columns.each(self.builder, 0, tile)

        self.plan.rows.each(self.builder, part, rows)

    def _tile(self, image: Dim, block: Dim, row: Dim, column: Dim, height: int, width: int, count: int | None) -> None:
        builder, lanes, window = self.builder, self.plan.lanes, self.problem.window
        taps = window.kernel[0] * window.kernel[1]
        top = row * window.strides[0] - self.problem.plane.top
        left = column * window.strides[1] - self.problem.plane.left
        data = self.strides.at(image, block, top, left)
        data = builder.bind_index(builder.simplify(data), 0, None, "x")
        weights = [
            bind(builder.load(self.problem.weights, block * (taps * lanes) + tap * lanes, lanes)) for tap in range(taps)
        ]
        start = bind(self._bias(block, count))
        sums = [builder.accumulator(lanes) for _ in range(height * width)]
        for register in sums:
            register.value = start
        for (i, j), uses in sorted(tile_uses(window, height, width).items()):
            place = data + i * self.strides.row + j * self.strides.column
            value = bind(builder.load(self.data, place, lanes))
            for result, tap in uses:
                sums[result].value = sums[result].value + value * weights[tap]
        for result, register in enumerate(sums):
            with builder.lanes(lanes) as name:
                index = [image, block * lanes + symbol(name), row + result // width, column + result % width]
                self.epilogue.store(register.value, index, Lane(name, lanes, count))

    def _bias(self, block: Dim, count: int | None) -> Any:
        lanes = self.plan.lanes
        if self.problem.bias is None:
            return broadcast(T.float32(0), lanes)
        return self.builder.load(self.problem.bias, block * lanes, lanes, 1, count)
