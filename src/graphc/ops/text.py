"""Strings. They are host steps always, evaluated by onnx.reference; only their types are told here."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir import TensorType, Type, dtypes
from graphc.ops.base import InferenceContext, Operator, Trait, broadcast_dims, register


def _infer_match(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(dtypes.BOOL, ctx.tensor(0).shape)]


def _infer_concat(ctx: InferenceContext) -> Sequence[Type]:
    shape = broadcast_dims([ctx.shape(0), ctx.shape(1)])
    if shape is None:
        ctx.fail(f"shapes {list(ctx.shape(0))} and {list(ctx.shape(1))} do not broadcast")
    return [TensorType(dtypes.STRING, shape)]


def _infer_split(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    return [TensorType(dtypes.STRING, (*shape, ctx.fresh("words"))), TensorType(dtypes.INT64, shape)]


def _infer_normalizer(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    if not shape or len(shape) > 2:
        ctx.fail(f"input of shape {list(shape)} must have 1 or 2 axes")
    kept = shape[-1] if not ctx.node.attributes.get("stopwords") else ctx.fresh("kept")
    return [TensorType(dtypes.STRING, (*shape[:-1], kept))]


_SKIP_LIMIT = 2**20
"""Largest max_skip_count: implementations count up to it, however short the rows are."""


_COLUMN_LIMIT = 2**26
"""Most columns that n-grams are counted in."""


def _infer_tf_idf(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    indexes = ctx.node.ints_attribute("ngram_indexes") or ()
    if not indexes or not shape or len(shape) > 2:
        ctx.fail(f"input of shape {list(shape)} with {len(indexes)} ngram_indexes")
    if not 0 <= min(indexes) <= max(indexes) < _COLUMN_LIMIT:
        ctx.fail(
            f"ngram_indexes reach from {min(indexes)} to {max(indexes)}, not from 0 to {_COLUMN_LIMIT - 1} at most"
        )
    skips = ctx.node.int_attribute("max_skip_count", 0)
    if not 0 <= skips <= _SKIP_LIMIT:
        ctx.fail(f"max_skip_count is {skips}, not from 0 to {_SKIP_LIMIT}")
    return [TensorType(dtypes.FLOAT32, (*shape[:-1], max(indexes) + 1))]


DATA_DEPENDENT = frozenset({Trait.DATA_DEPENDENT})
for operator in (
    Operator("RegexFullMatch", _infer_match),
    Operator("StringConcat", _infer_concat),
    Operator("StringSplit", _infer_split, traits=DATA_DEPENDENT),
    Operator("StringNormalizer", _infer_normalizer, traits=DATA_DEPENDENT),
    Operator("TfIdfVectorizer", _infer_tf_idf),
):
    register(operator)
