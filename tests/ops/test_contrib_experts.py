"""Mixtures of experts over their attributes and optional inputs, against ONNX Runtime; compiled, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import graphc
from tests.ops.contrib_cases import scale, u8
from tests.ops.differential import case, check
from tests.ops.test_contraction import floats

MS = "com.microsoft"
flag = st.booleans()
ACTIVATIONS = ["relu", "gelu", "silu", "identity", "swiglu"]


@given(
    tokens=st.sampled_from([(1,), (2,), (5,), (2, 3)]),
    experts=st.integers(2, 7),
    count=st.integers(1, 2),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    activation=st.sampled_from(ACTIVATIONS),
    biases=st.tuples(flag, flag),
    normalized=flag,
    limit=st.sampled_from([None, 0.5]),
)
@settings(max_examples=40, deadline=None)
def test_experts(
    tokens: tuple[int, ...],
    experts: int,
    count: int,
    sizes: tuple[int, int],
    activation: str,
    biases: tuple[bool, bool],
    normalized: bool,
    limit: float | None,
) -> None:
    hidden, inner = sizes
    attributes: dict[str, Any] = {"k": count, "activation_type": activation, "normalize_routing_weights": normalized}
    if activation == "swiglu":
        attributes |= {"swiglu_fusion": 1, "activation_alpha": 1.7, "activation_beta": 1.0}
        attributes |= {} if limit is None else {"swiglu_limit": limit}
    rows = inner * (1 + (activation == "swiglu"))
    inputs = [
        floats(0, *tokens, hidden),
        floats(1, int(np.prod(tokens)), experts),
        floats(2, experts, rows, hidden),
        floats(3, experts, rows) if biases[0] else None,
        floats(4, experts, hidden, inner),
        floats(5, experts, hidden) if biases[1] else None,
    ]
    check(case("MoE", inputs, domain=MS, **attributes), rtol=1e-4, atol=2e-5, expression=False)


@given(
    tokens=st.integers(1, 5),
    experts=st.integers(2, 6),
    bits=st.sampled_from([2, 4, 8]),
    block=st.sampled_from([0, 16, 32]),
    zeros=flag,
    biases=flag,
    apart=flag,
    normalized=flag,
)
@settings(max_examples=40, deadline=None)
def test_experts_of_few_bits(
    tokens: int, experts: int, bits: int, block: int, zeros: bool, biases: bool, apart: bool, normalized: bool
) -> None:
    hidden, inner = 32, 64
    share = 8 // bits

    def packed(seed: int, rows: int, columns: int) -> list[Any]:
        """Weights, scales and zero points."""
        blocks = columns // block if block else 0
        shape = (rows, blocks) if block else (rows,)
        ends = (*shape[:-1], -(-shape[-1] // share))
        return [
            u8(seed, experts, rows, columns // share),
            scale(seed + 1, experts, *shape),
            u8(seed + 2, experts, *ends) if zeros else None,
        ]

    first, second = packed(10, inner, hidden), packed(20, hidden, inner)
    inputs = [
        *(floats(0, tokens, hidden), floats(1, tokens, experts)),
        *(*first[:2], floats(2, experts, inner) if biases else None),
        *(*second[:2], floats(3, experts, hidden) if biases else None),
        *(None, None, None, first[2], second[2], None),
        np.abs(floats(4, tokens, experts)) if apart else None,
    ]
    while inputs[-1] is None:
        inputs.pop()
    attributes: dict[str, Any] = {"k": 2, "expert_weight_bits": bits, "normalize_routing_weights": normalized}
    attributes |= {"block_size": block} if block else {}
    check(case("QMoE", inputs, domain=MS, **attributes), rtol=1e-3, atol=1e-3, expression=False)


@pytest.mark.parametrize("tokens", [1, 6, "tokens"])
def test_few_and_many_tokens_compile(tokens: int | str) -> None:
    """Weights of the chosen experts alone, or those of all; no step in NumPy."""
    experts, hidden, inner = 6, 8, 16
    weights = {"w1": floats(2, experts, inner, hidden), "w2": floats(3, experts, hidden, inner)}
    weights["w3"] = floats(4, experts, inner, hidden)
    node = helper.make_node("MoE", ["x", "r", "w1", "", "w2", "", "w3"], ["y"], domain=MS, k=2, activation_type="silu")
    shapes: dict[str, list[int | str]] = {"x": [tokens, hidden], "r": [tokens, experts]}
    inputs = [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    output = helper.make_tensor_value_info("y", 1, [tokens, hidden])
    graph = helper.make_graph([node], "experts", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)]
    module = graphc.compile(helper.make_model(graph, opset_imports=opsets, ir_version=10), threads=1)
    count = tokens if isinstance(tokens, int) else 3
    x, router = floats(0, count, hidden), floats(1, count, experts)
    shares = np.exp(router) / np.exp(router).sum(1, keepdims=True)
    wanted = np.zeros_like(x)
    for token in range(count):
        for expert in np.argsort(-router[token])[:2]:
            gate, linear = (weights[name][expert] @ x[token] for name in ("w1", "w3"))
            made = weights["w2"][expert] @ (gate / (1 + np.exp(-gate)) * linear)
            wanted[token] += shares[token, expert] * made
    np.testing.assert_allclose(module({"x": x, "r": router})["y"], wanted, rtol=1e-4, atol=1e-4)
    assert not module.variant_for({"x": x, "r": router}).host_steps
