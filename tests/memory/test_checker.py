"""The checker finds every kind of wrong plan: it is tried on right plans made wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graphc import memory
from graphc.errors import VerifyError
from tests.memory.strategies import Buffer, problems

BUFFERS = [(0, 2, 64), (1, 3, 32), (2, 4, 64)]
PLAN = memory.Plan(offsets=(0, 64, 0), peak=96, lower_bound=96, order="by hand", optimal=True)


def test_a_right_plan_passes() -> None:
    memory.check(BUFFERS, PLAN, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": (0, 32, 0)}, "buffer 0 (times 0..2, bytes 0..64) and buffer 1 (times 1..3, bytes 32..64) overlap"),
        ({"offsets": (0, 64, 32)}, "buffer 2 (times 2..4, bytes 32..96) and buffer 1 (times 1..3, bytes 64..96)"),
        ({"offsets": (0, 65, 0), "peak": 97}, "buffer 1 (times 1..3, bytes 65..97) is not at a multiple of 32"),
        ({"offsets": (-32, 64, 0)}, "is not at a multiple of 32"),
        ({"offsets": (0, 64)}, "2 offsets for 3 buffers"),
        ({"offsets": (0, 96, 0)}, "buffer 1 (times 1..3, bytes 96..128) ends above the plan's peak 96"),
        ({"peak": 64}, "peak 64 is below its lower bound 96"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(VerifyError) as caught:
        memory.check(BUFFERS, replace(PLAN, **change), 32)  # type: ignore[arg-type]
    assert message in str(caught.value)


@given(st.data(), problems)
def test_it_agrees_with_the_definition_on_random_offsets(data: st.DataObject, problem: list[Buffer]) -> None:
    assume(problem)
    offsets = tuple(data.draw(st.lists(st.integers(0, 400), min_size=len(problem), max_size=len(problem))))
    collision = any(
        max(problem[i][0], problem[j][0]) < min(problem[i][1], problem[j][1])
        and max(offsets[i], offsets[j]) < min(offsets[i] + problem[i][2], offsets[j] + problem[j][2])
        for i in range(len(problem))
        for j in range(i)
    )
    plan = memory.Plan(offsets, peak=1000, lower_bound=0, order="random", optimal=False)
    if collision:
        with pytest.raises(VerifyError, match="overlap"):
            memory.check(problem, plan)
    else:
        memory.check(problem, plan)
