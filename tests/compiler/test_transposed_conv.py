"""Transposed convolutions of every geometry, compiled."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compiler.compiled import check_compiled
from tests.ops.differential import Case, case
from tests.ops.oracles import numbers, seeds


@given(st.data(), st.integers(1, 3), st.integers(1, 2), st.booleans(), st.booleans(), seeds)
@settings(max_examples=12, deadline=None)
def test_geometries(data: st.DataObject, rank: int, group: int, biased: bool, constant: bool, seed: int) -> None:
    each = [st.integers(1, 3)] * rank
    strides, kernel = data.draw(st.tuples(*each)), data.draw(st.tuples(*[st.integers(1, 4)] * rank))
    dilations = data.draw(st.tuples(*[st.integers(1, 2)] * rank))
    inner, outputs = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1, 3, 8, 17]))
    extents = data.draw(st.tuples(*[st.integers(2, 7)] * rank))
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group}
    pads = [data.draw(st.integers(0, d * (k - 1))) for d, k in zip(dilations, kernel, strict=True)]
    match data.draw(st.sampled_from(["pads", "same", "shape"])):
        case "pads":
            attributes["pads"] = [*pads, *(data.draw(st.integers(0, p)) for p in pads)]
            attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in strides]
        case "same":
            attributes["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
        case _:
            attributes["output_shape"] = [n * s for n, s in zip(extents, strides, strict=True)]
    arrays = [
        numbers(seed, (2, inner * group, *extents), "float32"),
        numbers(seed + 1, (inner * group, outputs, *kernel), "float32"),
        *([numbers(seed + 2, (outputs * group,), "float32")] if biased else []),
    ]
    check_compiled(case("ConvTranspose", arrays, constants=[1, 2] if constant else [], **attributes), tolerance=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(4, 2, 1), (3, 2, 1), (2, 2, 0), (8, 4, 2), (3, 1, 1)])
def test_as_models_have_them(kernel: int, stride: int, pad: int) -> None:
    arrays = [numbers(0, (1, 32, 9, 7), "float32"), numbers(1, (32, 24, kernel, kernel), "float32")]
    subject: Case = case(
        "ConvTranspose",
        arrays,
        constants=[1],
        strides=[stride] * 2,
        pads=[pad] * 4,
        output_padding=[int(kernel == 3 and stride == 2)] * 2,
    )
    check_compiled(subject, tolerance=1e-4)
