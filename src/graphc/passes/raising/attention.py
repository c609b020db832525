"""Attention from its pieces.

    scores  = (q * a) @ (kᵀ * b) * c          a, b, c scalars, any of them may be missing, or divide
    weights = Softmax(scores + mask)          the mask may be missing, or a Where
    result  = weights @ v                     where weights that are NaN may be set to 0

is Attention(q, k, v, mask) with scale a * b * c, in the form (batch, heads, positions, size).
"""

from __future__ import annotations

import numpy as np

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.ir.symbolic import multiply
from graphc.passes.raising.base import RAISE
from graphc.passes.rules import (
    Chooser,
    Const,
    Filled,
    Match,
    Optional,
    P,
    Pattern,
    Refusal,
    Scalar,
    Var,
    attr,
    refuse,
    shape_of,
)
from graphc.passes.rules.conditions import copy_op, element, scalar

FAR = -1e30
"""A masked score at or below this is the same number with any score added to it."""


def _scaled(value: Pattern, name: str) -> Pattern:
    """`value`, times or over a scalar called `name` + `*` or `/`, or alone."""
    return (value * Const(f"{name}*", Scalar())).only_here() | (value / Const(f"{name}/", Scalar())).only_here() | value


q, v = Var("q", rank=4, kinds=("float",)), Var("v", rank=4)
transposed_key = P.Transpose(Var("source"), perm=attr("perm")).named("key")
product = (_scaled(q, "a") @ _scaled(transposed_key, "b")).only_here()
scores = _scaled(product, "c")
masked = (
    (scores + Var("mask")).only_here()
    | P.Where(Var("visible", kinds=("bool",)), scores, Const("hidden", Scalar())).only_here()
    | scores
)
softmax = P.Softmax(
    masked, axis=attr("axis", default=-1, where=lambda axis: axis in (-1, 3), examples=(-1, 3))
).only_here()
weights = P.Where(P.IsNaN(softmax).only_here(), Const("", Filled(0)), softmax).only_here() | softmax


def _examples(choose: Chooser) -> dict[str, object]:
    batch, heads, queries, keys, size = (choose.integer(1, 3) for _ in range(5))
    perm = choose.pick(((0, 1, 3, 2), (0, 2, 3, 1)))
    key = (batch, heads, keys, size) if perm[1] == 1 else (batch, keys, heads, size)
    mask = choose.pick(((batch, 1, queries, keys), (queries, keys), (1, heads, 1, keys)))
    examples: dict[str, object] = {
        "q": TensorType(dtypes.FLOAT32, (batch, heads, queries, size)),
        "source": TensorType(dtypes.FLOAT32, key),
        "perm": perm,
        "v": TensorType(dtypes.FLOAT32, (batch, heads, keys, choose.integer(1, 3))),
        "mask": TensorType(dtypes.FLOAT32, mask),
        "visible": TensorType(dtypes.BOOL, mask),
        "hidden": np.float32(choose.pick((-np.inf, -3e38))),
    }
    for name in "abc":
        examples[f"{name}*"] = np.float32(choose.pick((0.5, 2)))
        examples[f"{name}/"] = np.float32(choose.pick((0.5, 2)))
    return examples


@RAISE.rule(weights @ v, examples=_examples, tolerance=1e-3)
def attention(m: Match, b: Builder) -> Value | Refusal:
    """Softmax(q @ kᵀ * scale + mask) @ v = Attention(q, k, v, mask)."""
    scale = 1.0
    for name in "abc":
        if m.get(f"{name}*") is not None:
            scale *= element(m.array(f"{name}*"))
        elif m.get(f"{name}/") is not None:
            divisor = element(m.array(f"{name}/"))
            if divisor == 0:
                return refuse("the scores are divided by zero")
            scale /= divisor
    if not np.isfinite(scale) or scale == 0:
        return refuse(f"the scale is {scale}")
    perm = m.attribute("perm")
    if perm is None or len(perm) != 4:
        return refuse("the key is not of the form (batch, heads, positions, size)")
    key = m["source"]
    if perm != (0, 1, 3, 2):
        key = b.op("Transpose", key, perm=(perm[0], perm[1], perm[3], perm[2]))
    shapes = [m.shape("q"), shape_of(key), m.shape("v")]
    if any(shape[:2] != shapes[0][:2] for shape in shapes):
        return refuse(f"q, k and v of shapes {', '.join(str(list(s)) for s in shapes)} differ in batch or heads")
    mask = _mask(m, b, (*shapes[0][:3], shapes[1][2]))
    if isinstance(mask, Refusal):
        return mask
    return b.op("Attention", m["q"], key, m["v"], mask, scale=scale)


def _mask(m: Match, b: Builder, scores_shape: tuple[object, ...]) -> Value | Refusal | None:
    """What is added to the scores, or None."""
    name = next((name for name in ("mask", "visible") if m.get(name) is not None), None)
    if name is None:
        return None
    shape = m.shape(name)
    if not 2 <= len(shape) <= 4 or shape[-1] != scores_shape[-1]:
        return refuse(f"the mask of shape {list(shape)} does not span the keys of {list(scores_shape)}")
    if any(a not in (1, s) for a, s in zip(reversed(shape), reversed(scores_shape), strict=False)):
        return refuse(f"the mask of shape {list(shape)} broadcasts the scores of shape {list(scores_shape)}")
    dtype = m.type("q").dtype
    if name == "mask":
        return m["mask"] if m.type("mask").dtype == dtype else refuse(f"the mask is {m.type('mask').dtype}")
    hidden = element(m.array("hidden"))
    if not hidden <= FAR:
        return refuse(f"hidden scores are set to {hidden}, which is not far below all others")
    return b.op("Where", m["visible"], scalar(b, 0, dtype), scalar(b, hidden, dtype))


def _repeated(name: str) -> Pattern:
    """The value called `name` with each head repeated, as exporters write it: a new axis, expanded and merged."""
    spread = P.one_of("Unsqueeze", "Reshape")(Var(name, rank=4), Var(f"{name} with axis")).named(f"{name} spread")
    expanded = P.Expand(spread.only_here(), Var(f"{name} target")).named(f"{name} expanded")
    return P.Reshape(expanded.only_here(), Var(f"{name} merged")).named(f"{name} repeated").only_here()


def _grouped_examples(choose: Chooser) -> dict[str, object]:
    batch, groups, repeats, keys, size = (choose.integer(1, 3) for _ in range(5))
    examples: dict[str, object] = {"q": TensorType(dtypes.FLOAT32, (batch, groups * repeats, 2, size))}
    for name in "kv":
        examples[name] = TensorType(dtypes.FLOAT32, (batch, groups, keys, size))
        examples[f"{name} with axis"] = [batch, groups, 1, keys, size]
        examples[f"{name} target"] = [batch, groups, repeats, keys, size]
        examples[f"{name} merged"] = [batch, groups * repeats, keys, size]
    return {**examples, "scale": 0.5, "mask": TensorType(dtypes.FLOAT32, (2, keys))}


@RAISE.rule(
    P.Attention(Var("q"), _repeated("k"), _repeated("v"), Optional(Var("mask")), scale=attr("scale")),
    examples=_grouped_examples,
)
def grouped_heads(m: Match, b: Builder) -> Value | Refusal:
    """Attention(q, k repeated, v repeated) = Attention(q, k, v): a head of k and v serves several of q."""
    for name in "kv":
        batch, groups, keys, size = m.shape(name)
        spread, expanded, repeated = (
            shape_of(m.node(f"{name} {step}").output) for step in ("spread", "expanded", "repeated")
        )
        if spread != (batch, groups, 1, keys, size) or len(expanded) != 5 or expanded[:2] != (batch, groups):
            return refuse(f"the heads of {name} are not repeated along an axis of their own behind them")
        if expanded[3:] != (keys, size) or repeated != (batch, multiply(groups, expanded[2]), keys, size):
            return refuse(f"the repeated heads of {name} are not merged with it")
    return copy_op(b, m.root, m["q"], m["k"], m["v"], m.get("mask"))
