"""Global pooling from reductions over the picture."""

from __future__ import annotations

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.passes.raising.base import RAISE
from graphc.passes.rules import Chooser, Const, Match, P, Refusal, Var, attr, refuse
from graphc.passes.rules.conditions import normalized_axes, reshape

POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}


def _examples(choose: Chooser) -> dict[str, object]:
    rank = choose.pick((4, 5))
    return {
        "x": TensorType(dtypes.FLOAT32, tuple(choose.integer(1, 3) for _ in range(rank))),
        "axes": list(range(2, rank)) if choose.integer(0, 1) else list(range(-1, 1 - rank, -1)),
        "keepdims": choose.integer(0, 1),
    }


@RAISE.rule(
    P.one_of(*POOLS)(Var("x", kinds=("float",)), Const("axes"), keepdims=attr("keepdims", default=1)),
    examples=_examples,
)
def global_pool(m: Match, b: Builder) -> Value | Refusal:
    """ReduceMean(x) over all axes behind the channels = GlobalAveragePool(x); ReduceMax alike."""
    shape = m.shape("x")
    reduced = normalized_axes(m.integers("axes"), len(shape))
    if len(shape) < 4 or reduced != tuple(range(2, len(shape))):
        return refuse(f"axes {list(reduced)} of {len(shape)} are not those of a picture")
    pooled = b.op(POOLS[m.root.op_type], m["x"])
    return pooled if m.attribute("keepdims") else reshape(b, pooled, (*shape[:2], 1, 1), shape[:2])
