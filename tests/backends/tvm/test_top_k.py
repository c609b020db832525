"""TopK: networks, selection and counting of digits find the same elements as NumPy, ties and NaN in its order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import top_k
from graphc.ir import dtypes
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, check, run

DTYPES = (
    *("float32", "float64", "float16", "bfloat16"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)


def select(
    array: Any, count: int, target: Target = HOST, axis: int = -1, *, both: bool = True, **attributes: int
) -> Kernel:
    def make(b: Any, x: Any) -> Any:
        first = b.op("TopK", x, b.constant(np.array([count], np.int64)), outputs=2, axis=axis, **attributes)
        return first.producer.outputs if both else [first]

    return check(body([array], make), [array], lambda g, t: top_k.lower(g, t, frozenset(), {}), target)


def numbers(shape: tuple[int, ...], kind: str, seed: int = 0, spread: int = 50) -> Any:
    drawn = np.random.default_rng(seed).integers(-spread, spread, shape)
    return (drawn % 100 if kind.startswith("u") else drawn).astype(dtypes.from_name(kind).numpy)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("kind", DTYPES)
def test_every_type_by_network_selection_and_digits(kind: str, target: Target) -> None:
    assert select(numbers((3, 50), kind), 7, target, largest=0).schedule["selection buffer"] == 64
    assert select(numbers((2, 1500), kind), 5, target).schedule["selection buffer"] in (64, 128)
    assert select(numbers((2, 1500), kind), 1500, target, largest=0).schedule["selection buffer"] == 0


@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    axis=st.integers(-3, 2),
    portion=st.floats(0, 1),
    largest=st.sampled_from((0, 1)),
    kind=st.sampled_from(("float32", "int64", "uint8")),
    target=st.sampled_from(TARGETS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=8)
def test_any_shape(
    shape: tuple[int, ...], axis: int, portion: float, largest: int, kind: str, target: Target, seed: int
) -> None:
    axis = axis % len(shape) if axis >= 0 else -(-axis % len(shape)) - (axis % len(shape) == 0)
    array = numbers(shape, kind, seed, spread=5)
    select(array, int(portion * shape[axis]), target, axis, largest=largest)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("count", [1, 10, 300, 1000])
def test_orders_that_fill_the_buffer_often_or_never(count: int, target: Target) -> None:
    random = np.random.default_rng(0).standard_normal(5003).astype(np.float32)
    rising = np.sort(random)
    select(
        np.stack([random, rising, rising[::-1], np.zeros_like(random), np.full_like(random, -np.inf)]), count, target
    )


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(("kind", "count"), [("float32", 1), ("int64", 40), ("int64", 5000), ("float32", 40_001)])
def test_a_long_axis_is_cut_into_parts(kind: str, count: int, target: Target) -> None:
    assert select(numbers((1, 40_001), kind, spread=10_000), count, target).schedule["parts"] == target.cores


@pytest.mark.parametrize("largest", [0, 1])
def test_numbers_that_are_none_and_zeros_of_both_signs(largest: int) -> None:
    special = [np.nan, -0.0, 0.0, np.inf, -np.inf, -np.nan, 1.0, -1.0, 0.0, -0.0]
    for kind in (np.float32, np.float64, np.float16):
        for repeats in (1, 200):
            array = np.array(special * repeats, kind)
            count = np.array([len(array)])
            graph = body(
                [array],
                lambda b, x, n=count: b.op("TopK", x, b.constant(n), outputs=2, largest=largest).producer.outputs,
            )
            kernel = top_k.lower(graph, HOST, frozenset(), {})
            values, places = run(kernel, graph, [array])
            order = np.argsort(array, kind="stable")
            if largest:
                order = len(array) - 1 - np.argsort(array[::-1], kind="stable")[::-1]
            np.testing.assert_array_equal(places, order)
            np.testing.assert_array_equal(np.signbit(values), np.signbit(array[order]))


def test_an_output_that_nobody_reads_is_not_made() -> None:
    kernel = select(numbers((4, 30), "float32"), 3, both=False)
    assert [operand.kind for operand in kernel.operands] == ["input", "output", "workspace"]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 4)])
def test_nothing_is_selected_from_nothing(shape: tuple[int, ...]) -> None:
    select(np.zeros(shape, np.float32), 0)


def test_arm() -> None:
    graph = body([np.zeros((5, 3000), np.float32)], lambda b, x: b.op("TopK", x, b.constant(np.array([5])), outputs=2))
    assert top_k.lower(graph, ARM, frozenset(), {}).compile()
