"""Convolutions of volumes, and with weights that are computed, through the whole compile."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compiler.compiled import check_compiled
from tests.ops.differential import case
from tests.ops.oracles import numbers, seeds


@given(
    st.integers(1, 3), st.data(), st.sampled_from([(1, 3, 5), (1, 16, 20), (2, 4, 3), (4, 1, 1)]), st.booleans(), seeds
)
@settings(max_examples=10, deadline=None)
def test_geometries(rank: int, data: st.DataObject, channels: tuple[int, int, int], constant: bool, seed: int) -> None:
    group, inner, outputs = channels
    kernel, strides, dilations = (data.draw(st.tuples(*[st.integers(1, n)] * rank)) for n in (3, 2, 2))
    extents = data.draw(st.tuples(*[st.integers(5, 8)] * rank))
    attributes: dict[str, Any] = {
        "strides": strides,
        "dilations": dilations,
        "group": group,
        "pads": data.draw(st.tuples(*[st.integers(0, 2)] * (2 * rank))),
    }
    arrays = [
        numbers(seed, (2, group * inner, *extents), "float32"),
        numbers(seed + 1, (group * outputs, inner, *kernel), "float32"),
        *([numbers(seed + 2, (group * outputs,), "float32")] if data.draw(st.booleans()) else []),
    ]
    check_compiled(case("Conv", arrays, constants=[1, 2] if constant else [], **attributes), tolerance=1e-4)


def test_groups_that_together_fill_no_vector() -> None:
    """A volume whose slabs have more rows to share than channels."""
    arrays = [numbers(0, (2, 8, 5, 5, 5), "float32"), numbers(1, (6, 4, 1, 2, 3), "float32")]
    attributes = {"group": 2, "pads": (0, 0, 0, 2, 2, 2)}
    check_compiled(case("Conv", arrays, constants=[1], **attributes), tolerance=1e-4)
