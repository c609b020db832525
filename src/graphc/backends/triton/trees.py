"""Decision trees (`graphc::Trees`): every row walks down several trees at a time, each walk in a thread of its own.

Trees whose walks are over wait at their leaves for the deepest. What a row's leaves add is summed in the order of the
tables, whatever else runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.triton.assemble import arguments_of, build_kernel, number_argument
from graphc.backends.triton.element_types import triton_name
from graphc.backends.triton.function import Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.tiles import power_above
from graphc.errors import BackendError
from graphc.ir import Graph, dtypes
from graphc.target.cuda import CudaTarget

WALKS = 256
"""Walks that a block of threads takes side by side."""

WEIGHTS = 4096
"""Weights of leaves that a block of threads adds at a time."""

MOST_TARGETS = 256
"""Columns of the result beyond which a block of threads would hold too few walks."""

_NEUTRAL = {"sum": "0.0", "min": 'float("inf")', "max": 'float("-inf")'}
_X, _ROOTS, _FEATURES, _RECORDS, _MISSING, _WEIGHTS, _TARGETS = 0, 1, 2, 4, 5, 9, 10
_LIMIT = 1 << 31


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a Trees node.

    Raises:
        BackendError: A table has only one element, which leaves nothing to walk, or rows have too many results.
    """
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    reads = [_X, _ROOTS, _RECORDS, _WEIGHTS, _TARGETS]
    has_missing = bool(node.int_attribute("missing", 0))
    reads += [_MISSING] if has_missing else []
    places = {}
    for number in reads:
        value = node.inputs[number]
        if value not in body.inputs:
            raise BackendError("a table of one element", nodes=node.origins)
        places[number] = body.inputs.index(value)
    kinds = {number: body.inputs[place].tensor_type for number, place in places.items()}
    features, found = node.inputs[_FEATURES], node.output.tensor_type
    assert features is not None, "type inference saw all inputs"
    rows, columns = kinds[_X].static_shape
    count, nodes = kinds[_ROOTS].static_shape[0], features.tensor_type.static_shape[0]
    leaves, width = kinds[_WEIGHTS].static_shape
    targets = found.static_shape[1]
    dtype = kinds[_X].dtype
    if targets > MOST_TARGETS or dtype not in (dtypes.FLOAT32, dtypes.FLOAT64):
        raise BackendError(f"trees of {dtype} with {targets} results", nodes=node.origins)
    if max(rows * columns, rows * targets, leaves * width, nodes * 5) >= _LIMIT:
        raise BackendError("more elements than 32 bits count", nodes=node.origins)
    padded = power_above(targets)
    walks = max(min(WALKS, WEIGHTS // padded), 1)
    trees_of_tile = min(power_above(count), 32, walks)
    rows_of_tile = max(min(walks // trees_of_tile, power_above(rows)), 1)
    names = [f"in{place}" for place in dict.fromkeys(places.values())]
    pointers = {number: f"in{place}" for number, place in places.items()}
    order = list(dict.fromkeys(places.values()))
    inputs = [value.tensor_type for value in body.inputs]
    arguments = list(arguments_of([*names, "out0"], order, inputs, [found]))
    arguments += [number_argument("trees", count), number_argument("depth", node.int_attribute("depth", 0))]
    aggregate = node.str_attribute("aggregate", "sum")
    wide = dtype == dtypes.FLOAT64
    record = kinds[_RECORDS].static_shape[1]
    low = f"tl.load({pointers[_RECORDS]} + at + 3, mask=here, other=0)"
    if wide:
        high = f"tl.load({pointers[_RECORDS]} + at + 4, mask=here, other=0)"
        threshold = f"(({high}.to(tl.int64) << 32) | ({low}.to(tl.int64) & 0xFFFFFFFF)).to(tl.float64, bitcast=True)"
    else:
        threshold = f"{low}.to(tl.float32, bitcast=True)"
    text = render_module(
        "trees",
        (),
        aggregate=aggregate,
        arguments=[argument.name for argument in arguments],
        columns=columns,
        data=pointers[_X],
        inner=nodes - leaves,
        kind=triton_name(dtype),
        missing=pointers[_MISSING] if has_missing else "",
        neutral=_NEUTRAL[aggregate],
        padded_targets=padded,
        record=record,
        records=pointers[_RECORDS],
        roots=pointers[_ROOTS],
        rows=rows,
        rows_of_tile=rows_of_tile,
        target_count=targets,
        targets=pointers[_TARGETS],
        threshold=threshold,
        trees_of_tile=trees_of_tile,
        weights=pointers[_WEIGHTS],
        width=width,
    )
    launch = FunctionLaunch(Function(text, "trees", tuple(arguments)), (-(-rows // rows_of_tile), 1, 1))
    return build_kernel(
        "trees",
        body,
        target,
        [launch] if rows * targets else [],
        flops=rows * count * node.int_attribute("depth", 0),
        schedule={"tile": f"{rows_of_tile}x{trees_of_tile}"},
        reads=order,
    )
