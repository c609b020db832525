"""Kernels for images of any number and any size: one kernel at many extents, between guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc.backends.tvm import conv, depthwise, pooling, winograd
from graphc.ir import Dim, Graph, TensorType, blocked, dtypes
from graphc.ir.symbolic import evaluate, symbol
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.conv_cases import ConvCase
from tests.backends.tvm.harness import TARGETS, check_open

N, H, W = map(symbol, ("batch", "height", "width"))
SIZES = [(1, 9, 9), (1, 3, 5), (2, 17, 4), (1, 8, 40), (3, 30, 31), (1, 5, 64)]
IMAGES = [{"batch": n, "height": h, "width": w} for n, h, w in SIZES]
BATCHES = [{"batch": n} for n in (1, 2, 5)]

DIRECT = {
    "3x3": ConvCase((N, 20, H, W), 40, pads=(1, 1, 1, 1), residual=True),
    "1x1": ConvCase((N, 32, H, W), 24, (1, 1), residual=True),
    "strided": ConvCase((N, 16, H, W), 64, (1, 1), 2, bias=False, activation="HardSwish"),
    "first": ConvCase((N, 3, H, W), 32, (7, 7), 2, (3, 3, 3, 3), input_rows=True, output_halo=1),
    "groups": ConvCase((N, 12, H, W), 18, pads=(1, 1, 1, 1), group=3, dilation=1, output_rows=True),
    "rows": ConvCase((N, 16, 6, W), 33, pads=(2, 0, 2, 3), dilation=2),
}
DEPTHWISE = {
    "3x3": ConvCase((N, 20, H, W), 20, pads=(1, 1, 1, 1), group=20, residual=True),
    "5x5": ConvCase((N, 32, H, W), 32, (5, 5), 2, (2, 2, 2, 2), group=32, output_halo=1),
}
WINOGRAD = {
    "tiles": ConvCase((N, 20, H, W), 40, pads=(1, 1, 1, 1), residual=True, options={"winograd_order": "tiles"}),
    "channels": ConvCase((N, 16, H, W), 33, pads=(1, 1, 1, 1), halo=2, options={"winograd_order": "channels"}),
    "columns": ConvCase((1, 16, 10, W), 16, pads=(1, 1, 1, 1), halo=0, options={"winograd_size": 2}),
}
CASES = [
    *((f"direct {name}", conv.lower, case) for name, case in DIRECT.items()),
    *((f"depthwise {name}", depthwise.lower, case) for name, case in DEPTHWISE.items()),
    *((f"winograd {name}", winograd.lower, case) for name, case in WINOGRAD.items()),
]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(("name", "lower", "case"), CASES, ids=[name for name, *_ in CASES])
def test_convolutions_of_any_images(name: str, lower: Any, case: ConvCase, target: Target) -> None:
    kernel = case.check_open(lower, IMAGES, target)
    assert kernel.dims


def pool(operator: str, halo: int, **attributes: Any) -> Callable[..., Graph]:
    """A pool over blocks of channels, and what it may be followed by."""

    def make(lanes: int, shape: tuple[Dim, ...]) -> Graph:
        border = ((0, 0), (0, 0), (halo, halo), (halo, halo))
        kind = TensorType(dtypes.FLOAT32, tuple(shape), blocked(1, lanes, halo=border, fill=0.0))
        graph = body([kind], lambda b, x: b.op("Neg", b.op(operator, x, **attributes)))
        graph.bounds = {name: (1, None) for name in kind.symbols()}
        for node in graph.nodes:
            node.output.type = node.output.tensor_type.with_layout(blocked(1, lanes, fill=0.0))
        return graph

    return make


POOLS = {
    "maximum": pool("MaxPool", 1, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "of pixels inside": pool("AveragePool", 0, kernel_shape=[3, 2], strides=[1, 1], pads=[1, 1, 0, 1]),
    "of all pixels": pool("AveragePool", 0, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "same": pool("MaxPool", 0, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "five": pool("MaxPool", 0, kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_pools_of_any_images(name: str, target: Target) -> None:
    random = np.random.default_rng(0)
    lanes = target.lanes(dtypes.FLOAT32)
    cases: list[tuple[tuple[Dim, ...], list[dict[str, int]]]] = [
        ((N, 20, H, W), IMAGES),
        ((N, 20, 6, W), IMAGES[:3]),
        ((N, 20, 9, 7), BATCHES),
    ]
    for shape, bindings in cases:
        graph = POOLS[name](lanes, shape)
        feeds = [(b, [random.standard_normal([evaluate(d, b) for d in shape]).astype(np.float32)]) for b in bindings]
        check_open(graph, feeds, lambda g, t: pooling.lower(g, t, frozenset(), {}), target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(
    ("lower", "group", "options"),
    [(conv.lower, 1, {}), (depthwise.lower, 24, {}), (winograd.lower, 1, {"winograd_size": 4})],
    ids=["direct", "depthwise", "winograd"],
)
def test_convolutions_of_any_number_of_images(lower: Any, group: int, options: dict[str, Any], target: Target) -> None:
    case = ConvCase((N, 24, 9, 11), 24, pads=(1, 1, 1, 1), group=group, residual=True, options=options)
    kernel = case.check_open(lower, BATCHES, target)
    assert [str(dim) for dim in kernel.dims] == ["batch"]
