"""Plans are right (nothing overlaps), honest (the bound bounds) and good (optimal where that can be known)."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc import memory
from graphc.errors import OptionError
from tests.memory.strategies import Buffer, alignments, problems, small_problems, smallest_peak, tight_problems

# Live sizes sum to 5 at every time, and still no plan of 5 bytes exists.
UNCLOSABLE = [(2, 3, 1), (2, 5, 1), (1, 4, 2), (0, 3, 1), (3, 4, 2), (0, 1, 4), (1, 2, 2), (4, 5, 4)]


@given(problems, alignments)
def test_a_plan_keeps_live_buffers_apart_and_aligned(problem: list[Buffer], alignment: int) -> None:
    plan = memory.plan(problem, alignment=alignment, node_budget=500)
    memory.check(problem, plan, alignment)
    # The definition itself, pair by pair.
    for i, (start_i, end_i, size_i) in enumerate(problem):
        assert plan.offsets[i] % alignment == 0
        for j, (start_j, end_j, size_j) in enumerate(problem[:i]):
            if max(start_i, start_j) < min(end_i, end_j) and size_i and size_j:
                assert plan.offsets[i] + size_i <= plan.offsets[j] or plan.offsets[j] + size_j <= plan.offsets[i]


@given(problems, alignments)
def test_peak_and_lower_bound_are_what_they_say(problem: list[Buffer], alignment: int) -> None:
    plan = memory.plan(problem, alignment=alignment, node_budget=500)
    rounded = [(start, end, -(-size // alignment) * alignment) for start, end, size in problem]
    live = [sum(size for start, end, size in rounded if start <= t < end) for t in range(30)]
    assert plan.lower_bound == max(live)
    tops = [o + size for o, (start, end, size) in zip(plan.offsets, rounded, strict=True) if start < end]
    assert plan.peak == max(tops, default=0)
    assert plan.gap == plan.peak - plan.lower_bound >= 0


@given(small_problems)
def test_the_search_finds_the_optimum(problem: list[Buffer]) -> None:
    plan = memory.plan(problem)
    assert plan.peak == smallest_peak(problem)
    assert plan.optimal


@settings(max_examples=60)
@given(tight_problems())
def test_the_search_finds_the_optimum_where_room_is_tight(problem: list[Buffer]) -> None:
    plan = memory.plan(problem)
    memory.check(problem, plan)
    assert plan.peak == smallest_peak(problem)
    assert plan.optimal


@settings(max_examples=30)
@given(st.data(), problems)
def test_the_order_of_the_buffers_does_not_matter_to_the_bound_nor_to_an_optimum(
    data: st.DataObject, problem: list[Buffer]
) -> None:
    shuffled = data.draw(st.permutations(problem))
    plan, other = memory.plan(problem, node_budget=2000), memory.plan(shuffled, node_budget=2000)
    assert plan.lower_bound == other.lower_bound
    if plan.optimal and other.optimal:
        assert plan.peak == other.peak


@given(problems, st.integers(-1000, 1000), st.integers(1, 7))
def test_shifting_and_stretching_time_changes_nothing(problem: list[Buffer], shift: int, stretch: int) -> None:
    moved = [(start * stretch + shift, end * stretch + shift, size) for start, end, size in problem]
    assert memory.plan(moved, node_budget=100) == memory.plan(problem, node_budget=100)


def tiled(rng: random.Random, width: int, height: int, cuts: int) -> list[Buffer]:
    """Buffers cut from one rectangle of time by memory: a plan without a gap exists."""
    tiles = [(0, width, 0, height)]
    for _ in range(cuts):
        start, end, low, high = tiles.pop(rng.randrange(len(tiles)))
        if rng.random() < 0.5 and end - start > 1:
            middle = rng.randrange(start + 1, end)
            tiles += [(start, middle, low, high), (middle, end, low, high)]
        elif high - low > 1:
            middle = rng.randrange(low + 1, high)
            tiles += [(start, end, low, middle), (start, end, middle, high)]
        else:
            tiles.append((start, end, low, high))
    rng.shuffle(tiles)
    return [(start, end, high - low) for start, end, low, high in tiles]


def test_the_search_closes_gaps_that_greedy_orders_leave() -> None:
    closed = 0
    for seed in range(12):
        problem = tiled(random.Random(seed), 40, 1000, 25)
        greedy, searched = memory.plan(problem, node_budget=0), memory.plan(problem, node_budget=5000)
        memory.check(problem, searched)
        assert searched.peak <= greedy.peak
        assert searched.lower_bound == 1000
        closed += greedy.gap > 0 and searched.gap == 0
    assert closed >= 3


def test_a_bigger_budget_is_never_worse() -> None:
    problem = tiled(random.Random(25), 60, 1 << 20, 80)
    peaks = [memory.plan(problem, node_budget=nodes).peak for nodes in (0, 100, 1000, 10_000)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < peaks[0]


def test_without_a_clock_two_plans_are_equal() -> None:
    problem = tiled(random.Random(26), 60, 1 << 20, 80)
    plan = memory.plan(problem, node_budget=3000)
    assert plan.gap > 0  # the whole budget was spent
    assert plan == memory.plan(problem, node_budget=3000)


def test_a_chain_takes_its_two_largest_neighbours() -> None:
    sizes = [10, 30, 20, 50, 40, 5]
    plan = memory.plan([(i, i + 2, size) for i, size in enumerate(sizes)])
    assert plan.peak == plan.lower_bound == 90
    assert plan.optimal


def test_buffers_that_meet_in_time_share_memory() -> None:
    plan = memory.plan([(0, 3, 100), (3, 6, 100)])
    assert plan.offsets == (0, 0)
    assert plan.peak == 100


def test_a_gap_that_no_plan_can_close_is_proven() -> None:
    plan = memory.plan(UNCLOSABLE)
    memory.check(UNCLOSABLE, plan)
    assert smallest_peak(UNCLOSABLE) == plan.peak == 6
    assert plan.lower_bound == 5
    assert plan.optimal
    assert not memory.plan(UNCLOSABLE, node_budget=0).optimal


def test_a_capacity_that_is_good_enough_ends_the_work() -> None:
    problem = tiled(random.Random(26), 60, 1 << 20, 80)
    enough = memory.plan(problem, node_budget=0).peak
    plan = memory.plan(problem, capacity=enough)
    assert plan.gap > 0
    assert plan == memory.plan(problem, node_budget=0)


def test_nothing_to_place() -> None:
    assert memory.plan([]) == memory.Plan((), 0, 0, "none", True)
    assert memory.plan([(5, 5, 100), (1, 9, 0)]).offsets == (0, 0)
    assert memory.plan([(5, 5, 100), (1, 9, 0)]).peak == 0


def test_an_empty_interval_takes_no_room_among_others() -> None:
    plan = memory.plan([(0, 4, 64), (2, 2, 1000), (0, 4, 64)])
    assert plan.peak == 128
    assert plan.offsets[1] == 0


def test_sizes_near_and_beyond_int64_do_not_overflow() -> None:
    huge = 2**62
    problem = [(0, 2, huge), (1, 3, huge + 1), (2, 4, huge), (0, 4, 3), (1, 2, 2**70)]
    plan = memory.plan(problem, alignment=64)
    memory.check(problem, plan, 64)
    assert plan.lower_bound == huge + (huge + 64) + 64 + 2**70
    assert plan.peak >= plan.lower_bound


def test_the_search_counts_in_python_ints_too() -> None:
    scale = 2**64
    problem = [(start, end, size * scale) for start, end, size in UNCLOSABLE]
    problem.append((10, 11, 1))  # no common divisor brings the sizes back into 64 bits
    plan = memory.plan(problem)
    memory.check(problem, plan)
    assert (plan.peak, plan.lower_bound, plan.optimal) == (6 * scale, 5 * scale, True)


def test_numpy_triples_are_welcome() -> None:
    assert memory.plan(np.array([[0, 2, 8], [1, 3, 8]])).peak == 16


def test_a_time_limit_of_zero_still_plans() -> None:
    problem = tiled(random.Random(1), 60, 1 << 20, 200)
    plan = memory.plan(problem, time_limit=0)
    memory.check(problem, plan)
    assert plan.order == "size/first-fit"


def test_a_thousand_deep_stack_does_not_meet_the_recursion_limit() -> None:
    rng = random.Random(2)
    problem = [(0, 2, rng.randrange(1, 99)) for _ in range(1500)] + [(1, 4, 70), (3, 5, 80), (4, 6, 90)]
    memory.check(problem, memory.plan(problem, node_budget=2000))


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        ([(0, 1, -1)], {}, "buffer 0 has the negative size -1"),
        ([(0, 1, 1), (3, 2, 1)], {}, "buffer 1 ends at 2, before it starts at 3"),
        ([(0, 1, 1.5)], {}, "size of buffer 0 must be an integer"),
        ([(0, True, 1)], {}, "end of buffer 0 must be an integer"),
        ([("0", 1, 1)], {}, "start of buffer 0 must be an integer"),
        ([(0, 1)], {}, "buffer 0 must be a (start, end, size) triple"),
        ([7], {}, "buffer 0 must be a (start, end, size) triple"),
        (None, {}, "buffers must be a sequence"),
        ([(0, 1, 1)], {"alignment": 0}, "alignment must be positive"),
        ([(0, 1, 1)], {"alignment": -64}, "alignment must be positive"),
        ([(0, 1, 1)], {"alignment": 64.0}, "alignment must be an integer"),
        ([(0, 1, 1)], {"node_budget": -1}, "node_budget must not be negative"),
        ([(0, 1, 1)], {"node_budget": "many"}, "node_budget must be an integer"),
        ([(0, 1, 1)], {"capacity": 1.5}, "capacity must be an integer"),
        ([(0, 1, 1)], {"time_limit": -1.0}, "time_limit must be finite and not negative"),
        ([(0, 1, 1)], {"time_limit": float("nan")}, "time_limit must be finite and not negative"),
        ([(0, 1, 1)], {"time_limit": "soon"}, "time_limit must be a number of seconds"),
    ],
)
def test_bad_input_is_a_typed_error(problem: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        memory.plan(problem, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
