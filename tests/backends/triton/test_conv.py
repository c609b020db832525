"""Convolutions on GPUs against NumPy, interpreted; and the machine code of every way to cut them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import conv, conv_tiles, conv_windows, depthwise, templates
from graphc.backends.triton.choices import accepts
from graphc.backends.triton.conv_weights import ConvWeights, Order, joined_groups
from graphc.backends.triton.cubin import compilation_of, compile_function
from graphc.backends.triton.disassembly import ASYNCHRONOUS, count, instructions
from graphc.backends.triton.occupancy import Arithmetic
from graphc.errors import BackendError
from graphc.ir import Graph, dtypes
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.triton.convolutions import WEIGHTS, Case

H100, A100 = GPUS["sm_90"], GPUS["sm_80"]


def check(case: Case, template: Any = conv, target: CudaTarget = H100) -> Kernel:
    graph, arrays = case.build()

    def lower(body: Graph, target: CudaTarget) -> Kernel:
        made: Kernel = template.lower(body, target, WEIGHTS, case.options)
        return made

    return check_kernel(graph, arrays, lower, target)


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """Windows, and images that are large enough for them."""
    rank = draw(st.sampled_from([1, 2, 2, 2]))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilation = draw(st.sampled_from([1, 1, 2]))
    extents = tuple(draw(st.integers(dilation * (k - 1) + 1, dilation * (k - 1) + 5)) for k in kernel)
    pads = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank))
    stride = draw(st.sampled_from([1, 1, 2, 3]))
    return {"kernel": kernel, "dilation": dilation, "pads": pads, "stride": stride, "extents": extents}


TILES = [None, [16, 16, 16, 2, 4, 1], [32, 64, 32, 3, 4, 1], [64, 32, 64, 2, 4, 1], [32, 32, 32, 2, 4, 3]]


@settings(max_examples=40, deadline=None)
@given(
    geometry=geometries(),
    batch=st.integers(1, 2),
    channels=st.sampled_from([1, 2, 3, 8, 16, 20, 33]),
    outputs=st.sampled_from([1, 3, 8, 17, 40]),
    group=st.sampled_from([1, 1, 1, 2, 3]),
    dtype=st.sampled_from([dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.FLOAT32]),
    facts=st.tuples(st.booleans(), st.booleans()),
    last=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    tile=st.sampled_from(TILES),
)
def test_convolutions_of_floats(
    geometry: dict[str, Any],
    batch: int,
    channels: int,
    outputs: int,
    group: int,
    dtype: dtypes.DType,
    facts: tuple[bool, bool],
    last: tuple[bool, bool, bool],
    tile: list[int] | None,
) -> None:
    extents = geometry.pop("extents")
    case = Case(
        (batch, channels * group, *extents),
        outputs * group,
        group=group,
        dtype=dtype,
        bias=facts[0],
        residual=facts[1],
        last=last,
        options={} if tile is None else {"conv_tile": tile},
        **geometry,
    )
    if group > 1 and channels == 1:
        check(case, depthwise)
    else:
        check(case)


@settings(max_examples=25, deadline=None)
@given(
    geometry=geometries(),
    channels=st.sampled_from([3, 16, 20, 33]),
    outputs=st.sampled_from([5, 16, 40]),
    group=st.sampled_from([1, 1, 2]),
    types=st.tuples(*[st.sampled_from([dtypes.INT8, dtypes.UINT8])] * 2),
    zero=st.sampled_from([None, 0, 7, 100]),
    zeros=st.booleans(),
    last=st.booleans(),
)
def test_convolutions_of_integers_are_exact(
    geometry: dict[str, Any],
    channels: int,
    outputs: int,
    group: int,
    types: tuple[dtypes.DType, dtypes.DType],
    zero: int | None,
    zeros: bool,
    last: bool,
) -> None:
    extents = geometry.pop("extents")
    group = group if min(channels, outputs) >= 16 else 1
    case = Case(
        (1, channels * group, *extents),
        outputs * group,
        group=group,
        dtype=types[0],
        weights=types[1],
        zero=zero,
        zeros=zeros,
        last=(last, last, last),
        **geometry,
    )
    check(case)


@settings(max_examples=25, deadline=None)
@given(
    geometry=geometries(),
    channels=st.sampled_from([2, 8, 20, 65]),
    multiplier=st.sampled_from([1, 1, 2, 3]),
    dtype=st.sampled_from([dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.FLOAT32, dtypes.INT8, dtypes.UINT8]),
    residual=st.booleans(),
    last=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    zero=st.sampled_from([None, 9]),
)
def test_depthwise_convolutions(
    geometry: dict[str, Any],
    channels: int,
    multiplier: int,
    dtype: dtypes.DType,
    residual: bool,
    last: tuple[bool, bool, bool],
    zero: int | None,
) -> None:
    extents = geometry.pop("extents")
    case = Case(
        (1, channels, *extents),
        channels * multiplier,
        group=channels,
        dtype=dtype,
        residual=residual,
        last=last,
        zero=zero,
        zeros=zero is not None and multiplier == 1,
        **geometry,
    )
    check(case, depthwise)


def test_blocks_of_depthwise_convolutions_worth_measuring_are_taken() -> None:
    case = Case((1, 24, 5, 5), 24, group=24)
    choices = depthwise.alternatives(case.body(), H100, WEIGHTS, {})
    assert all(accepts(choice) for choice in choices) and len(choices) > 3
    for choice in choices[::2]:
        kernel = check(replace(case, options=choice), depthwise)
        assert kernel.schedule["tile"].startswith(f"{choice['depthwise_tile'][0]} pixels")
    assert depthwise.lower(case.body(), H100, WEIGHTS, choices[0]).key == check(case, depthwise).key


def test_windows_of_many_taps_are_walked_in_a_loop() -> None:
    check(Case((1, 8, 9, 9), 8, (7, 7), pads=(3, 3, 3, 3), group=8), depthwise)


def test_few_groups_of_few_channels_are_joined() -> None:
    kernel = check(Case((1, 32, 5, 5), 64, group=8))
    assert kernel.schedule["groups"] == "4 joined"
    assert joined_groups(32, 128, 128, 16) == 4
    assert joined_groups(3, 6, 6, 16) == 3


def test_small_images_with_many_channels_are_cut_along_the_inner_axis() -> None:
    kernel = check(Case((1, 256, 4, 4), 32, residual=True))
    assert "parts of k" in kernel.schedule["tile"]
    assert [operand.kind for operand in kernel.operands].count("workspace") == 1
    assert len(compilation_of(kernel).launches) == 2


def test_what_is_refused_says_why() -> None:
    def refusal(case: Case, template: Any = conv, constants: frozenset[int] = WEIGHTS) -> str:
        graph = case.body()
        with pytest.raises(BackendError) as caught:
            template.lower(graph, H100, constants, case.options)
        return str(caught.value)

    plain = Case((1, 16, 4, 4), 16)
    assert "not a constant" in refusal(plain, constants=frozenset())
    assert "depthwise" in refusal(replace(plain, group=16))
    assert "several channels" in refusal(plain, depthwise)
    assert "float64" in refusal(replace(plain, dtype=dtypes.FLOAT64))
    assert "too few channels" in refusal(Case((1, 16, 4, 4), 16, group=4, dtype=dtypes.INT8))
    for stages in (1, 2, 3):
        assert "no tile" in refusal(replace(plain, options={"conv_tile": [128, 256, 512, stages, 8, 1]}))


def test_packed_weights_have_the_size_that_they_say() -> None:
    for order, dtype in itertools.product(get_args(Order), (dtypes.FLOAT16, dtypes.UINT8)):
        shape = ConvWeights(dtype, 24, 20, 1, (3, 2), 1, order, 16, 32)
        packed = shape.packing().apply(np.ones((24, 20, 3, 2), dtype.numpy))
        assert packed.nbytes == shape.bytes


def test_tiles_worth_measuring_are_taken() -> None:
    for case in (LAYERS["middle"], LAYERS["first"], replace(LAYERS["middle"], dtype=dtypes.INT8)):
        choices = conv.alternatives(case.body(), H100, WEIGHTS, {})
        assert len({str(choice) for choice in choices}) == len(choices) > 4
        assert any(choice["conv_tile"][4] == 8 for choice in choices)
        for choice in choices:
            kernel = conv.lower(case.body(), H100, WEIGHTS, choice)
            assert kernel.schedule["tile"].startswith("x".join(map(str, choice["conv_tile"][:3])))


# Layers of ResNet-50, MobileNetV2, ResNeXt, and the first ones of each, at batch 1 and 32.
LAYERS = {
    "first": Case((1, 3, 224, 224), 64, (7, 7), 2, (3, 3, 3, 3), last=(False, True, True)),
    "wide": Case((32, 64, 56, 56), 64, residual=True),
    "middle": Case((1, 128, 28, 28), 128),
    "deep": Case((1, 512, 7, 7), 512),
    "strided": Case((32, 256, 28, 28), 256, stride=2),
    "groups": Case((1, 128, 56, 56), 128, group=32),
    "odd": Case((1, 20, 33, 31), 50),
}


def machine_code(case: Case, target: CudaTarget, template: Any = conv) -> list[Any]:
    """How often each instruction is in each function; fails where one spills."""
    kernel = template.lower(case.body(), target, WEIGHTS, case.options)
    found = []
    for launch in compilation_of(kernel).launches:
        made = compile_function(launch.function, target)
        assert made.stack == 0, f"{kernel.schedule} spills {made.stack} bytes"
        assert made.shared <= target.shared_bytes
        found.append(instructions(made.cubin))
    return found


def test_a_convolution_runs_on_tensor_cores_from_copies_in_flight() -> None:
    code = machine_code(LAYERS["middle"], H100)[0]
    assert count(code, "HGMMA") and count(code, *ASYNCHRONOUS)


def test_every_gpu_has_tiles_for_every_layer() -> None:
    for target in GPUS.values():
        for case in LAYERS.values():
            for dtype in (dtypes.FLOAT16, dtypes.FLOAT32):
                graph = replace(case, dtype=dtype).body()
                first, second = (conv.lower(graph, target, WEIGHTS, {}) for _ in range(2))
                assert first.key == second.key


def _every_tile(arithmetic: Arithmetic, *, flat: bool) -> Iterator[tuple[Case, CudaTarget]]:
    dtype = {"half": dtypes.FLOAT16, "byte": dtypes.INT8}.get(arithmetic, dtypes.FLOAT32)
    plain = Case((4, 3 if flat else 128, 56, 56), 128, dtype=dtype, residual=True)
    tiles = [tile for tile in conv_tiles.TILES[arithmetic] if not flat or conv_tiles.can_gather(tile, arithmetic)]
    for number, tile in enumerate(tiles[:: 2 if flat else 1]):
        choice = [tile.rows, tile.columns, tile.depth, tile.stages, tile.warps, 1]
        options = {"conv_tile": choice, "precision": "tf32" if arithmetic == "tf32" else "fp32"}
        yield replace(plain, options=options), (H100, A100)[(number + flat) % 2]


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", conv_tiles.TILES)
@pytest.mark.parametrize("flat", [False, True])
def test_no_tile_spills(arithmetic: Arithmetic, flat: bool) -> None:
    def check_one(choice: tuple[Case, CudaTarget]) -> None:
        (code,) = machine_code(*choice)
        assert bool(count(code, "HGMMA", "IGMMA", "HMMA", "IMMA")) == (arithmetic != "single")
        assert flat or count(code, *ASYNCHRONOUS)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(check_one, _every_tile(arithmetic, flat=flat)))


@pytest.mark.slow
def test_no_layer_spills() -> None:
    products = [*LAYERS.values(), replace(LAYERS["middle"], dtype=dtypes.FLOAT32)]
    alone = [Case((32, 96, 112, 112), 96, group=96, stride=2), Case((1, 64, 14, 14), 64, (5, 5), group=64)]
    work = [(case, conv) for case in products] + [(case, depthwise) for case in alone]
    with ThreadPoolExecutor(2) as pool:
        targets = itertools.cycle((H100, A100))
        assert list(pool.map(lambda part, target: machine_code(part[0], target, part[1]), work, targets))


@pytest.mark.parametrize("group", [1, 20])
def test_offsets_beyond_32_bits(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    template = conv if group == 1 else depthwise
    monkeypatch.setattr(conv_windows, "LIMIT", 100)
    case = Case((2, 20, 5, 5), 40, group=group, options={"conv_tile": [32, 32, 32, 2, 4, 3]})
    kernel = check(case, template)
    texts = [launch.function.text for launch in compilation_of(kernel).launches]
    assert all("tl.int64" in text for text in texts)


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_of_single_pixels_are_products(bias: bool) -> None:
    plain = Case((2, 24, 3, 5), 40, (1, 1), pads=(0, 0, 0, 0), bias=bias, residual=True)
    kernel = check(plain, templates)
    assert kernel.template == "matmul"
    assert check(replace(plain, last=(False, True, True)), templates).template == "conv"
    assert check(replace(plain, stride=2), templates).template == "conv"
