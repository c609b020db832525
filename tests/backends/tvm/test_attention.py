"""Fused attention: against the operator's NumPy meaning, with every mask, through the movement around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import attention
from graphc.errors import BackendError
from graphc.ir import Builder, DType, Graph, Value, dtypes
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, Array, check, run

NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Every attempt compiles a kernel."""
DTYPES = [(dtypes.FLOAT32, 1e-5), (dtypes.FLOAT16, 1e-3), (dtypes.BFLOAT16, 8e-3)]
"""Element types, and how far one rounding is from the result in float32."""
every_target = pytest.mark.parametrize("target", TARGETS, ids=str)


def lower(graph: Graph, target: Target) -> Kernel:
    return attention.lower(graph, target, frozenset(), {})


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def region(arrays: list[Array], **attributes: Any) -> Graph:
    return body(arrays, lambda b, *values: b.op("Attention", *values, **attributes))


@every_target
@settings(max_examples=15, phases=NO_SHRINKING)
@given(st.data())
def test_attention_of_any_size_with_any_mask(target: Target, data: st.DataObject) -> None:
    def extent(name: str, high: int) -> int:
        return data.draw(st.integers(1, high), name)

    batch, groups, ratio = extent("batch", 2), extent("groups", 2), extent("ratio", 2)
    queries, keys, size, elements = (extent(n, 40) for n in ("queries", "keys", "size", "elements"))
    heads = groups * ratio
    attributes: dict[str, Any] = {}
    if data.draw(st.booleans(), "is_causal"):
        attributes["is_causal"] = 1
    if data.draw(st.booleans(), "given scale"):
        attributes["scale"] = 0.3
    if data.draw(st.booleans(), "softcap"):
        attributes["softcap"] = 2.0
    arrays = [
        normal(batch, heads, queries, size),
        normal(batch, groups, keys, size),
        normal(batch, groups, keys, elements),
    ]
    shapes = [
        None,
        (queries, keys),
        (batch, 1, 1, keys),
        (1, heads, queries, keys),
        (queries, 1),
        (1, max(1, keys - 3)),
    ]
    shape = data.draw(st.sampled_from(shapes), "mask")
    if shape is not None:
        mask = normal(*shape)
        arrays.append(mask > 0 if data.draw(st.booleans(), "boolean mask") else mask)
    dtype, rtol = data.draw(st.sampled_from(DTYPES), "dtype")
    arrays = [a if a.dtype == np.bool_ else a.astype(dtype.numpy) for a in arrays]
    check(region(arrays, **attributes), arrays, lower, target, rtol=rtol)


@every_target
@pytest.mark.parametrize(("dtype", "rtol"), DTYPES[1:])
def test_half_width_attention_that_threads_share(dtype: DType, rtol: float, target: Target) -> None:
    arrays = [a.astype(dtype.numpy) for a in (normal(2, 4, 70, 33), normal(2, 2, 90, 33), normal(2, 2, 90, 21))]
    check(region(arrays, is_causal=1), arrays, lower, target, rtol=rtol)


@every_target
def test_operands_of_three_axes(target: Target) -> None:
    arrays = [normal(2, 9, 4 * 8), normal(2, 11, 2 * 8), normal(2, 11, 2 * 6)]
    check(region(arrays, q_num_heads=4, kv_num_heads=2), arrays, lower, target)


@pytest.mark.parametrize("queries", [128, 37])
@every_target
def test_heads_that_threads_share(queries: int, target: Target) -> None:
    arrays = [normal(1, 12, queries, 64), normal(1, 12, 128, 64), normal(1, 12, 128, 64), normal(1, 1, 1, 128)]
    kernel = check(region(arrays), arrays, lower, target)
    assert kernel.schedule["tasks"] != "serial"
    assert kernel.schedule["keys"] == "transposed by head"


@every_target
def test_one_head_is_split_by_queries(target: Target) -> None:
    arrays = [normal(1, 1, 150, 16), normal(1, 1, 130, 16), normal(1, 1, 130, 16)]
    kernel = check(region(arrays, is_causal=1), arrays, lower, target)
    assert int(kernel.schedule["tasks"]) > 1
    assert kernel.schedule["keys"] == "first"


def split_heads(b: Builder, x: Value, heads: int) -> Value:
    batch, positions, width = (int(d) for d in x.tensor_type.dims)
    shape = b.constant(np.array([batch, positions, heads, width // heads]))
    return b.op("Transpose", b.op("Reshape", x, shape), perm=[0, 2, 1, 3])


@every_target
def test_transpositions_around_it_are_no_work(target: Target) -> None:
    arrays = [normal(2, 10, 36, seed=s) for s in range(3)]

    def make(b: Builder, *values: Value) -> Value:
        result = b.op("Attention", *(split_heads(b, x, 3) for x in values))
        return b.op("Reshape", b.op("Transpose", result, perm=[0, 2, 1, 3]), b.constant(np.array([2, 10, 36])))

    kernel = check(body(arrays, make), arrays, lower, target)
    assert [operand.kind for operand in kernel.operands].count("input") == 3


@every_target
def test_one_tensor_holds_query_key_and_value(target: Target) -> None:
    arrays = [normal(1, 10, 3 * 24)]

    def make(b: Builder, x: Value) -> Value:
        first = b.op("Split", x, outputs=3, axis=2, num_outputs=3)
        assert first.producer is not None
        heads = []
        for part in first.producer.outputs:
            shaped = b.op("Reshape", part, b.constant(np.array([1, 10, 3, 8])))
            heads.append(b.op("Transpose", shaped, perm=[0, 2, 1, 3]))
        return b.op("Attention", *heads)

    kernel = check(body(arrays, make), arrays, lower, target)
    assert [operand.kind for operand in kernel.operands].count("input") == 1


@every_target
def test_keys_that_come_transposed_are_read_in_place(target: Target) -> None:
    arrays = [normal(1, 2, 9, 8), normal(1, 2, 8, 21), normal(1, 2, 21, 8)]

    def make(b: Builder, q: Value, k: Value, v: Value) -> Value:
        return b.op("Attention", q, b.op("Transpose", k, perm=[0, 1, 3, 2]), v)

    kernel = check(body(arrays, make), arrays, lower, target)
    assert kernel.schedule["keys"] == "in place"


@every_target
def test_a_query_that_sees_nothing_gets_zeros(target: Target) -> None:
    arrays = [normal(1, 2, 5, 8), normal(1, 2, 20, 8), normal(1, 2, 20, 8), np.ones((5, 20), bool)]
    arrays[3][2] = False
    graph = region(arrays)
    kernel = check(graph, arrays, lower, target)
    (result,) = run(kernel, graph, arrays)
    assert not result[:, :, 2].any()
    assert result[:, :, 1].any()


@every_target
def test_large_scores_do_not_overflow(target: Target) -> None:
    arrays = [normal(1, 1, 4, 8) * 60, normal(1, 1, 20, 8) * 60, normal(1, 1, 20, 8)]
    check(region(arrays), arrays, lower, target)


def test_a_nan_reaches_only_its_query() -> None:
    arrays = [normal(1, 1, 6, 8), normal(1, 1, 20, 8), normal(1, 1, 20, 8)]
    graph = region(arrays)
    arrays[0][0, 0, 3, 2] = np.nan
    (result,) = run(lower(graph, HOST), graph, arrays)
    assert np.isnan(result[0, 0, 3]).all()
    assert np.isfinite(np.delete(result[0, 0], 3, axis=0)).all()


def test_an_arm_object_compiles() -> None:
    arrays = [normal(1, 2, 10, 16), normal(1, 2, 12, 16), normal(1, 2, 12, 16), normal(10, 12) > 0]
    assert lower(region(arrays, is_causal=1), ARM).compile()[:4] == b"\x7fELF"


def test_flops_count_both_products() -> None:
    arrays = [normal(2, 3, 5, 8), normal(2, 3, 7, 8), normal(2, 3, 7, 4)]
    assert lower(region(arrays), HOST).flops == 2 * (2 * 3 * 5 * 7) * (8 + 4)


def refusal(graph: Graph) -> str:
    with pytest.raises(BackendError) as caught:
        lower(graph, HOST)
    return caught.value.message


def test_refusals_say_why() -> None:
    arrays = [normal(1, 2, 4, 8)] * 3
    assert "window" in refusal(region(arrays, left_window_size=2))
    assert "float64" in refusal(region([a.astype(np.float64) for a in arrays]))
    assert "zero" in refusal(region([normal(1, 2, 0, 8), *arrays[1:]]))
    cached = [*arrays, np.ones((4, 9), bool), normal(1, 2, 5, 8), normal(1, 2, 5, 8)]
    assert "cache" in refusal(region(cached))
    assert "follows" in refusal(body(arrays, lambda b, *x: b.op("Relu", b.op("Attention", *x))))
    arrays = [normal(1, 2, 4, 8), normal(1, 2, 4, 8), normal(1, 2, 8, 4)]
    turned = body(arrays, lambda b, q, k, v: b.op("Attention", q, k, b.op("Transpose", v, perm=[0, 1, 3, 2])))
    assert "neighbours" in refusal(turned)
