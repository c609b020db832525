"""The harness with engines that only pretend to take time: a clock that they move themselves."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import OptionError
from graphc.testing.compare import Comparison, Spread, compare, format_seconds, geometric_mean


class Machine:
    """Time that passes only when an engine runs or the harness sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.slowdown = 1.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.log.append("gap")

    def engine(self, name: str, seconds: float):
        def call() -> None:
            self.now += seconds * self.slowdown
            self.log.append(name)

        return call


def test_ratio_is_theirs_over_ours() -> None:
    machine = Machine()
    engines = {"fast": machine.engine("fast", 0.01), "slow": machine.engine("slow", 0.03)}
    result = compare(engines, rounds=4, clock=machine.clock, sleep=machine.sleep)
    assert result.speedup("fast", over="slow").median == pytest.approx(3.0)
    assert result.speedup("slow", over="fast").median == pytest.approx(1 / 3)
    assert result.time("fast").median == pytest.approx(0.01)
    assert len(result.seconds["slow"]) == 4


def test_a_slow_spell_of_the_machine_leaves_the_ratio_alone() -> None:
    machine = Machine()
    engines = {"a": machine.engine("a", 0.01), "b": machine.engine("b", 0.02)}

    def worse(done: int, rounds: int) -> None:
        machine.slowdown = 1.0 + done

    result = compare(engines, rounds=6, clock=machine.clock, sleep=machine.sleep, progress=worse)
    ratio = result.speedup("a", over="b")
    assert (ratio.p10, ratio.median, ratio.p90) == pytest.approx((2.0, 2.0, 2.0))
    assert result.time("a").p90 > 3 * result.time("a").p10


def test_turns_rotate_and_each_follows_a_gap_and_an_uncounted_call() -> None:
    machine = Machine()
    engines = {name: machine.engine(name, 1.0) for name in "abc"}
    compare(engines, rounds=2, block_seconds=0.0, clock=machine.clock, sleep=machine.sleep)
    rounds = machine.log[6:]  # two calls each to size the blocks come first
    assert rounds == [word for order in ("abc", "bca", "cab") for name in order for word in ("gap", name, name)]


def test_a_turn_lasts_about_a_block() -> None:
    machine = Machine()
    compare({"a": machine.engine("a", 0.001)}, rounds=1, block_seconds=0.05, clock=machine.clock, sleep=machine.sleep)
    assert machine.log.count("a") == pytest.approx(2 + 2 * (1 + 50), abs=2)


def test_the_thread_is_pinned_and_freed_again_even_after_an_error() -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    calls = iter(range(100))

    def engine() -> None:
        seen.append(os.sched_getaffinity(0))
        if next(calls) == 6:
            raise RuntimeError("engine broke")

    with pytest.raises(RuntimeError, match="engine broke"):
        compare({"a": engine}, rounds=9, block_seconds=0.0, gap_seconds=0.0)
    assert os.sched_getaffinity(0) == before
    assert seen[0] == before  # pools start with the first call and must not inherit the pinned mask
    assert seen[-1] == {min(before)}


def test_table_and_json_agree() -> None:
    result = Comparison({"graphc": (0.001, 0.001), "onnxruntime": (0.002, 0.002)})
    report = result.to_json(of="graphc")
    assert report["speedup"] == {"onnxruntime": {"median": 2.0, "p10": 2.0, "p90": 2.0}}
    assert report["rounds"] == 2
    graphc, peer = result.table(of="graphc").splitlines()[1:]
    assert graphc.split()[:3] == ["graphc", "1", "ms"]
    assert peer.endswith("2.00x as fast (2.00 to 2.00)")


@pytest.mark.parametrize(
    ("engines", "options"), [({}, {}), ({"a": int}, {"rounds": 0}), ({"a": int}, {"gap_seconds": -1.0})]
)
def test_options_out_of_range_are_typed_errors(engines: dict, options: dict) -> None:
    with pytest.raises(OptionError):
        compare(engines, **options)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30))
def test_spread_is_ordered_and_inside_the_sample(values: list[float]) -> None:
    spread = Spread.of(tuple(values))
    slack = 1e-9 * max(values)
    assert min(values) - slack <= spread.p10 <= spread.median + slack
    assert spread.median - slack <= spread.p90 <= max(values) + slack


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.5, "1.5 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 µs"), (0.001, "1 ms")]
)
def test_times_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_geometric_mean_of_a_ratio_and_its_inverse_is_one() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
