"""What an attention region computes: where each element of its operands lies, and where each result goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.backends.contraction import View, anchor_of, view_of
from graphc.backends.element_types import compute_dtype
from graphc.backends.extents import bounds_of, extent_of, is_positive
from graphc.backends.regions import Expander
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, TensorType, Value, dtypes
from graphc.ir.symbolic import Bounds, product, simplify, substitute
from graphc.ops.attention import heads_of
from graphc.ops.base import Trait, find
from graphc.ops.expr import Axis, Scalar, axes_of, call, cast, compare, const, loads, select
from graphc.ops.indexing import broadcast_index

MASKED = float("-inf")


@dataclass(frozen=True)
class Heads:
    """`out[b, h, s, e] = sum over t of softmax_t(scale * q[b, h, s, :] . k[b, g, t, :] + bias) * v[b, g, t, e]`.

    Args:
        anchor: The Attention node.
        batch: Axis b.
        head: Axis h, of the query.
        group: Axis g, of key and value; every `ratio` heads share one.
        query: Axis s.
        key: Axis t.
        size: The axis that scores sum over.
        value: Axis e.
        q: Query over b, h, s and `size`.
        k: Key over b, g, t and `size`.
        v: Value over b, g, t and e.
        bias: What is added to a score, over b, h, s, t; None for nothing.
        scale: Factor of the scores.
        softcap: Scores are squeezed to within this; 0 for not at all.
        causal: Whether no key after the query is seen.
        left: How many keys before the query's own place are seen; None for all.
        right: How many after it; None for all.
        valid: How many of the keys there are, int64 over b, and the queries are the last of them; None for all, and the
            queries have the places of the first.
        output: Type of the result.
        place: Logical index of the result in `output`, over b, h, s, e.
    """

    anchor: Node
    batch: Axis
    head: Axis
    group: Axis
    query: Axis
    key: Axis
    size: Axis
    value: Axis
    q: View
    k: View
    v: View
    bias: Scalar | None
    scale: float
    softcap: float
    causal: bool
    left: int | None
    right: int | None
    valid: Scalar | None
    output: TensorType
    place: tuple[Dim, ...]

    @property
    def ratio(self) -> int:
        """Heads of the query per head of the key."""
        assert isinstance(self.head.extent, int) and isinstance(self.group.extent, int)
        return self.head.extent // self.group.extent

    def result_at(self, places: Mapping[str, Dim], bounds: Bounds) -> list[Dim]:
        """The logical index in the output of the result at `places` of b, h, s and e."""
        return [substitute(index, places, bounds) for index in self.place]


def heads_of_region(body: Graph, *, windows: bool = False) -> Heads:
    """What a body around an Attention computes.

    Args:
        body: The body.
        windows: Whether the kernel takes windows and numbers of valid keys.

    Raises:
        BackendError: It has none, or one of a kind that the template does not take.
    """
    anchor = anchor_of(body, frozenset({"Attention"}))
    q, k, v = (_operand(anchor, i) for i in range(3))
    _check(anchor, (q, k, v), body.bounds, windows)
    heads = heads_of(anchor, *(value.tensor_type.dims for value in (q, k, v)))
    extents = (heads.batch, heads.query_heads, heads.kv_heads, heads.queries, heads.keys, heads.size, heads.value_size)
    batch, head, group, query, key, size, element = axes = axes_of(extents)
    for axis in (head, group, size, element):
        extent_of([axis])
    b, h, g, s, t, d, e = (axis.index for axis in axes)
    bounds = {**body.bounds, **bounds_of(axes)}
    expander = Expander(body)

    def view(value: Value, at: tuple[Dim, Dim, Dim], width: Dim, what: str) -> View:
        head, position, place = at
        index = (b, position, head * width + place) if heads.packed else (b, head, position, place)
        return view_of(body, expander, value, index, bounds, what)

    mask, valid = anchor.input(3), anchor.input(6)
    result = (b, s, h * heads.value_size + e) if heads.packed else (b, h, s, e)
    output, place = _moved(body, anchor.outputs[0], result, bounds)
    return Heads(
        anchor,
        batch,
        head,
        group,
        query,
        key,
        size,
        element,
        q=view(q, (h, s, d), heads.size, "the query"),
        k=view(k, (g, t, d), heads.size, "the key"),
        v=view(v, (g, t, e), heads.value_size, "the value"),
        bias=None if mask is None else _mask_bias(expander, mask, (b, h, s, t), heads.keys),
        scale=anchor.float_attribute("scale", 0.0) or 1 / math.sqrt(int(str(heads.size))),
        softcap=anchor.float_attribute("softcap", 0.0),
        causal=bool(anchor.int_attribute("is_causal", 0)),
        left=_window(anchor, "left"),
        right=_window(anchor, "right"),
        valid=None if valid is None else expander.element(valid, (b,)),
        output=output,
        place=place,
    )


def _operand(anchor: Node, index: int) -> Value:
    value = anchor.inputs[index]
    assert value is not None, "type inference demands query, key and value"
    return value


def _check(anchor: Node, operands: Sequence[Value], bounds: Bounds, windows: bool) -> None:
    if any(value is not None for value in anchor.inputs[4:6]):
        raise BackendError("Attention with a cache of past keys has no kernel")
    if anchor.input(6) is not None and not windows:
        raise BackendError("Attention over as many keys as the data says has no kernel")
    if any(value.is_used for value in anchor.outputs[1:]):
        raise BackendError("Attention gives its keys, values or scores away")
    if not windows and any(_window(anchor, side) is not None for side in ("left", "right")):
        raise BackendError("Attention over a window has no kernel")
    for value in (*operands, anchor.outputs[0]):
        type_ = value.tensor_type
        if not type_.dtype.is_float or compute_dtype(type_.dtype) != dtypes.FLOAT32:
            raise BackendError(f"Attention of {type_.dtype}, which does not compute in float32")
        if not all(is_positive(extent, bounds) for extent in type_.dims):
            raise BackendError(f"%{value.name} has an extent that may be zero")


def _window(anchor: Node, side: str) -> int | None:
    """Keys that are seen on one side of a query's place; None for all."""
    size = anchor.int_attribute(f"{side}_window_size", -1)
    return size if size >= 0 else None


def _mask_bias(expander: Expander, mask: Value, index: Sequence[Dim], keys: Dim) -> Scalar:
    """The mask as an addend of the scores; keys past the end of a short mask are hidden."""
    type_ = mask.tensor_type
    element = expander.element(mask, broadcast_index(type_.dims, index))
    hidden = const(MASKED, dtypes.FLOAT32)
    if type_.dtype == dtypes.BOOL:
        bias = select(element, const(0.0, dtypes.FLOAT32), hidden)
    else:
        bias = cast(element, dtypes.FLOAT32)
    short = bool(type_.dims) and type_.dims[-1] != keys
    return select(compare("lt", index[-1], type_.dims[-1]), bias, hidden) if short else bias


def _moved(body: Graph, value: Value, index: Sequence[Dim], bounds: Bounds) -> tuple[TensorType, tuple[Dim, ...]]:
    """The type of the body's output, and where in it the element of `value` at `index` goes."""
    if len(body.outputs) != 1:
        raise BackendError(f"the region gives {len(body.outputs)} results, not one")
    place = tuple(index)
    while value is not body.outputs[0]:
        users = list(value.consumers)
        if len(users) != 1 or users[0].input(0) is not value:
            raise BackendError(f"{users[0].op_type if users else 'nothing'} follows Attention, not movement")
        node = users[0]
        if node.op_type == "Transpose":
            order = node.ints_attribute("perm") or tuple(reversed(range(len(place))))
            place = tuple(place[axis] for axis in order)
        elif _keeps_order(node):
            place = _reshaped(place, value.tensor_type.dims, node.output.tensor_type.dims, bounds)
        else:
            raise BackendError(f"{node.op_type} follows Attention, not movement")
        value = node.output
    return value.tensor_type, tuple(simplify(i, bounds) for i in place)


def _keeps_order(node: Node) -> bool:
    """Whether a node only changes the shape: its elements stay where they are in row-major order."""
    operator = find(node)
    return operator is not None and operator.has(Trait.VIEW)


def _reshaped(place: Sequence[Dim], old: Sequence[Dim], new: Sequence[Dim], bounds: Bounds) -> tuple[Dim, ...]:
    position: Dim = 0
    for axis, index in enumerate(place):
        position = position + index * product(old[axis + 1 :])
    result: list[Dim] = []
    for axis in range(len(new)):
        rest = product(new[axis + 1 :])
        index = simplify(position // rest, bounds)
        result.append(index if axis == 0 else simplify(index % new[axis], bounds))
    return tuple(result)


def bias_of(heads: Heads) -> Scalar | None:
    """Everything that is added to the scores, over b, h, s, t."""
    bias = heads.bias
    if heads.causal:
        zero, hidden = const(0.0, dtypes.FLOAT32), const(MASKED, dtypes.FLOAT32)
        frontier = select(compare("le", heads.key.index, heads.query.index), zero, hidden)
        bias = frontier if bias is None else call("add", bias, frontier)
    return bias


def inputs_of(heads: Heads) -> list[int]:
    """Numbers of the body inputs that the kernel reads."""
    computed = [scalar for scalar in (heads.bias, heads.valid) if scalar is not None]
    others = {load.input for scalar in computed for load in loads(scalar)}
    return sorted(others | {heads.q.input, heads.k.input, heads.v.input})
