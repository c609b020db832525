"""Attention as one kernel: a tile of queries at a time goes from scores through softmax to its share of the values.

Keys are transposed once per head into panels of a workspace (or read where they lie, if they come transposed), so that
scores of neighbouring keys fill a vector. The scores of a tile stay in L1 between the two products, as `[keys / lanes]
[rows][lanes]`: steps along both are constants, whatever the number of keys, where a stride that only the call knows
would take a register for every row. Query, key, value and result are read and written where the operators around them
left them: no transposition is a kernel.

Half-width floats are float32 from the moment they are read to the one rounding of the result; a tile's queries, each
element of which is broadcast for every panel of keys, are widened once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.element_types import is_narrow_float
from graphc.backends.extents import ceildiv, count_of, extent_of, unflatten
from graphc.backends.heads import MASKED, Heads, bias_of, heads_of_region, inputs_of
from graphc.backends.problem import FreeSymbols
from graphc.backends.tvm import scalar_ops, vectormath
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.element_types import from_storage, to_storage
from graphc.backends.tvm.gemm_tiles import Tile, fitting, multiply, sweep_cost
from graphc.backends.tvm.partial_sums import uncut
from graphc.backends.tvm.render import Renderer
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.stores import store
from graphc.backends.tvm.tasks import PARALLEL_MACS, Chunks, RowTiles, chunks_of, row_tiles, split_until_balanced
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast, horizontal
from graphc.backends.tvm.transpose import copy_transposed
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ir.symbolic import Bounds, floordiv, minimum, typical
from graphc.ops.expr import Axis
from graphc.target import Target


@dataclass(frozen=True)
class Schedule:
    """How an attention is cut.

    Args:
        lanes: Width of a vector.
        score: Registers of a tile of scores: queries by vectors of keys.
        weighted: Registers of a tile of the result: as many queries, by vectors of a value's elements.
        queries: Tiles of the queries of a head, in as many blocks as threads share a head's queries.
        tasks: (batch, head, block of queries) triples.
        transposes: (batch, head of the key) pairs whose keys are transposed before all else; None where the task that
            reads a head's keys transposes them itself, or where they come transposed.
        transposed: Whether keys are transposed at all.
    """

    lanes: int
    score: Tile
    weighted: Tile
    queries: RowTiles
    tasks: Chunks
    transposes: Chunks | None
    transposed: bool

    @property
    def panel(self) -> int:
        """Keys of a tile of scores."""
        return self.score.vectors * self.lanes

    def describe(self) -> dict[str, Any]:
        """What is worth showing."""
        return {
            "scores": f"{self.score.rows}x{self.score.vectors * self.lanes}",
            "values": f"{self.weighted.rows}x{self.weighted.vectors * self.lanes}",
            "keys": "in place" if not self.transposed else "transposed by head" if self.transposes is None else "first",
            "tasks": str(self.tasks.tasks) if self.tasks.parallel else "serial",
        }


def choose_schedule(heads: Heads, target: Target, bounds: Bounds) -> Schedule:
    """The schedule of an attention: the tile height serves both products.

    Args:
        heads: The attention.
        target: The CPU.
        bounds: Of the symbols of open extents, which are weighed at their usual values.
    """
    lanes = target.lanes(dtypes.FLOAT32)
    queries, keys = typical(heads.query.extent, bounds), typical(heads.key.extent, bounds)
    size, elements = extent_of([heads.size]), extent_of([heads.value])
    key_vectors, value_vectors = -(-keys // lanes), -(-elements // lanes)

    # Among so many loops LLVM's register allocator was seen to keep a tile in memory that has no register to spare.
    registers = target.vector_registers - target.vector_registers // 12

    def best(vectors: int) -> dict[int, tuple[float, Tile]]:
        """By height, the cheapest tile and its cost."""
        found: dict[int, tuple[float, Tile]] = {}
        for tile in fitting(target, queries, vectors):
            if tile.rows * tile.vectors * tile.ways + tile.vectors + 1 > registers:
                continue
            cost = sweep_cost(tile, queries, vectors)
            if tile.rows not in found or cost < found[tile.rows][0]:
                found[tile.rows] = (cost, tile)
        return found

    scores, weighted = best(key_vectors), best(value_vectors)
    rows = min(scores.keys() & weighted.keys(), key=lambda r: size * scores[r][0] + keys * weighted[r][0])
    products = count_of([heads.batch, heads.head])
    usual = typical(products, bounds)
    parallel = usual * queries * keys * (size + elements) >= PARALLEL_MACS
    tiles = -(-queries // rows)
    blocks = split_until_balanced(usual, tiles, target.cores) if parallel else 1
    cut = row_tiles(heads.query.extent, rows, blocks, bounds)
    transposed = heads.k.stride(heads.key) != 1
    first = transposed and (cut.blocks != 1 or heads.ratio > 1)
    key_heads = count_of([heads.batch, heads.group])
    return Schedule(
        lanes,
        scores[rows][1],
        weighted[rows][1],
        cut,
        chunks_of(products * cut.blocks, target.cores, parallel=parallel),
        chunks_of(key_heads, target.cores, parallel=parallel) if first else None,
        transposed,
    )


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around an Attention, with movement before its operands and after its result.

    Args:
        body: One Attention without a cache, of float32 or of narrower floats.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants; none is packed.
        options: None is read.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    heads = heads_of_region(body)
    if heads.v.stride(heads.value) != 1:
        raise BackendError("a value's elements are not neighbours")
    if 1 not in (heads.k.stride(heads.size), heads.k.stride(heads.key)):
        raise BackendError("neither a key's elements nor neighbouring keys are neighbours")
    schedule = choose_schedule(heads, target, body.bounds)
    inputs = inputs_of(heads)
    scores = count_of([heads.batch, heads.head, heads.query, heads.key])

    def emit(builder: KernelBuilder) -> None:
        _Attention(builder, body, heads, schedule, {i: number for number, i in enumerate(inputs)}).emit()

    return build_kernel(
        "attention",
        body,
        target,
        [schedule],
        emit,
        flops=2 * scores * extent_of([heads.size]) + 2 * scores * extent_of([heads.value]),
        schedule=schedule.describe(),
        reads=inputs,
        workspaces=[size * 4 for size in _workspaces(heads, schedule)],
    )


def _padded(axis: Axis, grain: int) -> Dim:
    return ceildiv(axis.extent, grain) * grain


def _workspaces(heads: Heads, schedule: Schedule) -> list[Dim]:
    """Elements of each workspace: scores of every chunk's tile, transposed keys, queries of every chunk's tile."""
    keys = _padded(heads.key, schedule.lanes)
    sizes: list[Dim] = [schedule.tasks.count * schedule.queries.height * keys]
    if schedule.transposed:
        copies = count_of([heads.batch, heads.group]) if schedule.transposes else schedule.tasks.count
        sizes.append(copies * extent_of([heads.size]) * _padded(heads.key, schedule.panel))
    if is_narrow_float(heads.q.type.dtype):
        sizes.append(schedule.tasks.count * schedule.queries.height * extent_of([heads.size]))
    return sizes


class _Attention:
    """Emits the loops of one attention."""

    def __init__(
        self, builder: KernelBuilder, body: Graph, heads: Heads, schedule: Schedule, operands: Mapping[int, int]
    ) -> None:
        self.builder = builder
        self.heads = heads
        self.plan = schedule
        self.lanes = schedule.lanes
        self.operands = operands
        self.output = len(operands)
        self.scores, self.keys_t = self.output + 1, self.output + 2
        self.queries = self.keys_t + schedule.transposed if is_narrow_float(heads.q.type.dtype) else None
        self.keys = heads.key.extent
        self.width = _padded(heads.key, self.lanes)
        self.bias = bias_of(heads)
        self.bias_by_query = self.bias is not None and heads.query.name in FreeSymbols([self.bias])[self.bias]
        self.renderer = Renderer(builder, [value.tensor_type for value in body.inputs], operands)

    def emit(self) -> None:
        heads, plan, builder = self.heads, self.plan, self.builder
        if plan.transposes is not None:
            with plan.transposes.each(builder) as (_, task):
                self._transpose_keys(unflatten((heads.batch, heads.group), task, builder.bounds), task)
        block = Axis("block", plan.queries.blocks)
        with plan.tasks.each(builder) as (chunk, task):
            at = unflatten((heads.batch, heads.head, block), task, builder.bounds)
            group = builder.simplify(at[heads.head.name] // heads.ratio)
            at[heads.group.name] = group
            source = chunk
            if plan.transposes is not None:
                source = at[heads.batch.name] * heads.group.extent + group
            elif plan.transposed:
                self._transpose_keys(at, chunk)
            keys = source * (extent_of([heads.size]) * _padded(heads.key, plan.panel))
            scratch = chunk * (plan.queries.height * self.width)
            wide = chunk * (plan.queries.height * extent_of([heads.size]))
            plan.queries.each(
                builder, at[block.name], lambda row, rows: self._tile(_Tile(at, row, rows, keys, scratch, wide))
            )

    def _transpose_keys(self, at: Mapping[str, Dim], copy: Dim) -> None:
        """One head's keys as panels `[keys / panel][size][panel]`."""
        heads, builder, panel = self.heads, self.builder, self.plan.panel
        size, operand = extent_of([heads.size]), self.operands[heads.k.input]
        base = copy * (size * _padded(heads.key, panel))

        def turn(first: Dim, keys: Dim) -> None:
            def read(key: Dim, element: Dim, count: int | None) -> Expr:
                places = {**at, heads.key.name: first + key, heads.size.name: element}
                value = builder.load(operand, heads.k.at(places, builder.bounds), self.lanes, 1, count)
                return from_storage(value, heads.k.type.dtype)

            copy_transposed(builder, read, keys, size, self.lanes, self.keys_t, base + first * size, panel)

        full = builder.bind_index(floordiv(self.keys, panel), 0, None, "full")
        if full != 0:
            with builder.serial(full, "panel") as number:
                turn(builder.bind_index(number * panel, 0, self.keys - panel, "key"), panel)
        rest = self.keys - full * panel
        if rest != 0:
            turn(full * panel, builder.bind_index(rest, 0, panel - 1, "rest"))

    def _tile(self, tile: _Tile) -> None:
        """A tile of queries from scores to results."""
        heads, plan, builder = self.heads, self.plan, self.builder
        if self.queries is not None:
            self._widen_queries(tile, self.queries)
        panel = plan.panel
        seen: Dim = self.keys
        if heads.causal:
            seen = builder.bind_index(minimum(self.keys, tile.row + tile.rows), 1, self.keys, "seen")
        if not isinstance(self.keys, int):
            self._weigh_values(tile, self._softmax(tile, self._score_open(tile, seen)), seen)
            return
        full, rest = divmod(self.keys, panel)
        if full:
            count = full if not heads.causal else minimum(full, (seen + (panel - 1)) // panel)
            with builder.serial(count, "panel") as number:
                place = builder.bind_index(number * panel, 0, (full - 1) * panel, "key")
                self._score_panel(tile, place, number * plan.score.vectors, plan.score.vectors, None)
        if rest:
            vectors = -(-rest // self.lanes)
            partial = rest % self.lanes or None
            if heads.causal and full:
                with builder.when(builder.index(seen) > T.int64(full * panel)):
                    self._score_panel(tile, full * panel, full * plan.score.vectors, vectors, partial)
            else:
                self._score_panel(tile, full * panel, full * plan.score.vectors, vectors, partial)
        assert isinstance(self.width, int)
        scored: Dim = self.width // self.lanes
        if heads.causal:
            scored = minimum(scored, (seen + (panel - 1)) // panel * plan.score.vectors)
        self._weigh_values(tile, self._softmax(tile, scored), seen)

    def _score_open(self, tile: _Tile, seen: Dim) -> Dim:
        """Scores of all keys seen, of which only the call knows how many there are; answers how many vectors."""
        builder, lanes, panel = self.builder, self.lanes, self.plan.panel
        full = builder.bind_index(floordiv(seen, panel), 0, None, "full")
        with builder.serial(full, "panel") as number:
            key = builder.bind_index(number * panel, 0, self.keys - panel, "key")
            self._score_panel(tile, key, number * (panel // lanes), panel // lanes, None)
        first = builder.bind_index(full * panel, 0, self.keys, "first")
        vectors = builder.bind_index(ceildiv(seen - first, lanes), 0, panel // lanes, "vectors")
        for count in range(1, panel // lanes + 1):
            with builder.when(builder.index(vectors) == T.int64(count)):
                # Its load may reach as far as the keys do; what lies past those seen is masked.
                rest = builder.bind_index(seen - first - (count - 1) * lanes, 1, lanes, "rest")
                self._score_panel(tile, first, full * (panel // lanes), count, rest)
        return builder.bind_index(ceildiv(seen, lanes), 1, None, "scored")

    def _widen_queries(self, tile: _Tile, operand: int) -> None:
        """The tile's queries as float32 in memory of the chunk."""
        heads, builder = self.heads, self.builder
        size, stride = extent_of([heads.size]), heads.q.stride(heads.size)
        vectors, rest = divmod(size, self.lanes) if stride is not None else (0, size)

        def copy(row: int, element: Dim, lanes: int) -> None:
            places = {**tile.at, heads.query.name: tile.row + row, heads.size.name: element}
            value = builder.load(self.operands[heads.q.input], heads.q.at(places, builder.bounds), lanes, stride or 1)
            builder.store(operand, from_storage(value, heads.q.type.dtype), tile.wide + row * size + element, lanes)

        for row in range(tile.rows):
            if vectors:
                with builder.serial(vectors, "v") as vector:
                    copy(row, vector * self.lanes, self.lanes)
            if rest:
                with builder.serial(rest, "e") as element:
                    copy(row, vectors * self.lanes + element, 1)

    def _score_panel(self, tile: _Tile, key: Dim, vector: Dim, vectors: int, partial: Dim | None) -> None:
        """Scores of a panel's keys into the scratch memory; past the last key minus infinity.

        Args:
            tile: The queries.
            key: The panel's first key.
            vector: `key / lanes`.
            vectors: Vectors of keys.
            partial: Keys in the last vector; None for all.
        """
        heads, builder, lanes = self.heads, self.builder, self.lanes
        query = self.operands[heads.q.input]

        def left(r: int, d: Dim) -> Expr:
            if self.queries is not None:
                return builder.load(self.queries, tile.wide + r * extent_of([heads.size]) + d)
            places = {**tile.at, heads.query.name: tile.row + r, heads.size.name: d}
            return builder.load(query, heads.q.at(places, builder.bounds))

        def right(d: Dim, v: int) -> Expr:
            if self.plan.transposed:
                place = tile.keys + key * extent_of([heads.size]) + d * self.plan.panel + v * lanes
                return builder.load(self.keys_t, place, lanes)
            places = {**tile.at, heads.key.name: key + v * lanes, heads.size.name: d}
            count = partial if v == vectors - 1 else None
            value = builder.load(self.operands[heads.k.input], heads.k.at(places, builder.bounds), lanes, 1, count)
            return from_storage(value, heads.k.type.dtype)

        shape = self.plan.score.cut(tile.rows, vectors)
        sums = multiply(builder, shape, lanes, uncut(extent_of([heads.size])), left, right)
        for v in range(vectors):
            count = partial if v == vectors - 1 else None
            with builder.lanes(lanes) as name:
                lane = Lane(name, lanes, count)
                place = key + v * lanes
                shared = None if self.bias_by_query else self._bias(tile, 0, place, lane)
                for r in range(tile.rows):
                    bias = self._bias(tile, r, place, lane) if self.bias_by_query else shared
                    value = self._finish(sums[r][v], bias, count)
                    builder.store(self.scores, value, self._score_at(tile, r, vector + v), lanes)

    def _score_at(self, tile: _Tile, row: int, vector: Dim) -> Dim:
        """Where a vector of scores is: beside those of the tile's other rows, whatever the number of keys."""
        return tile.scratch + (vector * self.plan.queries.height + row) * self.lanes

    def _bias(self, tile: _Tile, row: int, key: Dim, lane: Lane) -> Expr | None:
        if self.bias is None:
            return None
        assert lane.name is not None
        places = {**tile.at, self.heads.query.name: tile.row + row, self.heads.key.name: key + symbol(lane.name)}
        return broadcast(self.renderer.render(self.bias, lane, Scope(places)), self.lanes)

    def _finish(self, value: Expr, bias: Expr | None, count: Dim | None) -> Expr:
        """Scale, cap, bias and the end of the keys."""
        lanes, cap = self.lanes, self.heads.softcap
        scale = self.heads.scale / cap if cap else self.heads.scale
        value = value * broadcast(T.float32(scale), lanes)
        if cap:
            value = scalar_ops.apply("tanh", dtypes.FLOAT32, [value]) * broadcast(T.float32(cap), lanes)
        if bias is not None:
            value = value + bias
        if count is not None:
            inside = self.builder.first_lanes(count, lanes)
            value = self.builder.choose(inside, value, broadcast(T.float32(MASKED), lanes))
        return value

    def _softmax(self, tile: _Tile, vectors: Dim) -> list[Expr]:
        """Turns scores into exponentials; answers, for each row, the reciprocal of their sum.

        A row that is minus infinity throughout becomes zeros, as the operator demands.
        """
        builder, lanes = self.builder, self.lanes
        lowest, zero = T.float32(MASKED), T.float32(0)

        def rows(initial: Expr) -> list[Register]:
            registers = [builder.accumulator(lanes) for _ in range(tile.rows)]
            for register in registers:
                register.value = broadcast(initial, lanes)
            return registers

        highest, totals = rows(lowest), rows(zero)
        with builder.serial(vectors, "v") as v:
            for r, register in enumerate(highest):
                score = builder.load(self.scores, self._score_at(tile, r, v), lanes)
                register.value = T.max(score, register.value)
        tops = []
        for register in highest:
            top = bind(horizontal(register.value, lambda a, b: bind(T.max(a, b))))
            tops.append(bind(broadcast(T.Select(top == lowest, zero, top), lanes)))
        with builder.serial(vectors, "v") as v:
            for r, register in enumerate(totals):
                place = self._score_at(tile, r, v)
                value = bind(vectormath.exp_nonpositive(builder.load(self.scores, place, lanes) - tops[r]))
                builder.store(self.scores, value, place, lanes)
                register.value = register.value + value
        inverses = []
        for register in totals:
            total = bind(horizontal(register.value, lambda a, b: bind(a + b)))
            inverses.append(bind(broadcast(T.float32(1) / T.Select(total == zero, T.float32(1), total), lanes)))
        return inverses

    def _weigh_values(self, tile: _Tile, inverses: list[Expr], seen: Dim) -> None:
        """Sums of values weighted by exponentials, divided by the exponentials' sum, into the result."""
        heads, plan = self.heads, self.plan
        elements = extent_of([heads.value])
        panel = plan.weighted.vectors * self.lanes
        full, rest = divmod(elements, panel)
        with self.builder.serial(full, "panel") as number:
            if full:
                self._value_panel(tile, inverses, seen, number * panel, plan.weighted.vectors, None)
        if rest:
            vectors = -(-rest // self.lanes)
            self._value_panel(tile, inverses, seen, full * panel, vectors, rest % self.lanes or None)

    def _value_panel(
        self, tile: _Tile, inverses: list[Expr], seen: Dim, element: Dim, vectors: int, partial: int | None
    ) -> None:
        heads, builder, lanes = self.heads, self.builder, self.lanes
        operand = self.operands[heads.v.input]

        def left(r: int, t: Dim) -> Expr:
            vector, lane = builder.simplify(t // lanes), builder.simplify(t % lanes)
            return builder.load(self.scores, self._score_at(tile, r, vector) + lane)

        def right(t: Dim, v: int) -> Expr:
            places = {**tile.at, heads.key.name: t, heads.value.name: element + v * lanes}
            count = partial if v == vectors - 1 else None
            return from_storage(
                builder.load(operand, heads.v.at(places, builder.bounds), lanes, 1, count), heads.v.type.dtype
            )

        shape = self.plan.weighted.cut(tile.rows, vectors)
        sums = multiply(builder, shape, lanes, uncut(seen), left, right, grain=lanes)
        for r in range(tile.rows):
            for v in range(vectors):
                with builder.lanes(lanes) as name:
                    lane = Lane(name, lanes, partial if v == vectors - 1 else None)
                    place = {heads.query.name: tile.row + r, heads.value.name: element + v * lanes + symbol(name)}
                    index = heads.result_at({**tile.at, **place}, builder.bounds)
                    result = to_storage(bind(sums[r][v] * inverses[r]), heads.output.dtype)
                    store(builder, result, heads.output, self.output, index, lane)


@dataclass(frozen=True)
class _Tile:
    """Where a tile of queries stands.

    Args:
        at: Batch, head and head of the key.
        row: First query.
        rows: Queries.
        keys: Where the head's transposed keys start.
        scratch: Where its scores go.
        wide: Where its queries go, if they are widened.
    """

    at: Mapping[str, Dim]
    row: Dim
    rows: int
    keys: Dim
    scratch: Dim
    wide: Dim
