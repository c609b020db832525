"""Scatters: a copy of the data, and updates stored into it, or combined with it, where indices say.

All indices are looked at first, so that one out of range is an error before anything is written. Updates of one place
come in their order; threads share what can never be the same place: positions off the axis of ScatterElements, parts
of the slices of ScatterND.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.element_types import compute_dtype
from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.loops import copy_tensor
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast, horizontal
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType, Value, dtypes
from graphc.ir.symbolic import minimum
from graphc.ops.expr import highest, lowest
from graphc.target import Target

PARALLEL_UPDATES = 1 << 13
"""Updated elements from which threads share the work."""

LEAST_PART = 256
"""Elements of a slice under which it is not cut for threads."""

_WORD = 8
"""Bytes of the widest element that is stored as a number."""

_COMBINE = {"add": "add", "mul": "mul", "max": "max", "min": "min"}


@dataclass(frozen=True)
class _Source:
    """An input of the node: a pointer argument, or the number it is.

    Args:
        kind: Its type.
        operand: Pointer argument; None where a constant of one element is part of the code.
        number: That element.
    """

    kind: TensorType
    operand: int | None
    number: int | float | bool

    def load(self, builder: KernelBuilder, offset: Dim, lanes: int = 1, stride: int = 1) -> Expr:
        """Elements in storage type."""
        if self.operand is not None:
            return bind(builder.load(self.operand, offset, lanes, stride))
        value = element_types.to_storage(element_types.constant(self.number, self.kind.dtype), self.kind.dtype)
        return broadcast(value, lanes)


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a ScatterElements (or Scatter) or ScatterND.

    Raises:
        BackendError: The reduction is unknown or of complex numbers, or shapes do not fit each other.
    """
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    reduction = node.str_attribute("reduction", "none")
    if reduction != "none" and reduction not in _COMBINE:
        raise BackendError(f"reduction {reduction!r} is none of none, {', '.join(_COMBINE)}", nodes=node.origins)
    dtype = node.output.tensor_type.dtype
    if dtype.kind == "complex" and (reduction != "none" or dtype.itemsize > _WORD):
        what = "combined" if reduction != "none" else "moved as one word"
        raise BackendError(f"elements of {dtype} are not {what} in kernels", nodes=node.origins)
    data, indices, updates = (_source(body, value).kind.static_shape for value in node.inputs[:3])
    if node.op_type == "ScatterND":
        fit = updates == (*indices[:-1], *data[indices[-1] :])
    else:
        axis = node.int_attribute("axis", 0) % len(data)
        fit = updates == indices and all(
            i == axis or a <= b for i, (a, b) in enumerate(zip(indices, data, strict=True))
        )
    if not fit:
        raise BackendError(f"updates of shape {list(updates)} and indices of {list(indices)}", nodes=node.origins)

    def emit(builder: KernelBuilder) -> None:
        _Scatter(builder, body, node, target).emit()

    return build_kernel("scatter", body, target, [], emit, flops=prod(updates), schedule={"reduction": reduction})


class _Scatter:
    """Writes one kernel: pointers are the body's inputs and the output."""

    def __init__(self, builder: KernelBuilder, body: Graph, node: Node, target: Target) -> None:
        self.builder = builder
        self.node = node
        self.cores = target.cores
        self.data, self.indices, self.updates = (_source(body, value) for value in node.inputs[:3])
        self.output = len(body.inputs)
        self.op = _COMBINE.get(node.str_attribute("reduction", "none"))
        self.shape = self.data.kind.static_shape
        self.dtype = self.data.kind.dtype
        self.lanes = builder.vector_bytes // max(compute_dtype(self.dtype).itemsize, 1)
        self.shared = prod(self.updates.kind.static_shape) >= PARALLEL_UPDATES

    def emit(self) -> None:
        """The checks, the copy and the updates."""
        elements = self.node.op_type != "ScatterND"
        updated = prod(self.updates.kind.static_shape) > 0
        if updated:
            if elements:
                axis = self.node.int_attribute("axis", 0) % len(self.shape)
                self._check(0, 1, self.shape[axis])
            else:
                length = self.indices.kind.static_shape[-1]
                for part in range(length):
                    self._check(part, length, self.shape[part])
        if prod(self.shape):
            self._copy()
        if updated and elements:
            self._elements(axis)
        elif updated:
            self._slices(length)

    def _copy(self) -> None:
        if self.data.operand is None:
            self.builder.store(self.output, self.data.load(self.builder, 0), 0)
        else:
            copy_tensor(self.builder, self.data.kind, self.data.operand, self.data.kind, self.output)

    # --- indices ------------------------------------------------------------------------------------------------------

    def _index(self, offset: Dim, lanes: int = 1, stride: int = 1) -> Expr:
        found = self.indices.load(self.builder, offset, lanes, stride)
        return bind(element_types.cast(found, self.indices.kind.dtype, dtypes.INT64))

    def _check(self, first: int, stride: int, extent: int) -> None:
        """Fails the step where an element `first`, `first + stride`, ... is no index into an axis of `extent`."""
        builder = self.builder
        count = prod(self.indices.kind.static_shape) // stride
        lanes = builder.vector_bytes // dtypes.INT64.itemsize
        ends: list[tuple[Callable[[Expr, Expr], Expr], int | float]] = [
            (T.min, highest(dtypes.INT64)),
            (T.max, lowest(dtypes.INT64)),
        ]
        wide = [builder.accumulator(lanes, "int64") for _ in ends]
        narrow = [builder.accumulator(1, "int64") for _ in ends]
        for (_, start), vector, single in zip(ends, wide, narrow, strict=True):
            vector.value = broadcast(T.int64(int(start)), lanes)
            single.value = T.int64(int(start))
        with builder.serial(count // lanes, "check") as number:
            found = self._index(number * (lanes * stride) + first, lanes, stride)
            for (choose, _), vector in zip(ends, wide, strict=True):
                vector.value = choose(vector.value, found)
        with builder.serial(count % lanes, "check") as number:
            found = self._index((count // lanes * lanes + number) * stride + first)
            for (choose, _), single in zip(ends, narrow, strict=True):
                single.value = choose(single.value, found)
        for (choose, _), vector, single in zip(ends, wide, narrow, strict=True):
            end = bind(choose(horizontal(vector.value, choose), single.value))
            builder.fail_unless_inside(self._wrapped(end, extent), extent)

    @staticmethod
    def _wrapped(index: Expr, extent: int) -> Expr:
        """An index with a negative one counted from the end."""
        return T.Select(index < T.int64(0), index + T.int64(extent), index)

    def _position(self, offset: Dim, extent: int) -> Dim:
        """A checked index as a symbol."""
        return self.builder.name_value(bind(self._wrapped(self._index(offset), extent)), 0, extent - 1, "to")

    # --- updates ------------------------------------------------------------------------------------------------------

    def _update(self, offset: Dim, target: Dim, lanes: int = 1) -> None:
        """Stores updates from `offset` on at `target`, or combines them with what is there."""
        builder = self.builder
        value = self.updates.load(builder, offset, lanes)
        if self.op is not None:
            held = element_types.from_storage(bind(builder.load(self.output, target, lanes)), self.dtype)
            value = scalar_ops.apply(self.op, self.dtype, [held, element_types.from_storage(value, self.dtype)])
            value = element_types.to_storage(bind(value), self.dtype)
        builder.store(self.output, value, target, lanes)

    def _elements(self, axis: int) -> None:
        """One update for each index, along `axis`."""
        builder = self.builder
        shape = self.indices.kind.static_shape
        # Threads share the first axis, off the one that indices tell, along which there is enough to do.
        off_axis = [i for i, extent in enumerate(shape) if i != axis and extent >= 2 * self.cores]
        cut = off_axis[0] if self.shared and off_axis else -1
        parts = min(4 * self.cores, shape[cut]) if cut >= 0 else 1
        size = -(-shape[cut] // parts)
        place: list[Dim] = [0] * len(shape)
        with ExitStack() as stack:
            part = stack.enter_context(builder.parallel(-(-shape[cut] // size), "part")) if cut >= 0 else 0
            for number, extent in enumerate(shape):
                first, length = (part * size, minimum(size, extent - part * size)) if number == cut else (0, extent)
                place[number] = first + stack.enter_context(builder.serial(length, "u"))
            offset = _offset(place, shape)
            place[axis] = self._position(offset, self.shape[axis])
            self._update(offset, _offset(place, self.shape))

    def _slices(self, length: int) -> None:
        """One slice of the data for each tuple of indices."""
        builder, lanes = self.builder, self.lanes
        tuples = prod(self.indices.kind.static_shape[:-1])
        size = prod(self.shape[length:])
        parts = min(size // LEAST_PART, 4 * self.cores) if self.shared else 1
        part_size = -(-size // max(parts, 1))
        part_size = -(-part_size // lanes) * lanes if parts > 1 else size
        with builder.parallel(-(-size // part_size), "part", enable=parts > 1) as part:
            first = part * part_size
            extent: Dim = part_size
            if size % part_size:
                extent = builder.bind_index(minimum(part_size, size - first), 1, part_size)
            whole = builder.bind_index(extent // lanes, 0, None)
            rest = builder.bind_index(extent - whole * lanes, 0, lanes - 1)
            with builder.serial(tuples, "t") as number:
                place = [self._position(number * length + i, self.shape[i]) for i in range(length)]
                to = _offset(place, self.shape[:length]) * size + first
                origin = number * size + first
                with builder.serial(whole, "v") as vector:
                    self._update(origin + vector * lanes, to + vector * lanes, lanes)
                with builder.serial(rest, "e") as element:
                    at = whole * lanes + element
                    self._update(origin + at, to + at)


def _source(body: Graph, value: Value | None) -> _Source:
    assert value is not None, "type inference saw all inputs"
    if value in body.inputs:
        return _Source(value.tensor_type, body.inputs.index(value), 0)
    tensor = value.constant
    assert tensor is not None and tensor.size == 1, "only constants of one element are part of a body"
    return _Source(value.tensor_type, None, tensor.array().reshape(()).item())


def _offset(place: Sequence[Dim], shape: Sequence[int]) -> Dim:
    """Offset of an index in row-major order."""
    offset: Dim = 0
    for index, extent in zip(place, shape, strict=True):
        offset = offset * extent + index
    return offset
