"""Fused attention: against the operator's NumPy meaning, with every mask, through the movement around it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import attention
from graphc.backends.triton.attention_tiles import choose, cut, fitted, tiles_of
from graphc.backends.triton.disassembly import ASYNCHRONOUS, TENSOR_CORE, count
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import Array, body
from tests.backends.triton.harness import machine_code

DTYPES: list[tuple[Any, float]] = [(np.float32, 1e-5), (np.float16, 2e-3), (ml_dtypes.bfloat16, 2e-2)]
"""Element types, and how far weights of 11 or 8 bits put a result off."""


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return attention.lower(graph, target, frozenset(), {})


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def region(arrays: list[Array], **attributes: Any) -> Graph:
    return body(arrays, lambda b, *values: b.op("Attention", *values, **attributes), opset=24)


@settings(max_examples=14)
@given(st.data())
def test_attention_of_any_size_with_any_mask(data: st.DataObject) -> None:
    def extent(name: str, high: int) -> int:
        return data.draw(st.integers(1, high), name)

    batch, groups, ratio = extent("batch", 2), extent("groups", 2), extent("ratio", 3)
    queries, keys, size, elements = (extent(n, 80) for n in ("queries", "keys", "size", "elements"))
    heads = groups * ratio
    attributes: dict[str, Any] = {}
    for name, value in (("is_causal", 1), ("scale", 0.3), ("softcap", 2.0)):
        if data.draw(st.booleans(), name):
            attributes[name] = value
    shapes = [
        None,
        (queries, keys),
        (batch, 1, 1, keys),
        (1, heads, queries, keys),
        (queries, 1),
        (1, max(1, keys - 3)),
    ]
    shape = data.draw(st.sampled_from(shapes), "mask")
    dtype, rtol = data.draw(st.sampled_from(DTYPES), "dtype")
    arrays = [
        normal(batch, heads, queries, size),
        normal(batch, groups, keys, size),
        normal(batch, groups, keys, elements),
    ]
    if shape is not None:
        mask = normal(*shape)
        arrays.append(mask > 0 if data.draw(st.booleans(), "boolean mask") else mask)
    arrays = [a if a.dtype == np.bool_ else a.astype(dtype) for a in arrays]
    check_kernel(region(arrays, **attributes), arrays, lower, tolerance=rtol)


@settings(max_examples=10)
@given(st.data())
def test_windows_and_numbers_of_valid_keys(data: st.DataObject) -> None:
    queries, keys = data.draw(st.integers(1, 70), "queries"), data.draw(st.integers(1, 90), "keys")
    attributes = {name: data.draw(st.integers(-1, 40), name) for name in ("left_window_size", "right_window_size")} | {
        "is_causal": data.draw(st.integers(0, 1), "is_causal")
    }
    arrays = [normal(2, 2, queries, 16), normal(2, 1, keys, 16), normal(2, 1, keys, 16)]

    def make(b: Builder, *values: Value) -> Value:
        return b.op("Attention", *values[:3], None, None, None, *values[3:], **attributes)

    if data.draw(st.booleans(), "valid"):
        arrays.append(np.array([data.draw(st.integers(0, keys), f"valid{i}") for i in range(2)]))
    check_kernel(body(arrays, make, opset=24), arrays, lower)


@pytest.mark.parametrize(("dtype", "rtol"), DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_long_caches_are_cut_into_parts_and_heads_share_a_tile(dtype: Any, rtol: float, masked: bool) -> None:
    arrays = [a.astype(dtype) for a in (normal(1, 4, 2, 24), normal(1, 2, 650, 24), normal(1, 2, 650, 40))]
    if masked:
        # No key of the first query is seen, and none of the second's in the first part.
        arrays.append(np.arange(650)[None] >= np.array([650, 500])[:, None])
    kernel = check_kernel(region(arrays), arrays, lower, tolerance=rtol)
    assert kernel.schedule["keys"] in ("in 4 parts", "in 5 parts")
    assert kernel.schedule["heads"] == "2 in a tile"


def test_rows_without_any_key_are_zeros_and_whole_masks_of_the_lowest_number_are_not() -> None:
    arrays = [normal(1, 1, 3, 16), normal(1, 1, 5, 16), normal(1, 1, 5, 16)]
    lowest = np.float32(np.finfo(np.float32).min)
    mask = np.array([[0] * 5, [-np.inf] * 5, [lowest] * 5], np.float32)
    check_kernel(region([*arrays, mask]), [*arrays, mask], lower)


def test_a_long_causal_walk_looks_only_where_it_must() -> None:
    arrays = [a.astype(np.float16) for a in (normal(1, 2, 300, 16), normal(1, 2, 300, 16), normal(1, 2, 300, 16))]
    check_kernel(region(arrays, is_causal=1), arrays, lower, tolerance=2e-3)


def test_equal_regions_are_one_kernel_whatever_was_lowered_before() -> None:
    arrays = [normal(2, 4, 9, 8), normal(2, 2, 11, 8), normal(2, 2, 11, 8), normal(2, 1, 9, 11)]
    kernels = [lower(region(arrays, is_causal=1), GPUS["sm_90"]) for _ in range(2)]
    assert kernels[0].key == kernels[1].key


def test_operands_of_three_axes() -> None:
    arrays = [normal(2, 9, 4 * 8), normal(2, 11, 2 * 8), normal(2, 11, 2 * 6)]
    check_kernel(region(arrays, q_num_heads=4, kv_num_heads=2), arrays, lower)


def split_heads(b: Builder, x: Value, heads: int) -> Value:
    batch, positions, width = (int(d) for d in x.tensor_type.dims)
    shape = b.constant(np.array([batch, positions, heads, width // heads]))
    return b.op("Transpose", b.op("Reshape", x, shape), perm=[0, 2, 1, 3])


def test_transpositions_around_it_are_no_work() -> None:
    arrays = [normal(2, 10, 36, seed=s) for s in range(3)]

    def make(b: Builder, *values: Value) -> Value:
        result = b.op("Attention", *(split_heads(b, x, 3) for x in values))
        return b.op("Reshape", b.op("Transpose", result, perm=[0, 2, 1, 3]), b.constant(np.array([2, 10, 36])))

    kernel = check_kernel(body(arrays, make, opset=24), arrays, lower)
    assert [operand.kind for operand in kernel.operands].count("input") == 3


def test_one_tensor_holds_query_key_and_value() -> None:
    arrays = [normal(1, 10, 3 * 24)]

    def make(b: Builder, x: Value) -> Value:
        first = b.op("Split", x, outputs=3, axis=2, num_outputs=3)
        assert first.producer is not None
        heads = []
        for part in first.producer.outputs:
            shaped = b.op("Reshape", part, b.constant(np.array([1, 10, 3, 8])))
            heads.append(b.op("Transpose", shaped, perm=[0, 2, 1, 3]))
        return b.op("Attention", *heads)

    kernel = check_kernel(body(arrays, make, opset=24), arrays, lower)
    assert [operand.kind for operand in kernel.operands].count("input") == 1


def test_keys_that_come_transposed_are_read_in_place() -> None:
    arrays = [normal(1, 2, 9, 8), normal(1, 2, 8, 21), normal(1, 2, 21, 8)]

    def make(b: Builder, q: Value, k: Value, v: Value) -> Value:
        return b.op("Attention", q, b.op("Transpose", k, perm=[0, 1, 3, 2]), v)

    check_kernel(body(arrays, make, opset=24), arrays, lower)


@pytest.mark.parametrize("keys", [(4, 4), (2, 5)])
def test_windows_of_an_image_are_read_where_they_lie(keys: tuple[int, int]) -> None:
    high, wide = keys
    arrays = [normal(2 * high, 3 * wide, 16, seed=s) for s in range(3)]

    def windows(b: Builder, x: Value) -> Value:
        cut = b.op("Reshape", x, b.constant(np.array([2, high, 3, wide, 16])))
        turned = b.op("Transpose", cut, perm=[0, 2, 1, 3, 4])
        return b.op("Reshape", turned, b.constant(np.array([6, 1, high * wide, 16])))

    check_kernel(body(arrays, lambda b, *v: b.op("Attention", *(windows(b, x) for x in v)), opset=24), arrays, lower)


def test_what_no_tile_takes_is_refused() -> None:
    arrays = [normal(1, 1, 4, 600), normal(1, 1, 5, 600), normal(1, 1, 5, 600)]
    with pytest.raises(BackendError, match="600 elements"):
        lower(region(arrays), GPUS["sm_90"])


@pytest.mark.parametrize(
    ("size", "widths"),
    [(1, (16,)), (64, (64,)), (72, (64, 16)), (80, (64, 16)), (96, (64, 32)), (112, (128,)), (160, (128, 32))],
)
def test_heads_are_cut_into_powers_of_two(size: int, widths: tuple[int, ...]) -> None:
    assert cut(size) == widths


@pytest.mark.parametrize("size", [64, 128, 256, 512])
@pytest.mark.parametrize("masked", [0, 1, 4])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_90"])
def test_tiles_fit_the_shared_memory(architecture: str, masked: int, size: int) -> None:
    for itemsize, rounded in ((2, False), (4, False), (4, True)):
        for tile in tiles_of(itemsize, size, rounded=rounded):
            found = fitted(tile, GPUS[architecture], itemsize, size, masked)
            needed = 0 if found is None else found.stages * 2 * found.width * size * itemsize
            assert needed < GPUS[architecture].shared_bytes
        problem = {"pairs": 8, "ratio": 1, "queries": 512, "keys": 512}
        if size <= 256:
            assert choose(GPUS[architecture], itemsize, size, rounded=rounded, masked=masked, **problem) is not None


def examine(target: str, dtype: Any, shape: tuple[int, int, int, int, int, int], **attributes: Any) -> None:
    batch, heads, groups, queries, keys, size = shape
    kind = dtypes.from_numpy(np.dtype(dtype))
    types = [(batch, heads, queries, size), (batch, groups, keys, size), (batch, groups, keys, size)]
    options = {"precision": "tf32" if attributes.pop("tf32", False) else "fp32"}
    graph = body([TensorType(kind, t) for t in types], lambda b, *v: b.op("Attention", *v, **attributes), opset=24)
    walk, *_ = machine_code(attention.lower(graph, GPUS[target], frozenset(), options), GPUS[target])
    assert count(walk, *ASYNCHRONOUS) > 0
    if dtype != np.float32 or options["precision"] == "tf32":
        assert count(walk, *TENSOR_CORE) > 0
    if target == "sm_90" and queries >= 64 and (dtype != np.float32 or options["precision"] == "tf32"):
        assert count(walk, "HGMMA") > 0


def test_machine_code_of_halves() -> None:
    examine("sm_90", np.float16, (8, 12, 12, 1024, 1024, 64))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [*((np.float16, size) for size in (64, 80, 128, 256)), (ml_dtypes.bfloat16, 128), (np.float32, 128), ("tf32", 64)],
)
def test_machine_code(dtype: Any, size: int, target: str) -> None:
    attributes: dict[str, Any] = {"tf32": True} if dtype == "tf32" else {}
    kind = np.float32 if dtype == "tf32" else dtype
    examine(target, kind, (8, 32, 8, 1024, 1000, size), is_causal=1, **attributes)
    if size in (64, 128):
        examine(target, kind, (1, 12, 4, 1, 4096, size), **attributes)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_90"])
def test_machine_code_with_masks(target: str) -> None:
    for size, kind in ((64, dtypes.BOOL), (128, dtypes.FLOAT16)):
        operand = TensorType(dtypes.FLOAT16, (8, 12, 1000, size))
        types = [operand, operand, operand, TensorType(kind, (8, 1, 1000, 1000))]
        graph = body(types, lambda b, *values: b.op("Attention", *values), opset=24)
        machine_code(lower(graph, GPUS[target]), GPUS[target])
