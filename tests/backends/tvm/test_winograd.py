"""Winograd convolutions against NumPy and against direct ones, at every width, on images that tiles do not divide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.conv_problem import convolution_of
from graphc.backends.tvm import winograd
from graphc.backends.tvm.conv_weights import DirectWeights
from graphc.backends.tvm.winograd_plan import choose_plan, padded_vectors
from graphc.backends.tvm.winograd_transforms import F2, F4, Transform, filter_packing
from graphc.errors import BackendError
from graphc.target import Target
from tests.backends.tvm import harness
from tests.backends.tvm.conv_cases import ConvCase

SAME = (1, 1, 1, 1)
RTOL = {2: 1e-5, 4: 5e-5}
CASES = {
    "whole tiles": ConvCase((1, 32, 16, 16), 64, pads=SAME),
    "ragged tiles and channels": ConvCase((2, 24, 9, 11), 40, pads=SAME, residual=True, output_halo=1),
    "one row of tiles, staged": ConvCase((1, 16, 3, 14), 16, pads=SAME, halo=0, output_rows=True),
    "no padding": ConvCase((1, 20, 8, 7), 17, bias=False, activation="HardSwish"),
    "wide padding": ConvCase((1, 8, 4, 4), 9, pads=(2, 2, 2, 2), halo=3),
}


def forced(case: ConvCase, size: int, order: str) -> ConvCase:
    return replace(case, options={"winograd_size": size, "winograd_order": order})


@pytest.mark.parametrize(("size", "order"), [(2, "tiles"), (4, "channels")])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_numpy(case: ConvCase, size: int, order: str) -> None:
    forced(case, size, order).check(winograd.lower, harness.HOST, RTOL[size])


@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
@pytest.mark.parametrize(("size", "order"), [(2, "channels"), (4, "tiles")])
def test_equals_numpy_at_every_width(size: int, order: str, target: Target) -> None:
    case = CASES["ragged tiles and channels"]
    kernel = forced(case, size, order).check(winograd.lower, target, RTOL[size])
    assert kernel.schedule["transform"] == f"F({size}x{size}, 3x3)"


@settings(max_examples=6, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(3, 14), st.integers(3, 14)),
    st.integers(1, 70),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from([2, 4]),
    st.sampled_from(["tiles", "channels"]),
    st.sampled_from(harness.TARGETS),
)
def test_any_geometry(
    x: tuple[int, int, int, int],
    outputs: int,
    pads: tuple[int, int, int, int],
    size: int,
    order: str,
    target: Target,
) -> None:
    forced(ConvCase(x, outputs, pads=pads, activation=""), size, order).check(winograd.lower, target, RTOL[size])


def matrix(transform: Transform, side: str) -> np.ndarray[Any, Any]:
    """The matrix that a one-dimensional transform multiplies by, from what it does to the basis."""
    apply = {"input": numpy_input, "output": numpy_output}[side]
    return np.array([apply(transform, column) for column in np.eye(transform.reach)]).T


def numpy_input(transform: Transform, d: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rows = {
        2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        4: [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
    }[transform.size]
    result: np.ndarray[Any, Any] = np.array(rows, np.float64) @ d
    return result


def numpy_output(transform: Transform, m: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rows = {
        2: [[1, 1, 1, 0], [0, 1, -1, -1]],
        4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    }[transform.size]
    result: np.ndarray[Any, Any] = np.array(rows, np.float64) @ m
    return result


@pytest.mark.parametrize("transform", [F2, F4], ids=["F2", "F4"])
def test_filters_belong_to_the_transforms(transform: Transform) -> None:
    """The identity of Winograd's algorithm, with the matrices of the paper and the packing's filters."""
    random = np.random.default_rng(0)
    d, g = random.standard_normal((transform.reach, transform.reach)), random.standard_normal((1, 1, 3, 3))
    weights = DirectWeights(1, 1, 1, (1, 1), 1, 1, 1)
    packed = filter_packing(transform, weights).apply(g).reshape(transform.reach, transform.reach)
    b, a = matrix(transform, "input"), matrix(transform, "output")
    found = a @ (packed * (b @ d @ b.T)) @ a.T
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3))
    np.testing.assert_allclose(found, np.einsum("ijkl,kl->ij", windows, g[0, 0]), atol=1e-5)


def test_packed_filters_lie_by_group_then_point() -> None:
    weights = DirectWeights(40, 5, 1, (1, 1), 8, 2, 16)
    array = np.random.default_rng(0).standard_normal((40, 5, 3, 3)).astype(np.float32)
    packed = filter_packing(F2, weights).apply(array)
    assert packed.size == 16 * 48 * 5
    group, tail = packed[: 16 * 5 * 32].reshape(16, 5, 32), packed[16 * 5 * 32 :].reshape(16, 5, 16)
    np.testing.assert_allclose(group[0], array[:32, :, 0, 0].T, rtol=1e-6)
    np.testing.assert_allclose(tail[15, :, :8], array[32:, :, 2, 2].T, rtol=1e-6)
    assert not tail[:, :, 8:].any()


def test_choice_follows_the_shape() -> None:
    def plan(channels: int, extent: int) -> Any:
        graph, _ = ConvCase((1, channels, extent, extent), channels, pads=SAME).region(harness.HOST)
        return choose_plan(convolution_of(graph), harness.HOST)

    assert plan(64, 56).transform.size == 4
    assert plan(256, 14).transform.size == 2
    assert plan(512, 7) is None
    assert plan(4, 56) is None


def test_neighbours_in_a_workspace_do_not_share_a_set_of_the_cache() -> None:
    for lanes in (4, 8, 16):
        for vectors in (1, 64, 100, 128):
            padded = padded_vectors(vectors, lanes)
            assert padded >= vectors
            assert padded * lanes * 4 // 64 % 2 == 1


def test_aarch64_compiles() -> None:
    case = forced(CASES["ragged tiles and channels"], 4, "tiles")
    graph, _ = case.region(harness.ARM)
    assert winograd.lower(graph, harness.ARM, frozenset({1, 2}), case.options).compile()[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    ("case", "options", "reason"),
    [
        (CASES["whole tiles"], {"winograd": False}, "turned off"),
        (ConvCase((1, 32, 16, 16), 32, stride=2), {}, "not 3x3 of stride 1"),
        (ConvCase((1, 32, 16, 16), 32, group=2), {}, "not 3x3 of stride 1"),
        (ConvCase((1, 512, 7, 7), 512, pads=SAME), {}, "direct convolution is faster"),
    ],
    ids=["off", "stride", "groups", "slower"],
)
def test_refusals_say_why(case: ConvCase, options: dict[str, Any], reason: str) -> None:
    graph, _ = case.region(harness.HOST)
    with pytest.raises(BackendError, match=reason):
        winograd.lower(graph, harness.HOST, frozenset({1, 2}), options)
