"""Direct convolutions against NumPy, at every vector width, on sizes with tails and storage with undefined lanes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import conv, depthwise
from graphc.backends.tvm.conv_tiles import Sweep, choose_schedule, fitting
from graphc.backends.tvm.conv_weights import DirectWeights
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, Value
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm import harness
from tests.backends.tvm.conv_cases import ConvCase

SAME = (1, 1, 1, 1)
CASES = {
    "3x3": ConvCase((1, 32, 14, 14), 64, pads=SAME),
    "channels with a tail": ConvCase((1, 24, 9, 11), 40, pads=SAME, residual=True, output_halo=1),
    "stride 2 in a wider halo": ConvCase((2, 24, 9, 11), 40, stride=2, pads=SAME, halo=2, output_halo=1),
    "no halo, though padded": ConvCase((1, 24, 9, 11), 40, pads=SAME, halo=0),
    "dilated": ConvCase((1, 40, 7, 7), 24, pads=(2, 2, 2, 2), dilation=2),
    "one-sided padding": ConvCase((1, 16, 8, 8), 16, (2, 3), pads=(1, 0, 0, 2)),
    "1x1": ConvCase((1, 64, 30, 31), 72, (1, 1), residual=True),
    "1x1 between halos": ConvCase((2, 20, 5, 7), 13, (1, 1), halo=1, output_halo=2),
    "1x1 of stride 2": ConvCase((1, 32, 9, 9), 48, (1, 1), stride=2),
    "a row of taps": ConvCase((1, 20, 5, 5), 13, (1, 3), bias=False),
    "an image of three planes": ConvCase((1, 3, 23, 23), 32, (7, 7), stride=2, pads=(3, 3, 3, 3), input_rows=True),
    "planes in and out": ConvCase((2, 3, 12, 13), 20, input_rows=True, output_rows=True, activation="HardSwish"),
    "many planes": ConvCase((1, 37, 6, 6), 16, (1, 1), input_rows=True),
    "aligned groups": ConvCase((2, 64, 7, 7), 64, pads=SAME, group=2),
    "groups within a vector": ConvCase((2, 24, 7, 7), 24, pads=SAME, group=3),
    "small groups, halo written": ConvCase((1, 32, 5, 5), 16, (1, 1), group=4, output_halo=2),
    "groups that straddle vectors": ConvCase((1, 68, 6, 6), 60, (1, 1), group=4),
    "undefined lanes past the groups": ConvCase((1, 36, 5, 5), 24, pads=SAME, group=3, halo=0),
    "groups of planes": ConvCase((1, 6, 5, 5), 32, group=2, input_rows=True),
    "one pixel": ConvCase((1, 33, 3, 3), 17, activation="Sigmoid"),
}


@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_numpy(case: ConvCase, target: Target) -> None:
    case.check(conv.lower, target)


extents = st.integers(1, 9)


@st.composite
def cases(draw: st.DrawFn) -> ConvCase:
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = draw(st.integers(1, 2))
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    spatial = [
        max(draw(extents), dilation * (taps - 1) + 1 - begin - end)
        for taps, begin, end in zip(kernel, pads[:2], pads[2:], strict=True)
    ]
    group = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inner = draw(st.integers(1, 20))
    # One channel in and one out of every group is depthwise, which another template takes.
    outer = draw(st.integers(2 if inner == 1 and group > 1 else 1, 40))
    return ConvCase(
        (draw(st.integers(1, 2)), group * inner, spatial[0], spatial[1]),
        group * outer,
        kernel,
        draw(st.integers(1, 3)),
        (pads[0], pads[1], pads[2], pads[3]),
        dilation,
        group,
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        activation=draw(st.sampled_from(["", "Relu", "HardSwish"])),
        halo=draw(st.sampled_from([None, 0, 3])),
        output_halo=draw(st.integers(0, 2)),
        input_rows=draw(st.booleans()),
        output_rows=draw(st.booleans()),
    )


@settings(max_examples=12, deadline=None)
@given(cases(), st.sampled_from(harness.TARGETS))
def test_any_geometry(case: ConvCase, target: Target) -> None:
    case.check(conv.lower, target)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from(harness.TARGETS))
def test_any_geometry_at_length(case: ConvCase, target: Target) -> None:
    case.check(conv.lower, target)


@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
@pytest.mark.parametrize(
    ("lower", "group", "attributes"),
    [
        (conv.lower, 1, {"kernel_shape": [3], "pads": [1, 1]}),
        (conv.lower, 2, {"kernel_shape": [4], "strides": [2], "pads": [0, 3], "dilations": [2]}),
        (depthwise.lower, 20, {"kernel_shape": [5], "pads": [4, 0]}),
        (conv.lower, 1, {"auto_pad": "SAME_UPPER", "strides": [2]}),
    ],
    ids=["3 taps", "groups", "depthwise", "auto_pad"],
)
def test_one_axis(lower: Any, group: int, attributes: dict[str, Any], target: Target) -> None:
    random = np.random.default_rng(0)
    taps = attributes.get("kernel_shape", [3])[0]
    shapes = [(2, 20, 17), (20, 20 // group, taps), (20,), (20, 1)]
    arrays = [random.integers(-4, 5, shape).astype(np.float32) for shape in shapes]

    def make(b: Builder, x: Value, w: Value, bias: Value, scale: Value) -> Value:
        return b.op("Relu", b.op("Mul", b.op("Conv", x, w, bias, group=group, **attributes), scale))

    def chosen(body: Graph, on: Target) -> Kernel:
        kernel: Kernel = lower(body, on, frozenset({1, 2}), {})
        return kernel

    harness.check(body(arrays, make), arrays, chosen, target)


@pytest.mark.parametrize("tile", [(1, 3, 1), (2, 4, 2), (3, 5, 1), (1, 9, 3)])
def test_any_tile(tile: tuple[int, int, int]) -> None:
    case = ConvCase((1, 20, 11, 10), 70, pads=SAME, residual=True, options={"conv_tile": tile})
    case.check(conv.lower, harness.HOST)


def test_tiles_fit_the_registers_of_every_width() -> None:
    plane = Sweep(56, 56, 8, 1, 576, 1 << 17, 1 << 19)
    for target in (*harness.TARGETS, harness.ARM):
        for tile in fitting(target, plane):
            assert tile.rows * tile.columns * tile.vectors + tile.vectors + 1 <= target.vector_registers


def test_threads_share_rows_where_weights_are_small_and_channels_where_they_are_not() -> None:
    early = Sweep(112, 112, 4, 1, 27, 27 * 64 * 4, 3 * 224 * 224 * 4)
    late = Sweep(7, 7, 32, 1, 4608, 4608 * 512 * 4, 512 * 49 * 4)
    assert choose_schedule(harness.HOST, early).order == "rows"
    assert choose_schedule(harness.HOST, late).order == "channels"


def test_packed_weights_of_groups_keep_every_product() -> None:
    weights = np.arange(24 * 2 * 3, dtype=np.float32).reshape(24, 2, 1, 3) + 1
    plan = DirectWeights(24, 12, 6, (1, 3), depth=4, vectors=1, lanes=8)
    packed = plan.pack(weights)
    assert packed.size == plan.elements
    # Every part of 8 outputs is two groups of 4, whose 4 inputs are one block: zeros where they do not meet.
    assert plan.block_counts == [1, 1, 1]
    assert plan.waste == 2
    parts = packed.reshape(3, 3, 4, 8)
    assert np.count_nonzero(parts) == weights.size
    np.testing.assert_array_equal(parts[1, 2, :2, :4], weights[8:12, :, 0, 2].T)
    np.testing.assert_array_equal(parts[1, 2, 2:, 4:], weights[12:16, :, 0, 2].T)


def test_parts_of_grouped_weights_read_the_blocks_that_their_groups_lie_in() -> None:
    # Groups of 10 inputs and 6 outputs: outputs 0-7 see inputs 0-19, 8-15 see 10-29, 16-17 see 20-29.
    plan = DirectWeights(18, 30, 3, (1, 1), depth=4, vectors=1, lanes=8)
    assert [(plan.first_block(part), plan.block_count(part)) for part in range(3)] == [(0, 5), (2, 6), (5, 3)]


def test_aarch64_compiles() -> None:
    graph, _ = CASES["channels with a tail"].region(harness.ARM)
    kernel = conv.lower(graph, harness.ARM, frozenset({1, 2}), {})
    assert kernel.compile()[:4] == b"\x7fELF"


def test_equal_regions_share_a_kernel_and_different_ones_do_not() -> None:
    case = CASES["3x3"]
    keys = {
        conv.lower(variant.region(harness.HOST)[0], harness.HOST, frozenset({1, 2}), variant.options).key
        for variant in (case, case, replace(case, stride=2), replace(case, options={"conv_tile": (1, 4, 2)}))
    }
    assert len(keys) == 3


def test_cost_is_the_convolutions_own() -> None:
    graph, _ = CASES["groups within a vector"].region(harness.HOST)
    kernel = conv.lower(graph, harness.HOST, frozenset({1, 2}), {})
    assert kernel.flops == 2 * 2 * 24 * 49 * 8 * 9


def test_refusals_say_why() -> None:
    graph, _ = CASES["3x3"].region(harness.HOST)
    with pytest.raises(BackendError, match="not a constant"):
        conv.lower(graph, harness.HOST, frozenset(), {})
    shapes = [(1, 8, 5, 5, 5), (8, 8, 3, 3, 3)]
    volume = body([np.ones(s, np.float32) for s in shapes], lambda b, x, w: b.op("Conv", x, w))
    with pytest.raises(BackendError, match="not 2-D"):
        conv.lower(volume, harness.HOST, frozenset({1}), {})
    graph, _ = ConvCase((1, 64, 5, 5), 64, group=64).region(harness.HOST)
    with pytest.raises(BackendError, match="depthwise"):
        conv.lower(graph, harness.HOST, frozenset({1, 2}), {})
