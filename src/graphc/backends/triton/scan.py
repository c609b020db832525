"""Running sums and products along an axis, of many lines at a time.

A block of threads walks its lines in steps and carries the total so far from step to step; within a step it is Triton's
parallel scan. Where there are fewer lines than processors, lines are cut into blocks: a first launch sums the blocks, a
second scans each from the sum of those before it (G. E. Blelloch, "Prefix sums and their applications", 1990).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.element_types import compute_dtype
from graphc.backends.triton.assemble import arguments_of, build_kernel, number_argument
from graphc.backends.triton.element_types import from_storage, to_storage, triton_name
from graphc.backends.triton.function import Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.scope import Code
from graphc.backends.triton.tiles import power_above
from graphc.errors import BackendError
from graphc.ir import Graph, dtypes
from graphc.ir.dtypes import DType
from graphc.target.cuda import CudaTarget

STEP = 2048
"""Elements that a block of threads scans at a time."""

LEAST_BLOCK = 4096
"""Elements of a line from which a block of threads is worth its launch."""

MOST_BLOCKS = 1024
"""Blocks of a line, whose sums one step scans."""

_LIMIT = 1 << 31


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code.

    Args:
        number: Of the body's input that is scanned.
        dtype: Of the elements.
        product: Whether they are multiplied.
        rows: Lines there are.
        length: Elements of a line.
        inner: Elements between neighbours of a line.
        reverse: Whether it runs from the end.
        exclusive: Whether an element counts only for those after it.
        height: Lines of a tile.
        width: Elements of each that are scanned at a time.
        blocks: Into how many a line is cut.
    """

    number: int
    dtype: DType
    product: bool
    rows: int
    length: int
    inner: int
    reverse: bool
    exclusive: bool
    height: int
    width: int
    blocks: int

    @property
    def block(self) -> int:
        """Elements of a block, whole steps."""
        return -(-self.length // (self.blocks * self.width)) * self.width

    @property
    def held(self) -> DType:
        """What totals are held in: integers wrap the same in any wider type."""
        kind = compute_dtype(self.dtype)
        if kind.is_float:
            return kind
        return dtypes.INT64 if kind.bits == 64 else dtypes.INT32


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a CumSum or CumProd whose axis is known.

    Raises:
        BackendError: The axis is not known, or the elements have no form on GPUs.
    """
    plan = _plan(body, target)
    programs = -(-plan.rows // plan.height) * plan.blocks if plan.rows * plan.length else 0
    kinds = [False] if plan.blocks == 1 else [True, False]
    launches = [FunctionLaunch(_function(body, plan, totals_only), (programs, 1, 1)) for totals_only in kinds]
    return build_kernel(
        "scan",
        body,
        target,
        launches if programs else [],
        flops=plan.rows * plan.length,
        schedule={"tile": f"{plan.height}x{plan.width}", "blocks": plan.blocks},
        reads=[plan.number],
        workspaces=[plan.rows * plan.blocks * plan.held.itemsize] if plan.blocks > 1 else [],
    )


def _plan(body: Graph, target: CudaTarget) -> _Plan:
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    x, axis = node.inputs[0], node.inputs[1]
    assert x is not None and axis is not None, "type inference saw both inputs"
    if axis.constant is None:
        raise BackendError(f"the axis of {node.op} is known only when it runs", nodes=node.origins)
    if x not in body.inputs:
        raise BackendError(f"{node.op} of a constant of one element is folded", nodes=node.origins)
    kind = x.tensor_type
    if kind.dtype.kind == "complex" or kind.dtype == dtypes.BOOL:
        raise BackendError(f"{node.op} of {kind.dtype}", nodes=node.origins)
    shape = kind.static_shape
    if prod(shape) >= _LIMIT:
        raise BackendError("more elements than 32 bits count", nodes=node.origins)
    over = int(axis.constant.array().reshape(())) % len(shape)
    length, inner = shape[over], prod(shape[over + 1 :])
    rows = prod(shape[:over]) * inner
    # Neighbours in memory are neighbours in the tile, whichever of its sides they lie along.
    width = min(power_above(max(length, 1)), STEP if inner == 1 else 32)
    height = min(power_above(max(rows, 1)), max(STEP // width, 1), 64)
    programs, blocks = -(-rows // height), 1
    if 0 < programs * 2 <= target.processors:
        blocks = min(-(-2 * target.processors // programs), length // LEAST_BLOCK, MOST_BLOCKS)
    return _Plan(
        number=body.inputs.index(x),
        dtype=kind.dtype,
        product=node.op_type == "CumProd",
        rows=rows,
        length=length,
        inner=inner,
        reverse=bool(node.int_attribute("reverse", 0)),
        exclusive=bool(node.int_attribute("exclusive", 0)),
        height=height,
        width=width,
        blocks=max(blocks, 1),
    )


def _function(body: Graph, plan: _Plan, totals_only: bool) -> Function:
    code, held = Code(), plan.held
    code.emit(f"value = ({from_storage(code, 'value', plan.dtype)}).to({triton_name(held)})")
    lines = list(code.lines)
    back = "" if plan.held == compute_dtype(plan.dtype) else f".to({triton_name(plan.dtype)})"
    stored = to_storage(code, f"running{back}", plan.dtype)
    is_float = held.is_float
    types = [value.tensor_type for value in body.inputs]
    names = [f"in{plan.number}", *([] if totals_only else ["out0"]), *(["workspace0"] if plan.blocks > 1 else [])]
    sums = {dtypes.FLOAT32: "*fp32", dtypes.FLOAT64: "*fp64", dtypes.INT32: "*i32", dtypes.INT64: "*i64"}[held]
    outputs = [value.tensor_type for value in body.outputs]
    arguments = arguments_of(names, [plan.number], types, outputs, [sums])
    length = number_argument("length", plan.length)
    flat = plan.inner == 1
    apart = plan.length * plan.inner
    start = f"line * {plan.length}" if flat else f"line // {plan.inner} * {apart} + line % {plan.inner}"
    text = render_module(
        "scan",
        code.functions,
        arguments=[*names, "length"],
        block=plan.block,
        blocks=plan.blocks,
        exclusive=plan.exclusive,
        height=plan.height,
        held=triton_name(held),
        identity=("1.0" if is_float else "1") if plan.product else ("0.0" if is_float else "0"),
        length=plan.length,
        lines=lines,
        name="totals" if totals_only else "scan",
        number=plan.number,
        operator="*" if plan.product else "+",
        padded_blocks=power_above(plan.blocks),
        reverse=plan.reverse,
        rows=plan.rows,
        scan="tl.cumprod" if plan.product else "tl.cumsum",
        start=start,
        stored=stored,
        stride="" if flat else f" * {plan.inner}",
        totals_only=totals_only,
        width=plan.width,
        zero="0.0" if is_float else "0",
    )
    return Function(text, "totals" if totals_only else "scan", (*arguments, length))
