"""Long chains of arithmetic in parts: nothing is lost between them, at any length, and functions stay accurate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.tvm import generic
from graphc.backends.tvm.stages import PART_COST, VECTORS, blocks, parts_of
from graphc.ir import Builder, Value, dtypes
from graphc.ops.expr import SCALAR_OPS, Call, Scalar, call, children, const, load
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import TARGETS, check, run

ONE = ("Tanh", "Sigmoid", "Erf", "Exp", "Sqrt", "Abs", "Neg", "Log", "LeakyRelu", "Elu")
TWO = ("Add", "Mul", "Sub", "Max")


@given(
    st.lists(st.one_of(st.sampled_from(ONE), st.tuples(st.sampled_from(TWO), st.integers(0, 30))), max_size=14),
    st.sampled_from([(5, 33), (1, 1000), (3, 128), (2, 7, 176), (40, 19)]),
    st.sampled_from([np.float32, np.float16, np.float64]),
    st.sampled_from(TARGETS),
)
@settings(max_examples=12, deadline=None)
def test_chains_in_parts(
    steps: list[str | tuple[str, int]], shape: tuple[int, ...], dtype: type[np.generic], target: Target
) -> None:
    x = (np.random.default_rng(len(steps)).uniform(-1, 1, shape)).astype(dtype)

    def make(b: Builder, x: Value) -> Value:
        # Bounded between steps: what is compared are parts, not how errors grow.
        values = [x]
        for step in steps:
            if isinstance(step, str):
                value = b.op(step, b.op("Abs", values[-1]) if step in ("Sqrt", "Log") else values[-1])
            else:
                value = b.op(step[0], values[-1], values[step[1] % len(values)])
            limits = (b.constant(np.asarray(bound, dtype)) for bound in (-2, 2))
            values.append(b.op("Clip", value, *limits))
        return b.op("Identity", values[-1])

    check(body([x], make), [x], generic.lower, target, rtol=3e-2 if dtype is np.float16 else 1e-4)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_parts_leave_what_later_ones_read(data: st.DataObject) -> None:
    made: list[Scalar] = [load(0, dtypes.FLOAT32, [0]), const(0.5, dtypes.FLOAT32)]
    for _ in range(data.draw(st.integers(1, 25))):
        left, right = (made[data.draw(st.integers(0, len(made) - 1))] for _ in range(2))
        kind = data.draw(st.sampled_from(["exp", "add", "tanh", "mul"]))
        made.append(call(kind, left) if kind in ("exp", "tanh") else call(kind, left, right))
    elements = (made[-1], made[data.draw(st.integers(0, len(made) - 1))])
    known: set[int] = set()
    for part in [*parts_of(elements), elements]:
        cost, stack, seen = 0, list(part), set[int]()
        while stack:
            scalar = stack.pop()
            if id(scalar) not in known | seen:
                seen.add(id(scalar))
                stack += children(scalar)
                cost += SCALAR_OPS[scalar.op].cost if isinstance(scalar, Call) else 1
        assert cost <= 2 * PART_COST + 30, "a part is one function, and what little comes before and after"
        assert part is elements or known.isdisjoint(map(id, part))
        known |= set(map(id, part))


def test_short_chains_are_one_part() -> None:
    value: Scalar = load(0, dtypes.FLOAT32, [0])
    for _ in range(PART_COST - 2):
        value = call("add", value, value)
    assert parts_of([value]) == []
    assert parts_of([call("exp", value)]) == []
    assert len(parts_of([call("exp", call("exp", value))])) == 1


@given(st.integers(0, 100))
def test_blocks_are_all_vectors_once(count: int) -> None:
    found = [
        start + turn * size + n for start, times, size in blocks(count) for turn in range(times) for n in range(size)
    ]
    assert found == list(range(count))
    assert all(size <= VECTORS for _, _, size in blocks(count))


FUNCTIONS: dict[str, tuple[Callable[[float], float], float]] = {
    # The largest error, in units of the last place.
    "Exp": (math.exp, 1),
    "Log": (math.log, 1),
    "Sigmoid": (lambda x: 1 / (1 + math.exp(-x)), 3),
    "Tanh": (math.tanh, 5),
    "Erf": (math.erf, 6),
}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_within_a_few_units_of_the_last_place(name: str, target: Target) -> None:
    function, most = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-87, 88, 3000), rng.uniform(-1, 1, 3000), 10 ** rng.uniform(-30, 1, 2000)])
    x = np.abs(x).astype(np.float32) if name == "Log" else x.astype(np.float32)
    graph = body([x], lambda b, x: b.op(name, x))
    exact = np.array([function(float(value)) for value in x])
    unit = np.spacing(np.maximum(np.abs(exact.astype(np.float32)), np.finfo(np.float32).tiny)).astype(np.float64)
    (got,) = run(generic.lower(graph, target), graph, [x])
    assert np.max(np.abs(got - exact) / unit) <= most
