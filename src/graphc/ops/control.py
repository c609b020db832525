"""Control flow: If, Loop, Scan. Their bodies are graphs in attributes, which may read values of enclosing graphs.

Evaluation receives a node's own inputs and then its `captured_inputs`, as `graphc.ops.evaluate` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.ir import Dim, Graph, Node, TensorType, Type, Value, dtypes
from graphc.ir.symbolic import maximum
from graphc.ops.base import Array, Datum, InferenceContext, Operator, Trait, register
from graphc.ops.evaluate import captured_inputs, evaluate_graph
from graphc.ops.merging import join, renew, renew_tensor

CONTROL = frozenset({Trait.CONTROL})
_INDEX = TensorType(dtypes.INT64, ())
_CONDITION = TensorType(dtypes.BOOL, ())


def captured_data(node: Node, data: Sequence[Datum]) -> Mapping[Value, Datum]:
    """Data of the outer values that a node's subgraphs read, out of what evaluation was given."""
    return dict(zip(captured_inputs(node), data[len(node.inputs) :], strict=True))


def output_types(ctx: InferenceContext, graph: Graph) -> list[Type]:
    """Types of the outputs of a subgraph that is inferred."""
    types = []
    for value in graph.outputs:
        if value.type is None:
            ctx.fail(f"the type of output {value.name!r} of subgraph {graph.name!r} is unknown")
        types.append(value.type)
    return types


def _check_count(ctx: InferenceContext, made: int) -> None:
    """Every output of a body is one of the node; an output that is not wanted has no name."""
    if len(ctx.node.outputs) != made:
        ctx.fail(f"has {len(ctx.node.outputs)} outputs, its body makes {made}", "Leave names empty, not outputs away.")


def _infer_if(ctx: InferenceContext) -> Sequence[Type]:
    branches = [ctx.node.graph_attribute(name) for name in ("then_branch", "else_branch")]
    if len(branches[0].outputs) != len(branches[1].outputs):
        ctx.fail(f"branches have {len(branches[0].outputs)} and {len(branches[1].outputs)} outputs")
    _check_count(ctx, len(branches[0].outputs))
    failures = [ctx.try_subgraph(branch) for branch in branches]
    condition = ctx.constant(0)
    considered = (0, 1) if condition is None else (0 if condition.all() else 1,)
    fitting = [number for number in considered if failures[number] is None]
    if not fitting:
        failure = failures[considered[0]]
        assert failure is not None
        raise failure
    found = [output_types(ctx, branches[number]) for number in fitting]
    if len(found) == 1:
        return found[0]
    types = []
    for left, right in zip(*found, strict=True):
        joined = join(left, right, lambda a, b: ctx.fresh("branch"))
        if joined is None:
            ctx.fail(f"branches answer {left} and {right}")
        types.append(joined)
    return types


def _evaluate_if(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    branch = node.graph_attribute("then_branch" if np.asarray(data[0]).all() else "else_branch")
    return evaluate_graph(branch, [], captured=captured_data(node, data))


def infer_carried(
    ctx: InferenceContext, body: Graph, inputs: Sequence[Value], first: int, initial: Sequence[Type]
) -> tuple[list[Type], list[Type]]:
    """Types of the values that a body carries from one iteration to the next, and of all the body's outputs.

    An extent that an iteration changes becomes a symbol, until another iteration would change nothing more.

    Args:
        ctx: Context of the node.
        body: The body; its inputs other than the carried ones have types.
        inputs: The body's inputs that are carried.
        first: Position of the first carried value among the body's outputs.
        initial: Types before the first iteration.
    """
    inner = [value for graph in body.all_graphs() for node in graph.nodes for value in node.outputs]
    declared = [value.type for value in inner]
    opened: set[Dim] = set()

    def differ(before: Dim, after: Dim) -> Dim:
        if before in opened:
            return before
        found = ctx.fresh("carried")
        opened.add(found)
        return found

    carried = list(initial)
    while True:
        for value, kind in zip(inner, declared, strict=True):
            value.type = kind
        for value, kind in zip(inputs, carried, strict=True):
            value.type = kind
        ctx.infer_subgraph(body)
        outputs = output_types(ctx, body)
        found = []
        for before, after in zip(carried, outputs[first : first + len(carried)], strict=True):
            joined = join(before, after, differ)
            if joined is None:
                ctx.fail(f"the body turns {before} into {after}")
            found.append(joined)
        # Every round opens an extent or loses a rank, of which there are finitely many.
        if found == carried:
            return carried, outputs
        carried = found


def _infer_loop(ctx: InferenceContext) -> Sequence[Type]:
    node, body = ctx.node, ctx.node.graph_attribute("body")
    count = len(node.inputs) - 2
    initial = [kind for kind in ctx.inputs[2:] if kind is not None]
    scans = len(body.outputs) - 1 - count
    if len(initial) != count or len(body.inputs) != count + 2 or scans < 0:
        ctx.fail(f"body has {len(body.inputs)} inputs and {len(body.outputs)} outputs for {count} carried values")
    _check_count(ctx, len(body.outputs) - 1)
    body.inputs[0].type, body.inputs[1].type = _INDEX, _CONDITION
    carried, outputs = infer_carried(ctx, body, body.inputs[2:], 1, initial)
    trips = _trip_count(ctx, body)
    # Extents that change inside are renewed: the last iteration's are not those of any other.
    last = [renew(kind, ctx.fresh) for kind in carried]
    return [*last, *(_stacked(ctx, kind, trips, 0) for kind in outputs[1 + count :])]


def _trip_count(ctx: InferenceContext, body: Graph) -> Dim:
    """Iterations of a Loop where nothing can end it early, else a symbol."""
    limit = ctx.dims(0) if ctx.has(0) else None
    start = ctx.constant(1) if ctx.has(1) else np.array(True)
    going_on = body.outputs[0]
    constant = going_on.constant
    kept = going_on is body.inputs[1] or (constant is not None and bool(constant.array().all()))
    if going_on.producer is not None and going_on.producer.is_op("Identity"):
        kept = kept or going_on.producer.input(0) is body.inputs[1]
    if limit is None or start is None or not start.all() or not kept:
        return ctx.fresh("trips")
    return maximum(limit[0], 0)


def _stacked(ctx: InferenceContext, kind: Type, count: Dim, axis: int) -> Type:
    if not isinstance(kind, TensorType):
        ctx.fail(f"an output that is collected must be a tensor, not {kind}")
    if kind.shape is None:
        return kind
    kind = renew_tensor(kind, ctx.fresh)
    position = axis if axis >= 0 else axis + len(kind.dims) + 1
    return kind.with_shape((*kind.dims[:position], count, *kind.dims[position:]))


def _evaluate_loop(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    body = node.graph_attribute("body")
    limit = None if data[0] is None else int(np.asarray(data[0]).reshape(()))
    going_on = True if data[1] is None else bool(np.asarray(data[1]).all())
    carried = list(data[2 : len(node.inputs)])
    captured = captured_data(node, data)
    collected: list[list[Array]] = [[] for _ in body.outputs[1 + len(carried) :]]
    step = 0
    while going_on and (limit is None or step < limit):
        inputs = [np.array(step, np.int64), np.array(going_on), *carried]
        condition, *results = evaluate_graph(body, inputs, captured=captured)
        carried = results[: len(carried)]
        for parts, part in zip(collected, results[len(carried) :], strict=True):
            parts.append(np.asarray(part))
        going_on = bool(np.asarray(condition).all())
        step += 1
    outputs = body.outputs[1 + len(carried) :]
    return [*carried, *(_stack(parts, value, 0) for parts, value in zip(collected, outputs, strict=True))]


def _stack(parts: Sequence[Array], value: Value, axis: int) -> Array:
    """What iterations made, along a new axis; without any iteration the declared type tells what is empty."""
    if parts:
        return np.stack(parts, axis)
    kind = value.type
    if not isinstance(kind, TensorType) or kind.shape is None:
        raise ValueError(f"no iteration ran, and the type of {value.name!r} is unknown")
    shape = [extent if isinstance(extent, int) else 0 for extent in kind.shape]
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
    return np.empty(shape, kind.dtype.numpy)


@dataclass(frozen=True)
class ScanPlan:
    """How a Scan cuts its inputs and collects its outputs.

    Args:
        states: Number of carried values.
        input_axes: Axis of each scanned input.
        input_reversed: Whether it is read from its end.
        output_axes: Axis of each collected output.
        output_reversed: Whether it is filled from its end.
    """

    states: int
    input_axes: tuple[int, ...]
    input_reversed: tuple[int, ...]
    output_axes: tuple[int, ...]
    output_reversed: tuple[int, ...]


def scan_plan(node: Node) -> ScanPlan:
    """The plan of a Scan node of operator set 9 or newer."""
    scanned = node.int_attribute("num_scan_inputs", 0)
    states = len(node.inputs) - scanned
    collected = len(node.graph_attribute("body").outputs) - states

    def numbers(name: str, count: int) -> tuple[int, ...]:
        return node.ints_attribute(name) or (0,) * count

    return ScanPlan(
        states,
        numbers("scan_input_axes", scanned),
        numbers("scan_input_directions", scanned),
        numbers("scan_output_axes", collected),
        numbers("scan_output_directions", collected),
    )


def _infer_scan(ctx: InferenceContext) -> Sequence[Type]:
    node, body = ctx.node, ctx.node.graph_attribute("body")
    plan = scan_plan(node)
    if plan.states < 0 or len(body.inputs) != len(node.inputs) or len(body.outputs) < plan.states:
        ctx.fail(
            f"body has {len(body.inputs)} inputs and {len(body.outputs)} outputs, the node {len(node.inputs)} inputs"
        )
    _check_count(ctx, len(body.outputs))
    length: Dim | None = None
    for position, axis in enumerate(plan.input_axes, plan.states):
        shape = ctx.shape(position)
        if not -len(shape) <= axis < len(shape):
            ctx.fail(f"scan axis {axis} of an input of shape {list(shape)}")
        axis %= len(shape)
        extent = shape[axis]
        if length is None or isinstance(extent, int):
            if isinstance(length, int) and length != extent:
                ctx.fail(f"scanned inputs have lengths {length} and {extent}")
            length = extent
        body.inputs[position].type = ctx.tensor(position).with_shape((*shape[:axis], *shape[axis + 1 :]))
    initial = [kind for kind in ctx.inputs[: plan.states] if kind is not None]
    carried, outputs = infer_carried(ctx, body, body.inputs[: plan.states], 0, initial)
    trips = ctx.fresh("trips") if length is None else length
    stacked = zip(outputs[plan.states :], plan.output_axes, strict=True)
    last = [renew(kind, ctx.fresh) for kind in carried]
    return [*last, *(_stacked(ctx, kind, trips, axis) for kind, axis in stacked)]


def _evaluate_scan(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    body, plan = node.graph_attribute("body"), scan_plan(node)
    states = list(data[: plan.states])
    captured = captured_data(node, data)
    sequences = []
    for array, axis, backwards in zip(
        data[plan.states : len(node.inputs)], plan.input_axes, plan.input_reversed, strict=True
    ):
        moved = np.moveaxis(array, axis, 0)
        sequences.append(moved[::-1] if backwards else moved)
    collected: list[list[Array]] = [[] for _ in plan.output_axes]
    for items in zip(*sequences, strict=True):
        results = evaluate_graph(body, [*states, *items], captured=captured)
        states = results[: plan.states]
        for parts, part in zip(collected, results[plan.states :], strict=True):
            parts.append(np.asarray(part))
    outputs = []
    for parts, value, axis, backwards in zip(
        collected, body.outputs[plan.states :], plan.output_axes, plan.output_reversed, strict=True
    ):
        outputs.append(_stack(parts[::-1] if backwards else parts, value, axis))
    return [*states, *outputs]


for operator in (
    Operator("If", _infer_if, _evaluate_if, traits=CONTROL),
    Operator("Loop", _infer_loop, _evaluate_loop, traits=CONTROL),
    Operator("Scan", _infer_scan, _evaluate_scan, traits=CONTROL, since=9),
):
    register(operator)
