"""Losses compile without a host step and mean what they mean in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphc
from graphc.errors import ExecutionError
from tests.compiler.compiled import check_compiled
from tests.ops.differential import case
from tests.ops.oracles import numbers, seeds


@given(
    st.sampled_from(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]),
    st.sampled_from(["none", "sum", "mean"]),
    st.lists(st.integers(1, 4), min_size=0, max_size=3),
    st.booleans(),
    st.sampled_from([None, 1, -7, 50]),
    st.sampled_from(["float32", "float16", "float64"]),
    st.sampled_from([np.int32, np.int64]),
    seeds,
)
@settings(max_examples=12, deadline=None)
def test_in_every_form(
    op_type: str,
    reduction: str,
    spatial: list[int],
    weighted: bool,
    ignore: int | None,
    dtype: str,
    label: type[np.generic],
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    scores = numbers(seed, (3, 5, *spatial), dtype)
    labels = random.integers(0, 5, (3, *spatial)).astype(label)
    if ignore is not None:
        labels = np.where(random.random(labels.shape) < 0.3, ignore, labels).astype(label)
        # Something must count, or the mean is 0 / 0.
        labels.reshape(-1)[0] = 2
    weights = [np.abs(numbers(seed, (5,), dtype)) + np.float32(0.5).astype(dtype)] if weighted else []
    outputs = 2 if op_type == "SoftmaxCrossEntropyLoss" else 1
    subject = case(op_type, [scores, labels, *weights], outputs, reduction=reduction, ignore_index=ignore)
    check_compiled(subject)


def test_what_is_ignored_counts_for_nothing_even_where_its_likelihood_is_zero() -> None:
    logs = np.full((2, 3), -np.inf, np.float32)
    logs[0, 1] = -0.5
    labels = np.array([1, 0])
    subject = case("NegativeLogLikelihoodLoss", [logs, labels], ignore_index=0, reduction="mean")
    assert subject.evaluate()[0] == np.float32(0.5)
    check_compiled(subject)


def test_a_label_that_is_no_class_is_an_error() -> None:
    from graphc.frontend.exporter import export_model

    subject = case("NegativeLogLikelihoodLoss", [np.zeros((2, 3), np.float32), np.array([1, 3])], reduction="sum")
    subject.infer()
    graph = subject.node.graph
    assert graph is not None
    graph.outputs = subject.node.outputs
    with (
        graphc.compile(export_model(graph), target="cpu", require_compiled=True) as module,
        pytest.raises(ExecutionError),
    ):
        module(subject.feeds())
