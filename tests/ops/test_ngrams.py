"""n-grams of integers against ONNX Runtime: lengths, distances, weights, what shares a column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.differential import case
from tests.ops.expanded import check_expanded


def vectorizer(x: Any, **attributes: Any) -> None:
    check_expanded(case("TfIdfVectorizer", [x], **attributes))


POOL = [2, 3, 5, 4, 5, 6, 7, 8, 6, 7, 3, 4, 5]
"""Four single tokens, three pairs, one triple."""
COUNTS = [0, 4, 10]


@given(
    x=st.lists(st.lists(st.integers(2, 9), min_size=6, max_size=6), min_size=1, max_size=4),
    shortest=st.integers(1, 3),
    longer=st.integers(0, 2),
    skips=st.integers(0, 4),
    mode=st.sampled_from(["TF", "IDF", "TFIDF"]),
    flat=st.booleans(),
    kind=st.sampled_from([np.int32, np.int64]),
)
@settings(max_examples=40)
def test_any_rows(x: list[list[int]], shortest: int, longer: int, skips: int, mode: str, flat: bool, kind: Any) -> None:
    vectorizer(
        np.array(x[0] if flat else x, kind),
        mode=mode, min_gram_length=shortest, max_gram_length=min(shortest + longer, 3), max_skip_count=skips,
        ngram_counts=COUNTS, ngram_indexes=[3, 0, 1, 2, 6, 5, 4, 7], pool_int64s=POOL,
        weights=[0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0],
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_without_weights_and_with_a_shared_column(mode: str) -> None:
    vectorizer(
        np.array([[5, 6, 7, 8], [2, 5, 6, 3]]),
        mode=mode, min_gram_length=1, max_gram_length=2, max_skip_count=0,
        ngram_counts=[0, 4], ngram_indexes=[0, 0, 1, 3, 1, 2], pool_int64s=[2, 3, 5, 4, 5, 6, 7, 8],
    )  # fmt: skip


def test_distances_that_no_row_has_room_for() -> None:
    vectorizer(
        np.array([[2, 5, 6, 3]]), mode="TF", min_gram_length=1, max_gram_length=2, max_skip_count=1_000_000,
        ngram_counts=[0, 4], ngram_indexes=[0, 1, 2, 3, 4, 5], pool_int64s=[2, 3, 5, 4, 5, 6, 7, 8],
    )  # fmt: skip


def test_rows_too_short_for_any() -> None:
    vectorizer(
        np.array([[5]]), mode="TF", min_gram_length=2, max_gram_length=2, max_skip_count=1,
        ngram_counts=[0, 0], ngram_indexes=[0, 1], pool_int64s=[5, 6, 7, 8],
    )  # fmt: skip
