"""Long sums: their error is bounded by the length of a part and the number of parts, for any terms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphc.backends.tvm import batch_matmul, choices, gemm
from graphc.backends.tvm.partial_sums import GRAIN, LONG, SHORT_STEPS, STEPS, VERY_LONG, cut
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import HOST, TARGETS, Array, check, check_open, run
from tests.backends.tvm.test_open import S, feeds, over

UNIT = 2.0**-24
"""Rounding of one float32 addition, relative to its result."""


@given(st.integers(1, 300_000))
def test_parts_are_even_and_none_is_long(depth: int) -> None:
    parts = cut(depth, {})
    if depth <= LONG:
        assert parts.whole
        return
    assert parts.size % GRAIN == 0
    assert parts.size <= (SHORT_STEPS if depth > VERY_LONG else STEPS)
    assert parts.size > STEPS // 4, "parts are about as long as they may be"
    assert parts.compensated == (depth > VERY_LONG)


def test_parts_of_an_open_extent_are_those_of_its_largest_value() -> None:
    assert cut(S, {"seq": (1, LONG)}).whole
    assert cut(S, {"seq": (1, VERY_LONG)}).size == STEPS
    assert cut(S, {"seq": (1, None)}).compensated


def _bound(depth: int) -> float:
    """Largest error of a sum, over the sum of its terms' magnitudes.

    A part's terms are added one after the other, each rounding once, and then the parts are. Compensation leaves one
    rounding of the whole, and errors of errors.
    """
    parts = cut(depth, {})
    assert isinstance(parts.size, int)
    count = -(-depth // parts.size)
    return (parts.size + (4 if parts.compensated else count) + 4) * UNIT


@pytest.mark.parametrize("target", TARGETS, ids=str)
@settings(max_examples=4, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data())
def test_the_error_of_a_product_is_bounded(target: Target, data: st.DataObject) -> None:
    depth = data.draw(st.sampled_from([LONG + 1, 3 * STEPS, 4001, VERY_LONG, VERY_LONG + 1, 20_011]), "depth")
    rows, columns = data.draw(st.integers(1, 20), "rows"), data.draw(st.sampled_from([1, 17, 64]), "columns")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    left = rng.uniform(0.5, 1, (rows, 1)).astype(np.float32) * np.ones((1, depth), np.float32)
    left[::2] = rng.standard_normal(left[::2].shape)
    right = np.ones((depth, columns), np.float32)
    right[:, ::2] = rng.standard_normal(right[:, ::2].shape)
    graph = body([left, right], lambda b, x, w: b.op("MatMul", x, w))
    (found,) = run(gemm.lower(graph, target, frozenset({1}), {}), graph, [left, right])
    wide = left.astype(np.float64), right.astype(np.float64)
    assert (np.abs(found - wide[0] @ wide[1]) <= _bound(depth) * (np.abs(wide[0]) @ np.abs(wide[1]))).all()


def test_a_sum_of_150528_equal_terms() -> None:
    depth = 150_528
    numbers = np.concatenate([[0.1, 1 / 3, 0.7], np.random.default_rng(0).uniform(1, 2, 17)]).astype(np.float32)
    arrays: list[Array] = [np.repeat(numbers[:, None], depth, 1), np.ones((depth, 1), np.float32)]
    graph = body(arrays, lambda b, x, w: b.op("MatMul", x, w))
    kernel = gemm.lower(graph, HOST, frozenset({1}), {})
    assert kernel.schedule["sums of"] == "256 terms, compensated"
    (found,) = run(kernel, graph, arrays)
    exact = numbers.astype(np.float64)[:, None] * depth
    assert (np.abs(found - exact) / exact).max() <= 5e-6


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_sums_of_any_length(target: Target) -> None:
    """An open inner axis: shorter than a part, a whole number of them, and with some left over."""
    graph = over([(5, S), (S, 40)], lambda b, x, y: b.op("MatMul", x, y))
    cases = feeds(graph, [(1, n) for n in (1, 255, STEPS, STEPS + 1, 1500, 4000)])
    check_open(graph, cases, lambda g, t: batch_matmul.lower(g, t, frozenset(), {}), target, rtol=2e-6)


def test_parts_can_be_chosen() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((9, 1100), (1100, 50))]
    graph = body(arrays, lambda b, x, w: b.op("Relu", b.op("MatMul", x, w)))
    offered = [c for c in choices.alternatives(graph, HOST, frozenset({1}), {}) if "part" in c]
    assert {choice["part"] for choice in offered} == {SHORT_STEPS, LONG}
    assert all(choices.accepts(choice) for choice in offered)
    assert not choices.accepts({"part": 7})
    kernel = check(graph, arrays, lambda g, t: gemm.lower(g, t, frozenset({1}), offered[0]))
    assert kernel.schedule["sums of"] == "224 terms"
