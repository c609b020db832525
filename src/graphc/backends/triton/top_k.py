"""TopK: the best elements along an axis, best first, and their places.

Where axes are short, or few, each element counts how many others come before it, which is its place in the order: no
step waits for another, and every key, place and number of wanted elements is taken. Where few of many are wanted, of
many long axes, blocks of threads select the best of their stretch by Triton's partial bitonic sort (K. E. Batcher,
"Sorting networks and their applications", 1968), in as many rounds as it takes until one stretch is left.

Elements are ordered as integers: by their bits, so that NaN is the largest number and both zeros are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.element_types import compute_dtype
from graphc.backends.triton.assemble import arguments_of, build_kernel, number_argument
from graphc.backends.triton.element_types import from_storage, storage_dtype
from graphc.backends.triton.function import Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.scope import Code
from graphc.backends.triton.tiles import power_above
from graphc.errors import BackendError
from graphc.ir import Dim, Graph
from graphc.ir.dtypes import DType
from graphc.target.cuda import CudaTarget

SIDE = 64
"""Elements that are compared with as many others in one step of a block of threads."""

STRETCH = 1024
"""Elements from which a block of threads selects the best."""

MOST_SELECTED = STRETCH // 4
"""Wanted elements beyond which a round would leave too many."""

FEW_COMPARISONS = 1 << 28
"""Comparisons up to which counting beats the launches of a selection."""

MOST_COMPARISONS = 1 << 39
"""Comparisons that take a tenth of a second; beyond, the host sorts as fast."""

_WORST = -(1 << 63)
_LIMIT = 1 << 31


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code.

    Args:
        number: Of the body's input.
        dtype: Of the elements.
        rows: How many axes there are to select from.
        length: Extent of the axis.
        inner: Elements between neighbours along the axis.
        wanted: How many are wanted.
        largest: Whether the largest are.
        values: Pointer of the values; empty where nobody reads them.
        indices: Pointer of the places; empty where nobody reads them.
    """

    number: int
    dtype: DType
    rows: int
    length: int
    inner: int
    wanted: int
    largest: bool
    values: str
    indices: str

    @property
    def is_wide(self) -> bool:
        """Whether keys have 64 bits."""
        return compute_dtype(self.dtype).bits == 64

    @property
    def comparisons(self) -> int:
        """Of every element with every other."""
        return self.rows * self.length * self.length


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a TopK whose count is known.

    Raises:
        BackendError: The count is not known, or axes are too long to compare each element with each other where more
            are wanted than a block of threads selects.
    """
    plan = _plan(body)
    selects = not plan.is_wide and plan.wanted <= MOST_SELECTED and plan.comparisons > FEW_COMPARISONS
    workspaces: list[Dim] = []
    if not plan.rows * plan.wanted:
        launches: list[FunctionLaunch] = []
    elif selects:
        launches, workspaces = _selection(body, plan)
    elif plan.comparisons > MOST_COMPARISONS:
        raise BackendError(f"TopK of {plan.wanted} of {plan.length} elements, {plan.rows} times")
    else:
        launches = [_count(body, plan)]
    return build_kernel(
        "top_k",
        body,
        target,
        launches,
        flops=plan.rows * plan.length,
        schedule={"way": "select" if selects else "count", "rounds": len(launches)},
        reads=[plan.number],
        workspaces=workspaces,
    )


def _plan(body: Graph) -> _Plan:
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    x, wanted = node.inputs[0], node.inputs[1]
    assert x is not None and wanted is not None, "type inference saw both inputs"
    if wanted.constant is None:
        raise BackendError("how many elements TopK selects is known only when it runs", nodes=node.origins)
    if x not in body.inputs:
        raise BackendError("TopK of a constant of one element is folded", nodes=node.origins)
    kind = x.tensor_type
    shape = kind.static_shape
    if prod(shape) >= _LIMIT:
        raise BackendError("more elements than 32 bits count", nodes=node.origins)
    if kind.dtype.kind == "complex":
        raise BackendError(f"TopK of {kind.dtype}", nodes=node.origins)
    axis = node.int_attribute("axis", -1) % len(shape)
    inner = prod(shape[axis + 1 :])
    numbers = {value.index: f"out{place}" for place, value in enumerate(body.outputs)}
    return _Plan(
        number=body.inputs.index(x),
        dtype=kind.dtype,
        rows=prod(shape[:axis]) * inner,
        length=shape[axis],
        inner=inner,
        wanted=int(wanted.constant.array().reshape(())),
        largest=bool(node.int_attribute("largest", 1)),
        values=numbers.get(0, ""),
        indices=numbers.get(1, ""),
    )


def _count(body: Graph, plan: _Plan) -> FunctionLaunch:
    side = min(power_above(plan.length), SIDE)
    rows_of_tile = min(max(SIDE * SIDE // (side * side), 1), power_above(plan.rows))
    blocks = -(-plan.length // side)
    code = Code()
    own, theirs = _key_lines(code, plan, "stored", "key"), _key_lines(code, plan, "theirs", "their_key")
    names = [f"in{plan.number}", *filter(None, (plan.values, plan.indices))]
    facts = {"blocks": blocks, "rows": plan.rows, "rows_of_tile": rows_of_tile, "side": side}
    keys = {"own_key": own, "their_key": theirs}
    function = _function("count", body, plan, names, code, **facts, **keys)
    return FunctionLaunch(function, (-(-plan.rows // rows_of_tile) * blocks, 1, 1))


def _selection(body: Graph, plan: _Plan) -> tuple[list[FunctionLaunch], list[Dim]]:
    """Rounds that go from the input by way of two workspaces in turn to the outputs."""
    padded = max(power_above(plan.wanted), 2)
    launches: list[FunctionLaunch] = []
    sizes = [0, 0]
    length, source = plan.length, ""
    while True:
        blocks = -(-length // STRETCH)
        last = blocks == 1
        turn = len(launches) % 2
        result = f"workspace{turn}"
        code = Code()
        names = [f"in{plan.number}"] if not source or last else []
        names += list(filter(None, (plan.values, plan.indices))) if last else []
        names += sorted({*([source] if source else []), *([] if last else [result])})
        function = _function(
            "select",
            body,
            plan,
            names,
            code,
            own_key=[] if source else _key_lines(code, plan, "stored", "key"),
            blocks=blocks,
            first=not source,
            last=last,
            padded=padded,
            result=result,
            source=source,
            width=max(power_above(min(length, STRETCH)), padded),
            worst=_WORST,
            length=length,
        )
        launches.append(FunctionLaunch(function, (plan.rows * blocks, 1, 1)))
        if last:
            return launches, [8 * size for size in sizes if size]
        length, source = blocks * padded, result
        sizes[turn] = max(sizes[turn], plan.rows * length)


def _function(name: str, body: Graph, plan: _Plan, names: list[str], code: Code, **facts: Any) -> Function:
    types = [value.tensor_type for value in body.inputs]
    outputs = [value.tensor_type for value in body.outputs]
    arguments = list(arguments_of(names, [plan.number], types, outputs, ["*i64", "*i64"]))
    if name == "count":
        arguments.append(number_argument("length", plan.length))
    flat = plan.inner == 1

    def start(extent: int) -> str:
        if flat:
            return f"row * {extent}"
        return f"row // {plan.inner} * {extent * plan.inner} + row % {plan.inner}"

    shared = {
        "arguments": [argument.name for argument in arguments],
        "indices": plan.indices,
        "length": plan.length,
        "number": plan.number,
        "other": "0.0" if storage_dtype(plan.dtype).is_float else "0",
        "result_start": start(plan.wanted),
        "start": start(plan.length),
        "stride": "" if flat else f" * {plan.inner}",
        "values": plan.values,
        "wanted": plan.wanted,
    }
    text = render_module(f"top_k_{name}", code.functions, **{**shared, **facts})
    return Function(text, name, tuple(arguments))


def _key_lines(code: Code, plan: _Plan, stored: str, key: str) -> list[str]:
    """Lines that make of loaded elements keys: signed integers, smaller for what comes first."""
    dtype, held = plan.dtype, "tl.int64" if plan.is_wide else "tl.int32"
    start = len(code.lines)
    value = code.bind(from_storage(code, stored, dtype), "x")
    top = (1 << (63 if plan.is_wide else 31)) - 1
    if dtype.is_float:
        bits = code.bind(f"{value}.to({held}, bitcast=True)", "b")
        bits = code.bind(f"tl.where({value} == 0.0, 0, {bits})", "b")
        turned = code.bind(f"tl.where({bits} < 0, {bits} ^ {top}, {bits})", "b")
        order = code.bind(f"tl.where({value} != {value}, {top}, {turned})", "b")
    elif dtype.kind == "uint" and compute_dtype(dtype).bits in (32, 64):
        # Half of the numbers stand where the negative ones do.
        order = code.bind(f"{value}.to({held}, bitcast=True) ^ {-top - 1}", "b")
    else:
        order = code.bind(f"{value}.to({held})", "b")
    code.emit(f"{key} = {order} ^ -1" if plan.largest else f"{key} = {order}")
    lines = code.lines[start:]
    del code.lines[start:]
    return lines
