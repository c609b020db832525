"""Operators of domain com.microsoft over their attributes and optional inputs, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.contrib_cases import grouped, i8, scale, u8
from tests.ops.differential import case, check
from tests.ops.test_contraction import floats

MS = "com.microsoft"
few = settings(max_examples=25, deadline=None)
flag = st.booleans()


def agrees(op_type: str, inputs: list[Any], outputs: Any = 1, *, shapes: bool = True, **attributes: Any) -> None:
    subject = case(op_type, inputs, outputs, domain=MS, **attributes)
    check(subject, rtol=1e-4, atol=2e-5, expression=False, shapes=shapes)


def rounds_alike(op_type: str, inputs: list[Any], **attributes: Any) -> None:
    """A quantized result may fall on the other side of a half."""
    subject = case(op_type, inputs, 1, domain=MS, **attributes)
    (found,), (wanted,) = subject.evaluate(), subject.onnxruntime()
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


@given(
    batch=st.integers(1, 2),
    new=st.integers(1, 4),
    past=st.integers(0, 5),
    groups=st.integers(1, 3),
    share=st.integers(1, 3),
    packed=flag,
    rotary=flag,
    interleaved=flag,
    bias=flag,
    window=st.sampled_from([-1, 1, 2, 4]),
    factor=st.sampled_from([None, 0.3]),
    smooth=st.sampled_from(["no", "sink", "smooth", "cap"]),
)
@few
def test_grouped_queries(
    batch: int,
    new: int,
    past: int,
    groups: int,
    share: int,
    packed: bool,
    rotary: bool,
    interleaved: bool,
    bias: bool,
    window: int,
    factor: float | None,
    smooth: str,
) -> None:
    # ONNX Runtime takes several positions behind a past of one row only.
    batch = 1 if new > 1 and past else batch
    attributes = {"softcap": 1.5} if smooth == "cap" else {"smooth_softmax": 1} if smooth == "smooth" else {}
    op_type, inputs, outputs, given_attributes = grouped(
        batch=batch,
        new=new,
        past=past,
        heads=groups * share,
        groups=groups,
        size=16,
        packed=packed,
        rotary=rotary,
        bias=bias,
        sink=smooth == "sink",
        local_window_size=window,
        rotary_interleaved=int(interleaved),
        scale=factor,
        **attributes,
    )
    agrees(op_type, inputs, outputs, shapes=False, **given_attributes)


@given(
    batch=st.integers(1, 2),
    queries=st.integers(1, 4),
    past=st.sampled_from([0, 0, 3]),
    heads=st.integers(1, 3),
    biases=flag,
    mask=st.sampled_from(["none", "keys", "queries"]),
    scores=flag,
    causal=flag,
    filtered=st.sampled_from([None, -100.0]),
    scaled=st.sampled_from([None, 0.4]),
)
@few
def test_heads(
    batch: int,
    queries: int,
    past: int,
    heads: int,
    biases: bool,
    mask: str,
    scores: bool,
    causal: bool,
    filtered: float | None,
    scaled: float | None,
) -> None:
    total, width = queries + past, heads * 4
    rng = np.random.default_rng(7)
    masks = {
        "none": None,
        "keys": rng.integers(0, 2, (batch, total)).astype(np.int32),
        "queries": rng.integers(0, 2, (batch, queries, total)).astype(np.int32),
    }
    for hidden in (masks["keys"], masks["queries"]):
        # Where all keys are hidden, all scores are near -10000 and rounded to a thousandth.
        assert hidden is not None
        hidden[..., 0] = 1
    operands = [floats(i, batch, queries, width) for i in range(3)]
    rest = [
        floats(3, 3 * width) if biases else None,
        masks[mask],
        floats(4, batch, heads, queries, total) if scores else None,
        *(floats(5 + i, batch, heads, past, 4) if past else None for i in range(2)),
    ]
    agrees(
        "MultiHeadAttention",
        [*operands, *rest],
        3 if past else 1,
        num_heads=heads,
        unidirectional=int(causal),
        mask_filter_value=filtered,
        scale=scaled,
    )
    packed = [
        floats(8, batch, queries, 5), floats(9, 5, 3 * width), floats(3, 3 * width), masks[mask],
        floats(5, 2, batch, heads, past, 4) if past else None,
        None if past else rest[2],
    ]  # fmt: skip
    agrees("Attention", packed, 2 if past else 1, num_heads=heads, unidirectional=int(causal), scale=scaled)


@given(
    op=st.sampled_from(["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"]),
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=2),
    width=st.integers(2, 9),
    broadcast=st.sampled_from(["no", "batch", "rank"]),
    beta=flag,
    bias=flag,
    total=flag,
    epsilon=st.sampled_from([1e-12, 1e-5, 1e-2]),
)
@few
def test_norms_of_sums(
    op: str, shape: list[int], width: int, broadcast: str, beta: bool, bias: bool, total: bool, epsilon: float
) -> None:
    skips = {"no": [*shape, width], "batch": [1, shape[1], width], "rank": [shape[1], width]}
    data = np.arange(width, dtype=np.float32) + floats(0, *shape, width)
    inputs = [data, floats(1, *skips[broadcast]), floats(2, width)]
    if op == "SkipLayerNormalization":
        inputs.append(floats(3, width) if beta else None)
    inputs.append(floats(4, width) if bias else None)
    subject = case(op, inputs, ["y", "", "", "sum"] if total else 1, domain=MS, epsilon=epsilon)
    check(subject, rtol=1e-3, atol=1e-4, expression=False)


@given(
    bits=st.sampled_from([2, 4, 8]),
    size=st.sampled_from([16, 32]),
    rows=st.integers(1, 5),
    columns=st.integers(1, 70),
    batch=st.integers(1, 3),
    zeros=st.sampled_from(["none", "packed", "floats"]),
    bias=flag,
)
@few
def test_products_with_weights_of_few_bits(
    bits: int, size: int, rows: int, columns: int, batch: int, zeros: str, bias: bool
) -> None:
    blocks = -(-columns // size)
    if bits == 8 and zeros == "floats":
        # ONNX Runtime's CPU kernel has no such thing.
        zeros = "packed"
    points = {"none": None, "packed": u8(3, rows, -(-blocks * bits // 8)), "floats": floats(3, rows, blocks)}
    inputs = [
        floats(0, batch, columns), u8(1, rows, blocks, size * bits // 8), scale(2, rows, blocks), points[zeros],
        None, floats(4, rows) if bias else None,
    ]  # fmt: skip
    subject = case("MatMulNBits", inputs, domain=MS, K=columns, N=rows, bits=bits, block_size=size)
    check(subject, rtol=1e-4, atol=1e-4 * 2**bits, expression=False)


@given(
    bits=st.sampled_from([2, 4, 8]),
    blocks=st.integers(1, 3),
    shape=st.lists(st.integers(1, 3), min_size=0, max_size=2),
    zeros=flag,
)
@few
def test_rows_of_few_bits(bits: int, blocks: int, shape: list[int], zeros: bool) -> None:
    indices = np.random.default_rng(0).integers(-6, 6, shape)
    points = u8(2, 6, -(-blocks * bits // 8)) if zeros else None
    inputs = [u8(0, 6, blocks * 16 * bits // 8), indices, scale(1, 6, blocks), points]
    agrees("GatherBlockQuantized", inputs, bits=bits, block_size=16, gather_axis=0, quantize_axis=1)


@given(
    rank=st.integers(2, 4),
    turned=st.tuples(flag, flag),
    behind=flag,
    alpha=st.sampled_from([1.0, -0.5]),
)
@few
def test_fused_products(rank: int, turned: tuple[bool, bool], behind: bool, alpha: float) -> None:
    batches = [2, 3][: rank - 2]
    behind = behind and rank > 2

    def operand(seed: int, rows: int, columns: int, *, swap: bool) -> Any:
        matrix = (columns, rows) if swap else (rows, columns)
        return floats(seed, *(matrix[0], *batches, matrix[1]) if behind else (*batches, *matrix))

    inputs = [operand(0, 4, 5, swap=turned[0]), operand(1, 5, 2, swap=turned[1])]
    attributes = {f"{kind}{side}": int(on) for side, on in zip("AB", turned, strict=True) for kind in ("trans",)}
    batched = {"transBatchA": int(behind), "transBatchB": int(behind)}
    agrees("FusedMatMul", inputs, alpha=alpha, **attributes, **batched)


@given(
    signed=flag,
    op=st.sampled_from(["QLinearAdd", "QLinearMul", "QLinearWhere"]),
    shapes=st.sampled_from([((2, 3), (3,)), ((2, 1), (1, 3)), ((4,), (4,)), ((), (2, 2))]),
    scales=st.lists(st.sampled_from([0.01, 0.05, 0.3]), min_size=3, max_size=3),
    zeros=st.lists(st.integers(0, 100), min_size=3, max_size=3),
)
@few
def test_pairs_of_quantized_tensors(
    signed: bool, op: str, shapes: tuple[Any, Any], scales: list[float], zeros: list[int]
) -> None:
    make, kind = (i8, np.int8) if signed else (u8, np.uint8)
    s = [np.float32(value) for value in scales]
    z = [np.array(value, kind) for value in zeros]
    inputs = [make(0, *shapes[0]), s[0], z[0], make(1, *shapes[1]), s[1], z[1], s[2], z[2]]
    condition = [np.random.default_rng(1).random(shapes[1]) < 0.5] if op == "QLinearWhere" else []
    rounds_alike(op, [*condition, *inputs])


@given(
    channels_last=flag,
    op=st.sampled_from(["QLinearAveragePool", "QLinearGlobalAveragePool"]),
    pads=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    ceil=flag,
    counted=flag,
    zero=st.integers(0, 255),
)
@few
def test_quantized_pools(channels_last: bool, op: str, pads: list[int], ceil: bool, counted: bool, zero: int) -> None:
    # What a window that hangs over counts is told otherwise by ai.onnx, and by ONNX Runtime's own AveragePool.
    counted = counted and not ceil
    shape = (2, 7, 6, 3) if channels_last else (2, 3, 7, 6)
    inputs = [u8(0, *shape), np.float32(0.05), np.uint8(zero), np.float32(0.04), np.uint8(90)]
    window: dict[str, Any] = {
        "kernel_shape": [3, 2],
        "strides": [2, 2],
        "pads": pads,
        "ceil_mode": int(ceil),
        "count_include_pad": int(counted),
    }
    rounds_alike(op, inputs, channels_last=int(channels_last), **(window if op == "QLinearAveragePool" else {}))
