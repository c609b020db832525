"""Attention as one kernel, or two: a tile of queries goes along the keys with a running softmax.

The algorithm is FlashAttention-2 (Dao, 2023): scores are never stored, the largest score, the sum of exponentials and
the weighted values of each row are corrected whenever a larger score comes. Where queries are few and keys many, the
keys are cut into parts that blocks of their own walk, and a second launch joins them (Flash-Decoding). Query, key,
value and result are read and written where the operators around them left them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.contraction import View, storage_offset
from graphc.backends.extents import count_of, extent_of
from graphc.backends.heads import Heads, heads_of_region, inputs_of
from graphc.backends.problem import FreeSymbols
from graphc.backends.triton.assemble import build_kernel, number_argument
from graphc.backends.triton.attention_tiles import Schedule, choose, cut
from graphc.backends.triton.element_types import pointer_type, to_storage
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.backends.triton.indices import index_value, place
from graphc.backends.triton.module import render_module
from graphc.backends.triton.render import Renderer
from graphc.backends.triton.scope import Code, Mask, Place, Scope
from graphc.backends.triton.tiles import power_above
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ops.expr import Axis, Scalar, loads
from graphc.package.cuda import Pointer, Status
from graphc.target.cuda import CudaTarget

OPERANDS = frozenset({dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.FLOAT32})
"""Element types whose products tensor cores, or at least fused multiply-adds, sum in float32."""

LONG_WALK = 4
"""Steps from which those that need no mask are a loop of their own."""

_LOG2E = math.log2(math.e)
_LIMIT = 1 << 31


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around an Attention, with movement before its operands and after its result.

    Args:
        body: One Attention without a cache, of float32, float16 or bfloat16.
        target: The GPU.
        constants: Numbers of the body's inputs that are constants; none is packed.
        options: `precision`: `tf32` lets products of singles be rounded to tf32.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    heads = heads_of_region(body, windows=True)
    rounded = str(options.get("precision")).partition(",")[0] == "tf32"
    schedule = schedule_of(heads, target, rounded=rounded)
    text = _Text(body, heads, schedule, "tf32" if rounded else "ieee")
    scores = count_of([heads.batch, heads.head, heads.query, heads.key])
    return build_kernel(
        "attention",
        body,
        target,
        text.launches(),
        flops=2 * scores * (extent_of([heads.size]) + extent_of([heads.value])),
        schedule=schedule.describe(),
        reads=text.reads,
        workspaces=text.workspaces(),
    )


def schedule_of(heads: Heads, target: CudaTarget, *, rounded: bool) -> Schedule:
    """How an attention is cut.

    Raises:
        BackendError: Its operands are of types or sizes that no tile takes.
    """
    kinds = {view.type.dtype for view in (heads.q, heads.k, heads.v)}
    if len(kinds) != 1 or not kinds <= OPERANDS:
        raise BackendError(f"Attention of {' and '.join(sorted(map(str, kinds)))}")
    sizes = extent_of([heads.size]), extent_of([heads.value])
    schedule = choose(
        target,
        heads.q.type.dtype.itemsize,
        max(sizes),
        rounded=rounded,
        masked=_mask_bytes(heads),
        pairs=extent_of([heads.batch, heads.head]),
        ratio=heads.ratio,
        queries=extent_of([heads.query]),
        keys=extent_of([heads.key]),
    )
    if schedule is None:
        raise BackendError(f"heads of {max(sizes)} elements fit no tile")
    return schedule


def _mask_bytes(heads: Heads) -> int:
    """Bytes of an element of what is added to the scores, if that is another for every query."""
    if heads.bias is None or heads.query.name not in FreeSymbols([heads.bias])[heads.bias]:
        return 0
    return max((load.dtype.itemsize for load in loads(heads.bias)), default=0)


@dataclass(frozen=True)
class _Part:
    """A stretch of a head's elements that is a tile's width.

    Args:
        name: Of the vector of its places.
        start: First element.
        width: Of the tile, a power of two.
        mask: Which of them there are, over the vector; empty for all.
    """

    name: str
    start: int
    width: int
    mask: str


def _parts(letter: str, extent: int) -> list[_Part]:
    parts, start = [], 0
    for number, width in enumerate(cut(extent)):
        mask = f"({letter}{number} < {extent})" if start + width > extent else ""
        parts.append(_Part(f"{letter}{number}", start, width, mask))
        start += width
    return parts


class _Text:
    """The functions of one attention.

    Symbols of places are called as what they stand for, a letter behind them tells which way a tile of them lies.
    """

    def __init__(self, body: Graph, heads: Heads, schedule: Schedule, precision: str) -> None:
        self.body = body
        self.heads = heads
        self.schedule = schedule
        self.precision = f', input_precision="{precision}"' if heads.q.type.dtype == dtypes.FLOAT32 else ""
        self.reads = inputs_of(heads)
        self.queries, self.keys = extent_of([heads.query]), extent_of([heads.key])
        self.rows = self.queries * schedule.packed
        self.pairs = extent_of([heads.batch, heads.head]) // schedule.packed
        self.sizes = _parts("d", extent_of([heads.size]))
        self.value_size = extent_of([heads.value])
        self.values = _parts("e", self.value_size)
        self.natural = bool(heads.bias or heads.softcap or heads.scale <= 0)
        if schedule.parts > 1 and self.pairs * self.rows * schedule.parts * self.value_size >= _LIMIT:
            raise BackendError("the parts' sums have more elements than 32 bits count")

    @property
    def right(self) -> int | None:
        """How many keys after a query's place it sees; None for all."""
        limits = [limit for limit in (self.heads.right, 0 if self.heads.causal else None) if limit is not None]
        return min(limits, default=None)

    def workspaces(self) -> list[Dim]:
        """Bytes of the parts' largest scores, sums of exponentials, and weighted values."""
        rows = self.pairs * self.rows * self.schedule.parts
        return [4 * rows, 4 * rows, 4 * rows * self.value_size] if self.schedule.parts > 1 else []

    def launches(self) -> tuple[FunctionLaunch, ...]:
        """What a call launches."""
        schedule, pairs = self.schedule, self.pairs
        walk = FunctionLaunch(self._walk(), (schedule.blocks * schedule.parts * pairs, 1, 1))
        if schedule.parts == 1:
            return (walk,)
        return (walk, FunctionLaunch(self._combine(), (pairs * self.rows, 1, 1)))

    def _pointers(self) -> list[Argument]:
        return [
            Argument(f"in{number}", pointer_type(self.body.inputs[number].tensor_type.dtype), Pointer(place))
            for place, number in enumerate(self.reads)
        ]

    def _scratch(self) -> list[Argument]:
        first = len(self.reads) + 1
        return [Argument(name, "*fp32", Pointer(first + i)) for i, name in enumerate(("tops", "totals", "sums"))]

    def _output(self) -> Argument:
        return Argument("out", pointer_type(self.heads.output.dtype), Pointer(len(self.reads)))

    def _walk(self) -> Function:
        heads, schedule, tile = self.heads, self.schedule, self.schedule.tile
        lines = _Lines(self.body, self._places(), (str(tile.height), str(tile.width)))
        moved = heads.valid is not None
        tail = moved or bool(self.keys % tile.width)
        edges = tail or self.right is not None or heads.left is not None
        ahead = " + ahead" if moved else ""
        seen = ["present"] if tail else []
        if self.right is not None:
            seen.append(f"key <= query_rows + {self.right}{ahead}")
        if heads.left is not None:
            seen.append(f"key >= query_rows - {heads.left}{ahead}")
        in_rows = Mask("present_rows", frozenset({0}))
        masks = [in_rows] if self.rows != schedule.blocks * tile.height else []
        outer = {heads.batch.name: "batch", heads.head.name: "head", heads.query.name: "query"}
        valid = None if heads.valid is None else lines.scalar(heads.valid, outer)
        sizes = [
            {
                "query": f"in{heads.q.input} + {lines.index(heads.q.offset, {**outer, heads.size.name: part.name})}",
                **self._stepped(lines, heads.k, {heads.size.name: f"{part.name} down"}, "", f"k{i}_at", "key"),
                "mask": part.mask,
            }
            for i, part in enumerate(self.sizes)
        ]
        values = [
            {
                "name": part.name,
                "width": part.width,
                **self._stepped(lines, heads.v, {heads.value.name: part.name}, " down", f"v{i}_at", "value"),
                "mask": part.mask,
                "result": self._result(lines, {**outer, heads.value.name: part.name}),
            }
            for i, part in enumerate(self.values)
        ]
        setup = lines.code.take_lines()
        biases = []
        for inside in (masks, [*masks, Mask("present", frozenset({1}))] if tail else masks):
            name = "" if heads.bias is None else lines.scalar(heads.bias, {**outer, heads.key.name: "key now"}, inside)
            biases.append({"lines": lines.code.take_lines(), "name": name})
        status = [Argument("status", "*i32", Status())] if lines.renderer.reports else []
        scratch = self._scratch() if schedule.parts > 1 else [self._output()]
        keys = number_argument("keys", self.keys)
        arguments = (*self._pointers(), *scratch, *status, keys)
        text = render_module(
            "attention",
            lines.code.functions,
            arguments=[argument.name for argument in arguments],
            bias=biases[0],
            bias_edge=biases[1],
            blocks=schedule.blocks,
            computed=any(part["lines"] for part in (*sizes, *values)),
            dims=[*self.sizes, *self.values],
            edges=edges,
            guarded=bool(heads.bias or moved or heads.left is not None or schedule.parts > 1),
            heads=self.pairs // extent_of([heads.batch]),
            height=tile.height,
            left=heads.left,
            log2e=_LOG2E,
            moved=moved,
            natural=self.natural,
            packed=schedule.packed,
            parts=schedule.parts,
            precision=self.precision,
            queries=self.queries,
            ratio=heads.ratio,
            result_type=to_storage(Code(), "", heads.output.dtype),
            right=self.right,
            row_count=self.rows,
            rows_end=bool(masks),
            scale=heads.scale,
            seen=seen,
            setup=setup,
            sizes=sizes,
            softcap=heads.softcap,
            split=edges and heads.left is None and self.keys >= LONG_WALK * tile.width,
            stretch=schedule.stretch,
            tail=tail,
            valid=valid,
            value_size=self.value_size,
            values=values,
            width=tile.width,
        )
        return Function(text, "attention", arguments, warps=tile.warps, stages=tile.stages)

    def _combine(self) -> Function:
        heads, parts = self.heads, self.schedule.parts
        places = {"batch": self._place("batch", heads.batch.extent), "head": self._place("head", heads.head.extent)}
        places |= {"query": self._place("query", self.queries), "element": self._place("element", self.value_size, 0)}
        lines = _Lines(self.body, places, ("element",))
        axes = {heads.batch.name: "batch", heads.head.name: "head", heads.query.name: "query"}
        result = self._result(lines, {**axes, heads.value.name: "element"})
        arguments = (*self._scratch(), self._output())
        text = render_module(
            "attention_combine",
            (),
            arguments=[argument.name for argument in arguments],
            heads=self.pairs // extent_of([heads.batch]),
            log2e=_LOG2E,
            natural=self.natural,
            packed=self.schedule.packed,
            padded_parts=power_above(parts),
            padded_value=power_above(self.value_size),
            parts=parts,
            result=result,
            result_type=to_storage(Code(), "", heads.output.dtype),
            row_count=self.rows,
            setup=lines.code.take_lines(),
            value_size=self.value_size,
        )
        return Function(text, "combine", arguments)

    # --- places -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _place(text: str, extent: Dim, *dims: int) -> Place:
        return Place(text, 0, extent - 1 if isinstance(extent, int) else None, frozenset(dims))

    def _places(self) -> dict[str, Place]:
        """Where symbols of places stand in a tile: rows go down, keys and elements of heads across or down."""
        heads = self.heads
        packed = self.schedule.packed > 1
        places = {
            "batch": self._place("batch", heads.batch.extent),
            "head": self._place("head_rows", heads.head.extent, 0)
            if packed
            else self._place("head", heads.head.extent),
            "group": self._place("group", heads.group.extent),
            "query": self._place("query_rows", self.queries, 0),
            "key": self._place("key_columns", self.keys, 1),
            "key down": self._place("key_rows", self.keys, 0),
            "key now": self._place("key", self.keys, 1),
            "key now down": self._place("key_down", self.keys, 0),
        }
        for parts, extent in ((self.sizes, extent_of([heads.size])), (self.values, self.value_size)):
            for part in parts:
                places[part.name] = self._place(f"{part.name}_columns", extent, 1)
                places[f"{part.name} down"] = self._place(f"{part.name}_rows", extent, 0)
        return places

    def _result(self, lines: _Lines, axes: Mapping[str, str]) -> str:
        bounds = {axis.name: (0, extent_of([axis]) - 1) for axis in self._axes()}
        return f"out + {lines.index(storage_offset(self.heads.output, self.heads.place, bounds), axes)}"

    def _axes(self) -> tuple[Axis, ...]:
        heads = self.heads
        return (heads.batch, heads.head, heads.query, heads.value)

    def _stepped(
        self, lines: _Lines, view: View, along: Mapping[str, str], side: str, name: str, what: str
    ) -> dict[str, Any]:
        """Where a step's keys or values are read: a pointer that is made once, and how it moves with `first`.

        Where keys are no constant distance apart (windows of an image), each step computes their places.
        """
        heads = self.heads
        axes = {heads.batch.name: "batch", heads.group.name: "group", **along}
        stride = view.stride(heads.key)
        if stride is None:
            moved, written = lines.now(view.offset, {**axes, heads.key.name: f"key now{side}"})
            return {f"{what}_start": "", what: f"in{view.input} + {moved}", "lines": written}
        start = lines.index(view.offset, {**axes, heads.key.name: f"key{side}"})
        wide = self.keys * stride >= _LIMIT
        step = "tl.cast(first, tl.int64)" if wide else "first"
        return {f"{what}_start": f"in{view.input} + {start}", what: f"{name} + {step} * {stride}", "lines": []}


class _Lines:
    """Statements that compute places and scalars of one function.

    Args:
        body: The region's body.
        places: Where symbols of places stand.
        tile: Extents of a block.
    """

    def __init__(self, body: Graph, places: Mapping[str, Place], tile: tuple[str, ...]) -> None:
        self.code = Code()
        self.renderer = Renderer(self.code, [value.tensor_type for value in body.inputs])
        self.scope = Scope({}, places, (), tile)

    def _at(self, axes: Mapping[str, str], masks: Sequence[Mask] = ()) -> Scope:
        return replace(self.scope, axes={name: symbol(at) for name, at in axes.items()}, masks=masks, values={})

    def index(self, offset: Dim, axes: Mapping[str, str]) -> str:
        """An index expression, with the symbol of the place of each axis."""
        scope = self._at(axes)
        return index_value(self.code, scope, place(scope, offset)).text

    def now(self, offset: Dim, axes: Mapping[str, str]) -> tuple[str, list[str]]:
        """As `index`, and the statements that compute it, which stand elsewhere: others do not see their names."""
        before = len(self.code.lines)
        scope = self._at(axes)
        scope = replace(scope, texts=dict(scope.texts))
        text = index_value(self.code, scope, place(scope, offset)).text
        written = self.code.lines[before:]
        del self.code.lines[before:]
        return text, written

    def scalar(self, scalar: Scalar, axes: Mapping[str, str], masks: Sequence[Mask] = ()) -> str:
        """The value of a scalar; what it computes on the way is not kept for others, whose masks may differ."""
        scope = self._at(axes, masks)
        return self.renderer.tensor(scalar, replace(scope, texts=dict(scope.texts))).text
