"""Random If, Loop and Scan: bodies grown like any graph, which read values around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import TypeInferenceError
from graphc.ir import TensorType, Value, dtypes
from graphc.testing.choosing import chance

if TYPE_CHECKING:
    from graphc.testing.random_graphs import Growing

_CONDITION = TensorType(dtypes.BOOL, ())
_INDEX = TensorType(dtypes.INT64, ())
_MOST_TRIPS = 4


def add_if(growing: Growing) -> None:
    """An If of one or two results, on a condition that is given or computed."""
    condition = _condition(growing)
    then = growing.body("then")
    then.grow(growing.choose.integer(1, 3))
    results = [then.result() for _ in range(growing.choose.integer(1, 2))]
    otherwise = growing.body("else")
    otherwise.grow(growing.choose.integer(1, 3))
    otherwise.graph.outputs = [otherwise.result(value.tensor_type) for value in results]
    then.graph.outputs = results
    branches = {"then_branch": then.graph, "else_branch": otherwise.graph}
    _add(growing, "If", [condition], len(results), branches)


def add_loop(growing: Growing) -> None:
    """A Loop over one or two carried values: so many iterations, or fewer where its condition ends it."""
    choose = growing.choose
    carried = _carried(growing)
    body = growing.body("loop")
    index, going = body.take("i", _INDEX), body.take("going", _CONDITION)
    states = [body.take("v", value.tensor_type) for value in carried]
    body.grow(choose.integer(1, 4))
    ends_early = chance(choose, 30)
    if ends_early:
        kept = body.builder.op("Less", index, body.builder.constant(np.int64(choose.integer(0, _MOST_TRIPS))))
    else:
        kept = body.builder.op("Identity", going)
    is_given = chance(choose, 25)
    trips = growing.add_input(_INDEX) if is_given else None
    trips = growing.builder.constant(np.int64(choose.integer(0, _MOST_TRIPS))) if trips is None else trips
    # How much is collected must not turn on what is computed: what follows has known shapes.
    collected = [] if ends_early or is_given or chance(choose, 30) else [body.result()]
    body.graph.outputs = [kept, *(body.result(value.tensor_type) for value in states), *collected]
    begin = growing.builder.constant(np.bool_(True)) if chance(choose, 80) else _condition(growing)
    if begin.constant is None:
        body.graph.outputs = body.graph.outputs[: 1 + len(states)]
    count = len(body.graph.outputs) - 1
    _add(growing, "Loop", [trips, begin, *carried], count, {"body": body.graph})


def add_scan(growing: Growing) -> None:
    """A Scan of one or two values along one of their axes, forward or backward, with or without a carried value."""
    choose = growing.choose
    scanned = [value for value in growing.pool if value.tensor_type.static_shape and value.tensor_type.dtype.bits >= 8]
    if not scanned:
        return
    first: Value = choose.pick(scanned[::-1])
    axes = [choose.integer(0, len(first.tensor_type.static_shape) - 1)]
    length = first.tensor_type.static_shape[axes[0]]
    sequences = [first]
    fitting = [(value, a) for value in scanned for a, e in enumerate(value.tensor_type.static_shape) if e == length]
    if fitting and chance(choose, 30):
        other, axis = choose.pick(fitting)
        sequences.append(other)
        axes.append(axis)
    carried = _carried(growing)[: choose.integer(0, 1)]
    body = growing.body("scan")
    states = [body.take("v", value.tensor_type) for value in carried]
    for value, axis in zip(sequences, axes, strict=True):
        shape = value.tensor_type.static_shape
        body.take("item", value.tensor_type.with_shape((*shape[:axis], *shape[axis + 1 :])))
    body.grow(choose.integer(1, 4))
    collected = [body.result() for _ in range(choose.integer(0 if states else 1, 2))]
    body.graph.outputs = [*(body.result(value.tensor_type) for value in states), *collected]
    places = [choose.integer(0, len(value.tensor_type.static_shape)) for value in collected]
    attributes: dict[str, Any] = {
        "body": body.graph,
        "num_scan_inputs": len(sequences),
        "scan_input_axes": axes,
        "scan_input_directions": [choose.integer(0, 1) for _ in axes],
        "scan_output_axes": places or None,
        "scan_output_directions": [choose.integer(0, 1) for _ in places] or None,
    }
    _add(growing, "Scan", [*carried, *sequences], len(body.graph.outputs), attributes)


def _add(growing: Growing, op_type: str, inputs: Sequence[Value], outputs: int, attributes: dict[str, Any]) -> None:
    try:
        made = growing.builder.op(op_type, *inputs, outputs=outputs, **attributes).producer
    except TypeInferenceError:
        growing.graph.remove(list(growing.graph.nodes)[-1])
        return
    assert made is not None, op_type
    growing.offer(made.outputs)


def _condition(growing: Growing) -> Value:
    """A condition: a value that is there, whether the elements of one are large, or an input."""
    b, choose = growing.builder, growing.choose
    ready = [value for value in growing.pool if value.type == _CONDITION]
    if ready and chance(choose, 50):
        found: Value = choose.pick(ready)
        return found
    floats = [value for value in growing.pool if value.tensor_type.dtype in (dtypes.FLOAT32, dtypes.FLOAT64)]
    if floats and chance(choose, 50):
        value = choose.pick(floats)
        limit = b.constant(np.array(0.5, value.tensor_type.dtype.numpy))
        return b.op("Greater", b.op("ReduceMax", value, keepdims=0), limit)
    return growing.add_input(_CONDITION)


def _carried(growing: Growing) -> list[Value]:
    """Values to begin with, which an iteration turns into others of their types."""
    if not growing.pool:
        growing.add_input(TensorType(dtypes.FLOAT32, (2, 3)))
    return [growing.choose.pick(growing.pool[::-1]) for _ in range(growing.choose.integer(1, 2))]
