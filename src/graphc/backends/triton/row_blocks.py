"""Blocks of rows: how large they are, and the text that sweeps them.

A block is rows times elements. Rows that fit are loaded once, and all reductions and results are computed from
registers. Longer ones are swept in steps, once for each level of reductions and once for the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from graphc.backends.contraction import storage_offset
from graphc.backends.element_types import compute_dtype
from graphc.backends.extents import bounds_of, unflatten
from graphc.backends.problem import Problem
from graphc.backends.stages import Reduction, Row, axes_along, levels_of
from graphc.backends.triton import element_types, scalar_ops
from graphc.backends.triton.drafts import Draft, Stage
from graphc.backends.triton.indices import index_value
from graphc.backends.triton.reductions import beats, identity_of
from graphc.backends.triton.render import Renderer
from graphc.backends.triton.scope import Code, Dims, Mask, Place, Scope, Value
from graphc.backends.triton.tiles import power_above
from graphc.ir import Dim, dtypes, symbol
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import linear_coefficient
from graphc.ops.expr import ArgReduce, Load, Reduce, Scalar, walk
from graphc.target import CudaTarget
from graphc.target.cuda import WARP

LONGEST = 16_384
"""Elements of a row that a block keeps in registers."""

STEP = 4096
"""Elements of a longer row that are swept at once."""

LEAST_BLOCK = 1024
"""Elements of a block, of several rows where they are short."""

COLUMNS = 32
"""Rows of a block whose neighbours in memory are in other rows: a line of the cache of 4-byte elements."""

TALLEST = 256
"""Elements of such a row that a block keeps in registers."""

PER_THREAD = 16
"""Elements of a block for each thread."""

MOST_WARPS = 16
"""Warps of a block."""

_ROW, _ELEMENT = 0, 1
"""Dimensions of a block."""

BLOCK: Dims = frozenset({_ROW, _ELEMENT})
"""Differs along both."""


@dataclass(frozen=True)
class Blocks:
    """How rows are cut into blocks.

    Args:
        row: The rows.
        height: Rows of a block.
        width: Elements of a row that are swept at once.
    """

    row: Row
    height: int
    width: int

    @property
    def is_whole(self) -> bool:
        """Whether a block holds all of its rows."""
        return self.width >= self.row.extent

    @property
    def programs(self) -> int:
        """Blocks in all."""
        return -(-self.row.rows // self.height)

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return max(1, min(MOST_WARPS, self.height * self.width // (WARP * PER_THREAD)))


def blocks_of(problem: Problem, row: Row, target: CudaTarget) -> Blocks:
    """The size of blocks, from how rows lie in memory."""
    rows, whole = power_above(row.rows), power_above(row.extent)
    if _lies_across(problem, row):
        height = min(COLUMNS, rows)
        width = whole if whole <= TALLEST else max(TALLEST // 4, STEP // height)
        return Blocks(row, height, width)
    width = whole if whole <= LONGEST else STEP
    height = max(1, min(LEAST_BLOCK // width, rows))
    while height > 1 and -(-row.rows // height) < 2 * target.processors:
        height //= 2
    return Blocks(row, height, width)


def _lies_across(problem: Problem, row: Row) -> bool:
    """Whether loads lie together from row to row, and none along a row."""
    if not row.outer:
        return False
    across = False
    for reduction in row.reductions:
        inner = axes_along(reduction)[-1]
        bounds = bounds_of([*problem.axes, *axes_along(reduction)])
        for node in walk(reduction):
            if not isinstance(node, Load) or any(isinstance(index, Scalar) for index in node.indices):
                continue
            affine = [index for index in node.indices if not isinstance(index, Scalar)]
            offset = storage_offset(problem.inputs[node.input], affine, bounds)
            if linear_coefficient(offset, inner.name) == 1:
                return False
            across = across or linear_coefficient(offset, row.outer[-1].name) == 1
    return across


def draft(stage: Stage, blocks: Blocks, names: Mapping[int, str]) -> Draft:
    """A function that computes a problem a block of rows at a time.

    Args:
        stage: What it computes.
        blocks: Of its rows.
        names: Of pointers to inputs that are called otherwise than `in` and their number.
    """
    renderer = Renderer(Code(), stage.problem.inputs, names=names)
    _Sweeps(stage, blocks, renderer).emit()
    return Draft("rows", stage, renderer, blocks.programs, blocks.warps)


class _Sweeps:
    """Writes the sweeps over the rows of a block."""

    def __init__(self, stage: Stage, blocks: Blocks, renderer: Renderer) -> None:
        self.stage = stage
        self.blocks = blocks
        self.row = blocks.row
        self.renderer = renderer
        self.code = renderer.code

    def emit(self) -> None:
        """Writes all of them."""
        rows = self._rows()
        if self.blocks.is_whole:
            scope = self._elements(rows, "tl.arange(0, {})")
            for reduction in self.row.reductions:
                scope.values[id(reduction)] = rows.values[id(reduction)] = self._reduced(reduction, scope)
            self._store(scope if self.row.axes else rows)
            return
        for level in levels_of(self.row):
            kept = {id(reduction): self._accumulator(reduction) for reduction in level}
            with self._steps() as start:
                scope = self._elements(rows, f"{start} + tl.arange(0, {{}})")
                for reduction in level:
                    self._accumulate(reduction, scope, kept[id(reduction)])
            for reduction in level:
                rows.values[id(reduction)] = self._total(reduction, kept[id(reduction)])
        if self.row.axes:
            with self._steps() as start:
                self._store(self._elements(rows, f"{start} + tl.arange(0, {{}})"))
        else:
            self._store(rows)

    def _rows(self) -> Scope:
        """Where the block's rows stand."""
        code, blocks, row = self.code, self.blocks, self.row
        wide = blocks.programs * blocks.height >= 1 << 31
        block = code.bind("tl.program_id(0)" + (".to(tl.int64)" if wide else ""), "block")
        name = code.bind(f"({block} * {blocks.height} + tl.arange(0, {blocks.height}))[:, None]", "row")
        last = row.rows - 1
        axes = unflatten(row.outer, symbol(f"{name}@"), {f"{name}@": (0, last)}) if row.outer else {}
        places = {f"{name}@": Place(name, 0, last, frozenset({_ROW}), wide)}
        masks = []
        if row.rows % blocks.height:
            masks.append(Mask(code.bind(f"{name} < {row.rows}", "in_rows"), frozenset({_ROW})))
        return Scope(axes, places, masks, (str(blocks.height), str(blocks.width)))

    def _elements(self, rows: Scope, range_: str) -> Scope:
        """Where elements of the rows stand: a place for each axis of the row, the results' and every reduction's."""
        row, width = self.row, self.blocks.width
        name = self.code.bind(f"({range_.format(width)})[None, :]", "element")
        at, bounds = symbol(f"{name}@"), {f"{name}@": (0, row.extent - 1)}
        axes: dict[str, Dim] = {}
        for along in (row.axes, *(axes_along(reduction) for reduction in row.reductions)):
            if along:
                axes.update(unflatten(along, at, bounds))
        scope = rows.inner(axes, {f"{name}@": Place(name, 0, row.extent - 1, frozenset({_ELEMENT}))})
        if row.extent % width:
            mask = Mask(self.code.bind(f"{name} < {row.extent}", "in_row"), frozenset({_ELEMENT}))
            scope.masks = (*rows.masks, mask)
        return scope

    @contextmanager
    def _steps(self) -> Iterator[str]:
        """A loop over the row in steps; answers where a step starts."""
        start = self.code.name("start")
        with self.code.block(f"for {start} in range(0, {self.row.extent}, {self.blocks.width}):"):
            yield start

    def _store(self, scope: Scope) -> None:
        problem = self.stage.problem
        index = [axis.index for axis in problem.axes]
        for name, element, kind in zip(self.stage.outputs, problem.elements, problem.outputs, strict=True):
            self.renderer.store(element, kind, name, index, scope)

    def _body(self, reduction: Reduction, scope: Scope) -> str:
        """What is reduced, as wide as the block; past the row's end what changes nothing."""
        value = self.renderer.tensor(reduction.body, scope)
        text = value.text
        if _ELEMENT not in value.dims:
            shape = scope.shape(value.dims | {_ELEMENT})
            text = self.code.bind(f"tl.broadcast_to({text}, {shape})")
        mask = _element_mask(scope)
        return self.code.bind(f"tl.where({mask}, {text}, {identity_of(reduction)})") if mask else text

    def _reduced(self, reduction: Reduction, scope: Scope) -> Value:
        """A reduction of rows that are whole in the block."""
        body = self._body(reduction, scope)
        if isinstance(reduction, Reduce):
            return self._folded(reduction, body)
        (axis,) = axes_along(reduction)
        place = index_value(self.code, scope, scope.axes[axis.name]).text
        return self._position(reduction, body, place, _element_mask(scope))

    def _accumulator(self, reduction: Reduction) -> tuple[str, str]:
        """Names of a block that holds the reduction of each place's elements, and of one of their positions."""
        dtype = compute_dtype(reduction.body.dtype)
        height, width = self.blocks.height, self.blocks.width
        start = f"tl.full([{height}, {width}], {identity_of(reduction)}, {element_types.triton_name(dtype)})"
        kept = self.code.bind(start, "kept")
        if isinstance(reduction, Reduce):
            return kept, ""
        first = f"tl.broadcast_to(tl.arange(0, {width})[None, :], [{height}, {width}])"
        return kept, self.code.bind(first, "at")

    def _accumulate(self, reduction: Reduction, scope: Scope, names: tuple[str, str]) -> None:
        kept, at = names
        body = self._body(reduction, scope)
        dtype = compute_dtype(reduction.body.dtype)
        if isinstance(reduction, Reduce):
            operands = Value(kept, BLOCK), Value(body, BLOCK)
            combined = scalar_ops.apply(self.code, scalar_ops.COMBINE[reduction.op], dtype, operands)
            self.code.emit(f"{kept} = {combined.text}")
            return
        (axis,) = axes_along(reduction)
        place = index_value(self.code, scope, scope.axes[axis.name]).text
        mask = _element_mask(scope)
        better = beats(reduction, body, kept, dtype.is_float)
        chosen = self.code.bind(f"({better}) & {mask}" if mask else better, "m")
        self.code.emit(f"{kept} = tl.where({chosen}, {body}, {kept})")
        self.code.emit(f"{at} = tl.where({chosen}, {place}, {at})")

    def _total(self, reduction: Reduction, names: tuple[str, str]) -> Value:
        """A reduction of rows that were swept."""
        kept, at = names
        if isinstance(reduction, Reduce):
            return self._folded(reduction, kept)
        return self._position(reduction, kept, at, "")

    def _folded(self, reduction: Reduce, text: str) -> Value:
        made = self.code.bind(_fold(self.code, reduction.op, text, compute_dtype(reduction.dtype)), "total")
        return Value(made, frozenset({_ROW}))

    def _position(self, reduction: ArgReduce, text: str, place: str, mask: str) -> Value:
        """Where the greatest or least is; a NaN is, where there is one."""
        code = self.code
        dtype = compute_dtype(reduction.body.dtype)
        best = code.bind(_fold(code, reduction.op.removeprefix("arg"), text, dtype), "best")
        hit = f"{text} == {best}"
        if dtype.is_float:
            hit = f"({hit}) | ({text} != {text})"
        hit = code.bind(f"({hit}) & {mask}" if mask else hit, "m")
        choose, none = ("max", -1) if reduction.last else ("min", self.row.extent)
        at = f"tl.{choose}(tl.where({hit}, {place}, {none}), axis=1, keep_dims=True).to(tl.int64)"
        return Value(code.bind(at, "at"), frozenset({_ROW}))


def _element_mask(scope: Scope) -> str:
    """The mask of elements past the end of rows; empty where there is none."""
    return next((mask.text for mask in scope.masks if _ELEMENT in mask.dims), "")


def _fold(code: Code, op: str, text: str, dtype: DType) -> str:
    """One value for each row of a block. Triton widens integers of fewer than 32 bits."""
    if dtype == dtypes.BOOL:
        choose = "max" if op in ("any", "max", "sum") else "min"
        return f"tl.{choose}({text}.to(tl.int32), axis=1, keep_dims=True) != 0"
    if op == "prod" or (dtype.is_float and op != "sum"):
        name = code.helper({"prod": "multiply", "max": "maximum", "min": "minimum"}[op])
        return f"tl.reduce({text}, 1, {name}, keep_dims=True)"
    folded = f"tl.{op}({text}, axis=1, keep_dims=True)"
    return f"{folded}.to({element_types.triton_name(dtype)})" if dtype.bits < 32 else folded
