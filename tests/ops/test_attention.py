"""Attention and its neighbours against onnx.reference on random configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes, symbol
from graphc.ops import expand, infer_graph
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_node
from tests.ops.differential import Case, case, check, compare
from tests.ops.test_contraction import floats, seeds


@st.composite
def attentions(draw: st.DrawFn) -> tuple[list[Any], dict[str, Any], int]:
    """Inputs and attributes of an Attention, and how many outputs it has."""
    batch, kv_heads, repeats, queries, keys = (draw(st.integers(1, 3)) for _ in range(5))
    size, value_size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    heads, seed = kv_heads * repeats, draw(seeds)
    shapes = [(batch, heads, queries, size), (batch, kv_heads, keys, size), (batch, kv_heads, keys, value_size)]
    attributes: dict[str, Any] = {}
    inputs: list[Any] = [floats(seed + i, *shape) for i, shape in enumerate(shapes)]
    if draw(st.booleans()):
        inputs = [x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1) for x in inputs]
        attributes |= {"q_num_heads": heads, "kv_num_heads": kv_heads}
    past = draw(st.integers(1, 3)) if draw(st.booleans()) else 0
    valid = not past and draw(st.booleans())
    total = past + keys
    mask: Any = None
    match draw(st.sampled_from(("none", "bool", "float"))):
        case "bool":
            mask = np.random.default_rng(seed).random((queries, total)) < 0.7
        case "float":
            mask = floats(seed + 5, batch, 1, queries, total)
    inputs.append(mask)
    if past:
        inputs += [floats(seed + 6, batch, kv_heads, past, size), floats(seed + 7, batch, kv_heads, past, value_size)]
    elif valid:
        inputs += [None, None, np.random.default_rng(seed).integers(1, keys + 1, batch)]
    attributes["is_causal"] = draw(st.integers(0, 1))
    for name in ("left_window_size", "right_window_size"):
        if draw(st.booleans()):
            attributes[name] = draw(st.integers(-1, 2))
    if draw(st.booleans()):
        attributes["scale"] = 0.3
    if draw(st.booleans()):
        attributes["softcap"] = 0.8
    # onnx.reference shows capped scores where the operator's text promises the raw ones (mode 0).
    attributes["qk_matmul_output_mode"] = draw(st.integers(1 if "softcap" in attributes else 0, 3))
    while inputs[-1] is None:
        inputs.pop()
    return inputs, attributes, draw(st.sampled_from((1, 4)))


@given(attentions())
@settings(max_examples=80)
def test_attention(config: tuple[list[Any], dict[str, Any], int]) -> None:
    inputs, attributes, outputs = config
    subject = case("Attention", inputs, outputs, version=25, **attributes)
    check(subject, Case.reference, rtol=1e-4, atol=1e-5, expression=False)


def test_a_growing_cache_has_a_symbolic_extent() -> None:
    graph = Graph("g", opset=24)
    n, p = symbol("n"), symbol("p")
    q, k, v = (graph.add_input(name, TensorType(dtypes.FLOAT32, (n, 1, 64))) for name in "qkv")
    past = [graph.add_input(name, TensorType(dtypes.FLOAT32, (n, 4, p, 16))) for name in ("pk", "pv")]
    made = Builder(graph).op("Attention", q, k, v, None, *past, outputs=3, q_num_heads=4, kv_num_heads=4).producer
    assert made is not None
    shapes = [(n, 1, 64), (n, 4, p + 1, 16), (n, 4, p + 1, 16)]
    assert infer_node(made) == [TensorType(dtypes.FLOAT32, shape) for shape in shapes]


@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from((0, 2)),
    st.booleans(), st.booleans(), st.booleans(), seeds,
)  # fmt: skip
@settings(max_examples=60)
def test_rotary(
    batch: int, heads: int, length: int, pairs: int, extra: int, interleaved: bool, packed: bool, ids: bool, seed: int
) -> None:
    size = 2 * pairs + extra
    x = floats(seed, batch, length, heads * size) if packed else floats(seed, batch, heads, length, size)
    cache = (7, pairs) if ids else (batch, length, pairs)
    inputs = [x, floats(seed + 1, *cache), floats(seed + 2, *cache)]
    if ids:
        inputs.append(np.random.default_rng(seed).integers(0, 7, (batch, length)))
    attributes = {"interleaved": int(interleaved), "rotary_embedding_dim": 2 * pairs if extra else 0}
    if packed:
        attributes["num_heads"] = heads
    check(case("RotaryEmbedding", inputs, **attributes), Case.reference)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [-2, 1])
def test_tensor_scatter(mode: str, axis: int) -> None:
    cache, update = floats(0, 2, 5, 5, 3), floats(1, 2, *((5, 2) if axis == -2 else (2, 5)), 3)
    starts = np.array([1, 4 if mode == "circular" else 3])
    check(case("TensorScatter", [cache, update, starts], mode=mode, axis=axis), Case.reference)
    check(case("TensorScatter", [cache, update], mode=mode, axis=axis), Case.reference)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("past", [False, True])
def test_linear_attention(rule: str, past: bool) -> None:
    inputs: list[Any] = [floats(0, 2, 3, 4 * 2), floats(1, 2, 3, 2 * 2), floats(2, 2, 3, 2 * 5), None, None, None]
    if past:
        inputs[3] = floats(3, 2, 2, 2, 5)
    if "gated" in rule:
        inputs[4] = -np.abs(floats(4, 2, 3, 2))
    if "delta" in rule:
        inputs[5] = np.abs(floats(5, 2, 3, 2))
    while inputs[-1] is None:
        inputs.pop()
    subject = case("LinearAttention", inputs, 2, version=27, q_num_heads=4, kv_num_heads=2, update_rule=rule)
    check(subject, Case.reference, expression=False)


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("past", [False, True])
def test_causal_convolution(activation: str, past: bool) -> None:
    inputs = [floats(0, 2, 3, 4), floats(1, 3, 1, 3), floats(2, 3), *([floats(3, 2, 3, 2)] if past else [])]
    check(case("CausalConvWithState", inputs, 2, version=27, activation=activation), Case.reference)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (case("Attention", [floats(0, 1, 3, 4), floats(0, 1, 3, 4), floats(0, 1, 3, 4)]), "q_num_heads"),
        (case("Attention", [floats(0, 1, 3, 2, 4), floats(0, 1, 2, 2, 4), floats(0, 1, 2, 2, 4)]), "no multiple"),
        (case("Attention", [floats(0, 1, 3, 2, 4), floats(0, 1, 3, 4), floats(0, 1, 2, 2, 4)]), "equal rank"),
        (case("RotaryEmbedding", [floats(0, 1, 3, 4), floats(0, 3, 2), floats(0, 3, 2)]), "num_heads"),
        (case("LinearAttention", [floats(0, 1, 3, 4)] * 3, 2, q_num_heads=2, kv_num_heads=2), "needs decay"),
    ],
)
def test_what_does_not_fit_is_an_error(subject: Case, text: str) -> None:
    with pytest.raises(TypeInferenceError, match=text):
        subject.infer()


@given(attentions())
@settings(max_examples=60)
def test_attention_spelled_out(config: tuple[list[Any], dict[str, Any], int]) -> None:
    inputs, attributes, outputs = config
    subject = case("Attention", inputs, outputs, version=25, **attributes)
    expected, types = subject.evaluate()[:outputs], subject.infer()
    graph = subject.node.graph
    assert graph is not None
    graph.outputs = subject.node.outputs
    assert expand(subject.node)
    assert not any(node.op_type == "Attention" for node in graph.nodes)
    infer_graph(graph)
    assert [value.type for value in graph.outputs] == types
    found = evaluate_graph(graph, [array for array in subject.arrays if array is not None])
    for array, wanted in zip(found, expected, strict=True):
        compare(array, wanted, 1e-5, 1e-6, "expanded")
