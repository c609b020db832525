"""MaxUnpool spelled out: a scatter into zeros."""

from __future__ import annotations

import math

from graphc.ir import Builder, Node
from graphc.ops.contrib import Values, given, needed, numbers
from graphc.ops.decomposition import decomposed, scalar_like
from graphc.ops.pooling import unpooled


def _max_unpool(b: Builder, node: Node, x: Values) -> Values | None:
    values, indices, wanted = needed(x, 0), needed(x, 1), given(x, 2)
    shape = values.tensor_type.dims
    natural = [extent for extent in (*shape[:2], *unpooled(node, shape[2:])) if isinstance(extent, int)]
    if len(natural) != len(shape) or (wanted is not None and wanted.constant is None):
        return None
    zeros = b.op("Expand", scalar_like(b, 0.0, values), numbers(b, math.prod(natural)))
    flat, places = (b.op("Reshape", tensor, numbers(b, -1)) for tensor in (values, indices))
    result = b.op("Reshape", b.op("ScatterElements", zeros, places, flat, axis=0), numbers(b, *natural))
    if wanted is None or wanted.constant is None:
        return [result]
    # What is wanted beyond the windows' reach is zero.
    more = [int(extent) - reach for extent, reach in zip(wanted.constant.array(), natural, strict=True)]
    return [b.op("Pad", result, numbers(b, *[0] * len(natural), *more)) if any(more) else result]


decomposed("MaxUnpool", _max_unpool, define=False)
