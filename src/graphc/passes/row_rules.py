"""How operators treat rows: along which axis of the outputs the rows of the inputs come out, if they stay apart.

A rule, which rewrites nothing, gets a node and the axis of rows of each input, None where it is the same for every
batch. It answers with the axis of each output, or with the reason why rows mix. The prover, `batch_axes`, checks every
answer against the types of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from graphc.ir import Dim, TensorType
from graphc.ir.symbolic import multiply
from graphc.ops.base import Operator, Trait
from graphc.passes.row_context import Answer, RowContext

RowRule: TypeAlias = Callable[[RowContext], Answer]
"""How one operator treats rows."""


def _pointwise(ctx: RowContext) -> Answer:
    """Axes count from the end; an input without rows is spread over them."""
    if any(ctx.extents):
        return "it computes with the number of rows"
    places = set()
    for index, found in enumerate(ctx.rows):
        if found is not None:
            places.add((ctx.rank(index) - found[0], found[1]))
    if len(places) != 1:
        return "its inputs have their rows along different axes"
    (from_end, _) = places.pop()
    for index, value in enumerate(ctx.node.inputs):
        if value is None or ctx.rows[index] is not None:
            continue
        shape = ctx.shape(index)
        if len(shape) >= from_end and shape[-from_end] != 1:
            return f"input {index} differs along the rows"
    rank = max(ctx.rank(index) for index, value in enumerate(ctx.node.inputs) if value is not None)
    return ctx.all(rank - from_end)


def _quantize(ctx: RowContext) -> Answer:
    """Scales and zero points have one element, or lie along an axis of their own."""
    axis = ctx.axis(0)
    if axis is None or (reason := ctx.only(0)):
        return reason if axis is not None else "its scale depends on the rows"
    along = ctx.node.int_attribute("axis", 1) % max(ctx.rank(), 1)
    if ctx.rank(1) > 1 or (ctx.rank(1) == 1 and along == axis):
        return "scales differ along the rows"
    return ctx.all(axis)


def _matmul(ctx: RowContext) -> Answer:
    if any(ctx.extents):
        return "it computes with the number of rows"
    a, b = ctx.axis(0), ctx.axis(1)
    if ctx.only(0, 1):
        return ctx.only(0, 1)
    rank_a, rank_b = ctx.rank(0), ctx.rank(1)
    rank = max(rank_a, rank_b, 2) - (rank_a == 1) - (rank_b == 1)
    from_a = None if a is None else rank_a - a
    from_b = None if b is None else rank_b - b
    if from_a == 1 or from_b == 2 or (from_b == 1 and rank_b == 1):
        return "it sums over the rows"
    if from_a == 2:
        return ctx.all(rank - 2 + (rank_b == 1)) if b is None else "it multiplies rows with each other"
    if from_b == 1:
        return ctx.all(rank - 1) if a is None else "it multiplies rows with each other"
    place = from_a or from_b
    if a is not None and b is not None and (from_a != from_b or (ctx.rows[0] != ctx.rows[1] and rank_a == rank_b)):
        return "its inputs have their rows along different axes"
    for index, own in ((0, a), (1, b)):
        shape = ctx.shape(index)
        if own is None and place is not None and len(shape) >= place and shape[-place] != 1:
            return f"input {index} differs along the rows"
    assert place is not None
    return ctx.all(max(rank_a, rank_b) - place - (rank_b == 1))


def _gemm(ctx: RowContext) -> Answer:
    axis = ctx.axis(0)
    if axis is None or ctx.only(0, 2) or axis != (1 if ctx.node.int_attribute("transA", 0) else 0):
        return "it sums over the rows, or its weights have them"
    if ctx.has(2):
        shape, own = ctx.shape(2), ctx.axis(2)
        if own is None and len(shape) == 2 and shape[0] != 1:
            return "its bias differs along the rows"
        if own is not None and (own, len(shape)) != (0, 2):
            return "its bias has the rows along another axis"
    return [0]


def _first(*others: int) -> RowRule:
    """Rows are axis 0 of input 0, and of `others` where they have any; the operator works within each."""

    def rule(ctx: RowContext) -> Answer:
        if any(ctx.extents):
            return "it computes with the number of rows"
        if ctx.axis(0) != 0:
            return "its rows are not along the first axis"
        for index in range(1, len(ctx.rows)):
            if ctx.axis(index) is not None and (index not in others or ctx.axis(index) != 0):
                return f"input {index} depends on the rows"
        return ctx.all(0)

    return rule


def _every_first(ctx: RowContext) -> Answer:
    """Rows are axis 0 of whatever has any."""
    if any(ctx.extents):
        return "it computes with the number of rows"
    if any(found is not None and found[0] != 0 for found in ctx.rows):
        return "its rows are not along the first axis"
    return ctx.all(0)


def _attention(ctx: RowContext) -> Answer:
    """Queries, keys, values and their past by row; a mask by row, or the same for all."""
    for index in range(3):
        if ctx.has(index) and ctx.axis(index) != 0:
            return f"input {index} does not have its rows along the first axis"
    for index, value in enumerate(ctx.node.inputs):
        if value is not None and ctx.axis(index) is None and ctx.rank(index) == 4 and ctx.shape(index)[0] != 1:
            return f"input {index} differs along the rows"
    return _every_first(ctx)


def _first_without_indices(ctx: RowContext) -> Answer:
    if len(ctx.node.outputs) > 1 and (ctx.node.outputs[1].is_used or ctx.node.outputs[1].is_graph_output):
        return "it answers positions in the whole batch"
    return _first()(ctx)


def _batch_norm(ctx: RowContext) -> Answer:
    return "it trains" if ctx.node.int_attribute("training_mode", 0) else _first()(ctx)


def _along(default: int, *, rest: bool = False) -> RowRule:
    """Works along the attribute `axis`; with `rest`, along all from there on."""

    def rule(ctx: RowContext) -> Answer:
        axis = ctx.axis(0)
        if axis is None or ctx.only(0):
            return ctx.only(0) or "its parameters depend on the rows"
        along = ctx.node.int_attribute("axis", default) % ctx.rank()
        if axis == along or (rest and axis > along):
            return "it works along the rows"
        return ctx.all(axis)

    return rule


def _axes_of(ctx: RowContext) -> list[int] | None:
    """Axes that a reduction is over; None where they are not known."""
    given = ctx.node.ints_attribute("axes")
    if given is None and ctx.has(1):
        constant = ctx.constant(1)
        if constant is None:
            return None
        given = tuple(int(axis) for axis in constant.reshape(-1))
    if not given:
        return [] if ctx.node.int_attribute("noop_with_empty_axes", 0) else list(range(ctx.rank()))
    return [axis % ctx.rank() for axis in given]


def _reduce(ctx: RowContext) -> Answer:
    axis = ctx.axis(0)
    if axis is None or ctx.only(0):
        return "its axes depend on the rows"
    over = _axes_of(ctx)
    if over is None or axis in over:
        return "it reduces over the rows"
    kept = ctx.node.int_attribute("keepdims", 1)
    return [axis if kept else axis - sum(other < axis for other in over)]


def _arg_reduce(ctx: RowContext) -> Answer:
    axis, over = ctx.axis(0), ctx.node.int_attribute("axis", 0) % ctx.rank()
    if axis is None or axis == over:
        return "it reduces over the rows"
    return [axis if ctx.node.int_attribute("keepdims", 1) else axis - (over < axis)]


def _mean_variance(ctx: RowContext) -> Answer:
    axis = ctx.axis(0)
    over = [a % ctx.rank() for a in ctx.node.ints_attribute("axes") or (0, 2, 3)]
    return "it normalizes over the rows" if axis in over else ctx.all(axis)


def _transpose(ctx: RowContext) -> Answer:
    axis = ctx.axis(0)
    order = ctx.node.ints_attribute("perm") or tuple(reversed(range(ctx.rank())))
    assert axis is not None
    return [order.index(axis)]


def _view(ctx: RowContext) -> Answer:
    """The axis of rows comes out where as many elements lie before it; its extent is then a multiple of the rows."""
    axis = ctx.axis(0)
    kind = ctx.node.outputs[0].type
    if axis is None or not isinstance(kind, TensorType) or kind.shape is None:
        return "its shape is not known"
    before: Dim = 1
    for dim in ctx.shape(0)[:axis]:
        before = multiply(before, dim)
    own: Dim = 1
    for place, dim in enumerate(kind.shape):
        if own == before and not isinstance(dim, int):
            return ctx.all(place)
        own = multiply(own, dim)
    return "it puts elements of several rows together"


def _concat(ctx: RowContext) -> Answer:
    if any(ctx.extents) or len(set(ctx.rows)) != 1:
        return "its inputs have their rows along different axes"
    axis = ctx.axis(0)
    return "it joins along the rows" if ctx.node.int_attribute("axis", 0) % ctx.rank() == axis else [axis]


def _slice(ctx: RowContext) -> Answer:
    axis, starts = ctx.axis(0), ctx.constant(1)
    if axis is None or ctx.only(0):
        return "where it cuts depends on the rows"
    if ctx.has(3):
        axes = ctx.constant(3)
        over = None if axes is None else [int(a) % ctx.rank() for a in axes.reshape(-1)]
    else:
        over = None if starts is None else list(range(starts.size))
    return "it cuts along the rows" if over is None or axis in over else [axis]


def _pad(ctx: RowContext) -> Answer:
    axis, pads = ctx.axis(0), ctx.constant(1)
    if axis is None or ctx.only(0) or pads is None:
        return "how it pads depends on the rows"
    axes = ctx.constant(3)
    if ctx.has(3) and axes is None:
        return "how it pads is not known"
    over = list(range(ctx.rank())) if axes is None else [int(a) % ctx.rank() for a in axes.reshape(-1)]
    amounts = pads.reshape(2, -1)
    if any(number == axis and amounts[:, place].any() for place, number in enumerate(over)):
        return "it pads along the rows"
    return [axis]


def _tile(ctx: RowContext) -> Answer:
    axis, repeats = ctx.axis(0), ctx.constant(1)
    if axis is None or repeats is None or repeats.reshape(-1)[axis] != 1:
        return "it repeats rows"
    return [axis]


def _expand(ctx: RowContext) -> Answer:
    axis, kind = ctx.axis(0), ctx.node.outputs[0].tensor_type
    if axis is None or kind.shape is None:
        return "its shape depends on the rows"
    place = len(kind.shape) - (ctx.rank() - axis)
    return [place] if kind.shape[place] == ctx.shape(0)[axis] else "it repeats rows"


def _gather(ctx: RowContext) -> Answer:
    if any(ctx.extents):
        return "it computes with the number of rows"
    along = ctx.node.int_attribute("axis", 0) % ctx.rank()
    data, indices = ctx.axis(0), ctx.axis(1)
    if data is None and indices is not None:
        return [along + indices]
    if data is not None and indices is None and data != along:
        return [data if data < along else data - 1 + ctx.rank(1)]
    return "it picks rows"


def _same_axis(ctx: RowContext) -> Answer:
    """All inputs have their rows along one axis, and the operator works along another."""
    along = ctx.node.int_attribute("axis", 0) % ctx.rank()
    if any(ctx.extents) or len({ctx.axis(index) for index in range(len(ctx.rows))}) != 1 or ctx.axis(0) == along:
        return "it picks rows"
    return [ctx.axis(0)]


def _gather_nd(ctx: RowContext) -> Answer:
    batch = ctx.node.int_attribute("batch_dims", 0)
    data, indices = ctx.axis(0), ctx.axis(1)
    if data is None and indices is not None and batch == 0 and indices < ctx.rank(1) - 1:
        return [indices]
    if data is not None and data == indices and data < batch:
        return [data]
    return "it picks rows"


def _top_k(ctx: RowContext) -> Answer:
    axis = ctx.axis(0)
    if axis is None or ctx.only(0) or ctx.node.int_attribute("axis", -1) % ctx.rank() == axis:
        return "it selects among the rows"
    return ctx.all(axis)


def _cumulative(ctx: RowContext) -> Answer:
    axis, along = ctx.axis(0), ctx.constant(1)
    if axis is None or along is None or int(along.item()) % ctx.rank() == axis:
        return "it sums over the rows"
    return [axis]


def _triangle(ctx: RowContext) -> Answer:
    axis = ctx.axis(0)
    if axis is None or ctx.only(0) or axis >= ctx.rank() - 2:
        return "rows differ by where they stand"
    return [axis]


def _one_hot(ctx: RowContext) -> Answer:
    axis = ctx.axis(0)
    if axis is None or ctx.only(0):
        return "its depth depends on the rows"
    along = ctx.node.int_attribute("axis", -1) % (ctx.rank() + 1)
    return [axis if axis < along else axis + 1]


def _recurrent(ctx: RowContext) -> Answer:
    """X is [time, batch, features], states [directions, batch, features], lengths [batch]; Y [time, dir, batch, h]."""
    if ctx.node.int_attribute("layout", 0) or any(ctx.extents):
        return "its layout is not known"
    wanted = {0: 1, 4: 0, 5: 1, 6: 1}
    for index, found in enumerate(ctx.rows):
        if found is not None and found != (wanted.get(index), 1):
            return f"input {index} depends on the rows"
    if ctx.axis(0) is None:
        return "its states have rows, its input has none"
    return [2, 1, 1][: len(ctx.node.outputs)]


def _einsum(ctx: RowContext) -> Answer:
    left, arrow, right = ctx.node.str_attribute("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in left or len(terms) != len(ctx.rows):
        return "its equation is not spelt out"
    labels = {term[found[0]] for term, found in zip(terms, ctx.rows, strict=True) if found is not None}
    (label, *more) = labels
    free = [term for term, found in zip(terms, ctx.rows, strict=True) if found is None]
    if more or any(label in term for term in free) or label not in right or any(t.count(label) > 1 for t in terms):
        return "it combines rows"
    return [right.index(label)]


def _dropout(ctx: RowContext) -> Answer:
    return ctx.only(0) or ctx.all(ctx.axis(0))


_FIRST_AXIS = (
    *("ConvTranspose", "Conv", "ConvInteger", "QLinearConv", "AveragePool", "LpPool", "GlobalAveragePool"),
    *("GlobalMaxPool", "GlobalLpPool", "LRN", "InstanceNormalization", "GroupNormalization", "DepthToSpace"),
    *("SpaceToDepth", "Resize", "Upsample"),
)
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
_CLASSICAL = (
    *("Binarizer", "Imputer", "LinearClassifier", "LinearRegressor", "Normalizer", "SVMClassifier", "SVMRegressor"),
    *("Scaler", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
)

ROW_RULES: dict[tuple[str, str], RowRule] = {
    **{("", name): _first() for name in _FIRST_AXIS},
    **{("", name): _reduce for name in _REDUCTIONS},
    **{("ai.onnx.ml", name): _first() for name in _CLASSICAL},
    **{("", name): _quantize for name in ("QuantizeLinear", "DequantizeLinear")},
    **{("", name): _matmul for name in ("MatMul", "MatMulInteger")},
    **{("", name): _view for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    **{("", name): _arg_reduce for name in ("ArgMax", "ArgMin")},
    **{("", name): _along(-1) for name in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")},
    **{("", name): _along(-1, rest=True) for name in ("LayerNormalization", "RMSNormalization")},
    **{("", name): _same_axis for name in ("GatherElements", "ScatterElements")},
    **{("", name): _recurrent for name in ("LSTM", "GRU", "RNN")},
    **{("", name): _cumulative for name in ("CumSum", "CumProd")},
    ("", "SimplifiedLayerNormalization"): _along(-1, rest=True),
    ("", "Gemm"): _gemm,
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    ("", "DeformConv"): _first(2, 4),
    ("", "GridSample"): _first(1),
    ("", "MaxPool"): _first_without_indices,
    ("", "BatchNormalization"): _batch_norm,
    ("", "MeanVarianceNormalization"): _mean_variance,
    ("", "Transpose"): _transpose,
    ("", "Concat"): _concat,
    ("", "Split"): _along(0),
    ("", "Slice"): _slice,
    ("", "Pad"): _pad,
    ("", "Tile"): _tile,
    ("", "Expand"): _expand,
    ("", "Gather"): _gather,
    ("", "GatherND"): _gather_nd,
    ("", "TopK"): _top_k,
    ("", "Trilu"): _triangle,
    ("", "OneHot"): _one_hot,
    ("", "Dropout"): _dropout,
    ("", "SwiGLU"): lambda ctx: "it is not known to keep rows apart",
    ("com.microsoft", "Gelu"): _pointwise,
    ("com.microsoft", "FastGelu"): _pointwise,
    ("com.microsoft", "BiasGelu"): _pointwise,
    ("com.microsoft", "QuickGelu"): _pointwise,
}
"""Rules by domain and operator."""


def mixing(operator: Operator) -> RowRule | None:
    """The rule of an operator that has none of its own, by its traits."""
    return _pointwise if operator.has(Trait.POINTWISE) else None
