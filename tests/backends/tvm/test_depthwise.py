"""Depthwise convolutions against NumPy, at every vector width, on sizes with tails and storage with undefined lanes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.tvm import depthwise
from graphc.backends.tvm.conv_weights import depthwise_packing
from graphc.backends.tvm.depthwise import choose_tile, tile_uses
from graphc.errors import BackendError
from graphc.ops.window import StaticWindow
from graphc.target import Target
from tests.backends.tvm import harness
from tests.backends.tvm.conv_cases import ConvCase

SAME = (1, 1, 1, 1)


def case(channels: int, height: int, width: int, batch: int = 1, **options: object) -> ConvCase:
    settings: dict[str, object] = {"pads": SAME, **options}
    return ConvCase((batch, channels, height, width), channels, group=channels, **settings)  # type: ignore[arg-type]


CASES = {
    "3x3": case(32, 9, 9, output_halo=1),
    "channels with a tail, a batch": case(40, 11, 8, 2, residual=True, output_halo=2),
    "stride 2": case(24, 11, 10, stride=2, halo=2),
    "5x5": case(20, 9, 9, kernel=(5, 5), pads=(2, 2, 2, 2), activation="HardSwish"),
    "no halo, though padded": case(16, 9, 7, halo=0),
    "dilated": case(16, 9, 9, dilation=2, pads=(2, 2, 2, 2)),
    "planes in and out": case(18, 6, 7, input_rows=True, output_rows=True),
    "one column": case(5, 6, 1, kernel=(3, 1), pads=(1, 0, 1, 0), bias=False),
    "rows shared among threads": case(16, 40, 64),
}


@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_numpy(case: ConvCase, target: Target) -> None:
    kernel = case.check(depthwise.lower, target)
    assert kernel.flops == 2 * np.prod(case.y) * np.prod(case.kernel)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(2, 36),
    st.tuples(st.integers(4, 12), st.integers(4, 12)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 3),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from([None, 0, 2]),
    st.sampled_from(harness.TARGETS),
)
def test_any_geometry(
    channels: int,
    extents: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    pads: tuple[int, int, int, int],
    halo: int | None,
    target: Target,
) -> None:
    case(channels, *extents, kernel=kernel, stride=stride, pads=pads, halo=halo).check(depthwise.lower, target)


def test_tile_reads_each_input_once_and_uses_every_tap() -> None:
    window = StaticWindow((3, 3), (2, 2), (1, 1), (1, 1), (1, 1), (8, 8))
    uses = tile_uses(window, 2, 3)
    assert len(uses) == 5 * 7
    assert sorted(use for found in uses.values() for use in found) == [(r, t) for r in range(6) for t in range(9)]


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 7)])
def test_tile_leaves_registers_for_what_it_reads(kernel: tuple[int, int]) -> None:
    window = StaticWindow(kernel, (1, 1), (1, 1), (0, 0), (0, 0), (56, 56))
    for target in (*harness.TARGETS, harness.ARM):
        rows, columns = choose_tile(target, window)
        assert rows * columns + 2 <= target.vector_registers


def test_packed_weights_are_vectors_of_channels() -> None:
    weights = np.arange(10 * 4, dtype=np.float32).reshape(10, 1, 2, 2)
    packed = depthwise_packing(8).apply(weights)
    assert packed.shape == (2, 4, 8)
    np.testing.assert_array_equal(packed[1, 3, :2], weights[8:, 0, 1, 1])
    assert not packed[1, :, 2:].any()


def test_aarch64_compiles() -> None:
    graph, _ = CASES["channels with a tail, a batch"].region(harness.ARM)
    assert depthwise.lower(graph, harness.ARM, frozenset({1, 2}), {}).compile()[:4] == b"\x7fELF"


def test_refusals_say_why() -> None:
    graph, _ = ConvCase((1, 16, 5, 5), 32, group=16).region(harness.HOST)
    with pytest.raises(BackendError, match="not depthwise"):
        depthwise.lower(graph, harness.HOST, frozenset({1, 2}), {})
    graph, _ = case(16, 20, 20, kernel=(9, 9)).region(harness.HOST)
    with pytest.raises(BackendError, match="taps"):
        depthwise.lower(graph, harness.HOST, frozenset({1, 2}), {})
