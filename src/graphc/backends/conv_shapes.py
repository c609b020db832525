"""The same convolution over other axes: one spatial axis as a row of two, rows of a 1x1 convolution end to end.

Templates cut rows and columns of pixels. These rewrites of a region's body change shapes, never storage, so that
templates see rows as long as they can be, and a signal is an image of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from graphc.backends.contraction import anchor_of
from graphc.backends.conv_problem import FLOAT_CONVOLUTIONS, border_of
from graphc.ir import GRAPHC_DOMAIN, ROW_MAJOR, Dim, Graph, Node, Value, channels_last
from graphc.ir.symbolic import floordiv, multiply
from graphc.ops.base import Trait, find
from graphc.ops.convolution import conv_window


def two_dimensional(body: Graph, operators: frozenset[str] = FLOAT_CONVOLUTIONS) -> Graph:
    """A convolution along one axis as one of images of one row; any other body unchanged."""
    anchor = anchor_of(body, operators)
    x = anchor.inputs[0]
    if x is None or x.tensor_type.rank != 3 or not _is_elementwise_after(body, anchor):
        return body
    if any(value.tensor_type.layout not in _SIGNALS or value.tensor_type.shape is None for value in _values(body)):
        return body
    image = _reshaped(body, lambda dims: (*dims[:-1], 1, dims[-1]) if len(dims) > 1 else dims)
    for value in _values(image):
        value.type = value.tensor_type.with_layout(_SIGNALS[value.tensor_type.layout])
    conv = anchor_of(image, operators)
    for name, before in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0)):
        found = conv.ints_attribute(name)
        if found is not None:
            half = len(found) // 2
            conv.attributes[name] = (before, *found) if before else (0, *found[:half], 0, *found[half:])
    return image


_SIGNALS = {ROW_MAJOR: ROW_MAJOR, channels_last(3): channels_last(4)}
"""How a signal is stored, and as an image of one row."""


def row_joins(body: Graph) -> list[Dim]:
    """How many rows of pixels of a convolution may be taken as one, by `with_joined_rows`; 1 for as they are.

    More than one where the convolution is 1x1 of stride 1 and no tensor of the region has a border, so that rows lie
    end to end in storage. All of them, and nothing else, where the size of images is open.
    """
    anchor = anchor_of(body, FLOAT_CONVOLUTIONS)
    x, weights = (value.tensor_type for value in anchor.inputs[:2] if value is not None)
    window = conv_window(anchor, x.dims, weights.dims)
    if window.kernel != (1, 1) or window.strides != (1, 1) or any(map(any, border_of(window))):
        return [1]
    pixels = x.dims[2:]
    parameters = set(anchor.inputs[1:])
    if any(not _has_no_rows(value, pixels) for value in _values(body) if value not in parameters):
        return [1]
    if any(set(value.consumers) != {anchor} for value in parameters if value is not None):
        return [1]
    if not _is_elementwise_after(body, anchor):
        return [1]
    height, width = pixels
    if isinstance(height, int) and isinstance(width, int):
        return [count for count in range(1, height + 1) if height % count == 0]
    return [height]


def with_joined_rows(body: Graph, count: Dim) -> Graph:
    """The same convolution with `count` (one of `row_joins`) rows of pixels as one: longer rows leave fewer tails."""
    if count == 1:
        return body
    anchor = anchor_of(body, FLOAT_CONVOLUTIONS)
    pixels = anchor.output.tensor_type.dims[2:]
    height, width = pixels
    joined = (floordiv(height, count), multiply(width, count))
    return _reshaped(body, lambda dims: (*dims[:2], *joined) if len(dims) == 4 and dims[2:] == pixels else dims)


def _values(body: Graph) -> Iterable[Value]:
    return (*body.inputs, *(value for node in body.nodes for value in node.outputs))


def _reshaped(body: Graph, change: Callable[[tuple[Dim, ...]], tuple[Dim, ...]]) -> Graph:
    """A copy of the body with the shape of every value changed, its layout kept."""
    copy = body.clone()
    for value in _values(copy):
        kind = value.tensor_type
        value.type = replace(kind, shape=change(kind.dims))
    return copy


def _has_no_rows(value: Value, pixels: tuple[Dim, ...]) -> bool:
    """Whether all pixels of a tensor are one row in storage, or it is the same for all pixels."""
    kind = value.tensor_type
    if kind.layout.halo or kind.layout.order:
        return False
    return kind.dims[-2:] == pixels if kind.rank == 4 and kind.dims[2:] != (1, 1) else set(kind.dims[-2:]) <= {1}


def _is_elementwise_after(body: Graph, anchor: Node) -> bool:
    """Whether all nodes but the anchor compute each element from those at the same place."""
    return all(node is anchor or _is_elementwise(node) for node in body.nodes)


def _is_elementwise(node: Node) -> bool:
    operator = find(node)
    pointwise = operator is not None and operator.has(Trait.POINTWISE)
    return pointwise or node.is_op("Constant") or node.is_op("Relayout", GRAPHC_DOMAIN)
