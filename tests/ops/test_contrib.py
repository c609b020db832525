"""Operators of domain com.microsoft against ONNX Runtime, and their expansion in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops import can_expand, expand, infer_graph
from graphc.ops.decomposition import DECOMPOSITIONS
from graphc.ops.evaluate import evaluate_graph
from tests.ops import contrib_cases
from tests.ops.differential import Case, case, check, compare
from tests.ops.test_contraction import floats, integers

MS = "com.microsoft"


def _scale(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).uniform(0.01, 0.1, shape).astype(np.float32)


def _u8(seed: int, *shape: int) -> Any:
    return integers(seed, *shape, dtype=np.uint8)


def _i8(seed: int, *shape: int) -> Any:
    return integers(seed, *shape, dtype=np.int8)


F, S, Z = floats, np.float32(0.05), np.uint8(100)
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)
QKV = [floats(i, 2, 4, 6) for i in range(3)]

CASES: dict[str, tuple[str, list[Any], int, dict[str, Any]]] = {
    "gelu": ("Gelu", [F(0, 2, 3)], 1, {}),
    "bias gelu": ("BiasGelu", [F(0, 2, 3), F(1, 3)], 1, {}),
    "fast gelu": ("FastGelu", [F(0, 2, 3)], 1, {}),
    "fast gelu of a sum": ("FastGelu", [F(0, 2, 3), F(1, 3)], 1, {}),
    "quick gelu": ("QuickGelu", [F(0, 2, 3)], 1, {"alpha": 1.5}),
    "skip norm": ("SkipLayerNormalization", [F(0, 2, 3, 4), F(1, 2, 3, 4), F(2, 4), F(3, 4)], 1, {"epsilon": 1e-5}),
    "skip norm, all": (
        "SkipLayerNormalization",
        [F(0, 2, 3, 4), F(1, 2, 3, 4), F(2, 4), F(3, 4), F(4, 4)],
        ["y", "", "", "sum"],
        {"epsilon": 1e-5},
    ),
    "skip rms norm": (
        "SkipSimplifiedLayerNormalization",
        [F(0, 2, 3, 4), F(1, 2, 3, 4), F(2, 4), F(4, 4)],
        ["y", "", "", "sum"],
        {"epsilon": 1e-5},
    ),
    "embeddings": (
        "EmbedLayerNormalization",
        [
            np.array([[1, 2, 0], [3, 3, 1]], np.int32),
            np.array([[0, 1, 1], [0, 0, 1]], np.int32),
            *(F(0, 5, 4), F(1, 6, 4), F(2, 2, 4), F(3, 4), F(4, 4)),
            np.array([[1, 1, 0], [1, 1, 1]], np.int32),
        ],
        2,
        {"epsilon": 1e-5},
    ),
    "fused matmul": ("FusedMatMul", [F(0, 2, 4, 3), F(1, 2, 5, 4)], 1, {"transA": 1, "transB": 1, "alpha": 0.5}),
    "fused matmul, batches behind": (
        "FusedMatMul",
        [F(0, 3, 2, 4), F(1, 4, 2, 5)],
        1,
        {"transBatchA": 1, "transBatchB": 1},
    ),
    "fused gemm": (
        "FusedGemm",
        [F(0, 4, 3), F(1, 5, 4), F(2, 5)],
        1,
        {"transA": 1, "transB": 1, "activation": "LeakyRelu", "activation_alpha": 0.2},
    ),
    "fused conv": (
        "FusedConv",
        [F(0, 1, 3, 6, 6), F(1, 4, 3, 3, 3), F(2, 4), F(3, 1, 4, 6, 6)],
        1,
        {"pads": [1, 1, 1, 1], "activation": "Relu"},
    ),
    "fused conv and clip": (
        "FusedConv",
        [F(0, 1, 3, 6, 6), F(1, 4, 3, 3, 3)],
        1,
        {"activation": "Clip", "activation_params": [-0.5, 0.5]},
    ),
    "4-bit weights": (
        "MatMulNBits",
        [F(0, 3, 40), _u8(1, 6, 3, 8), _scale(2, 18)],
        1,
        {"K": 40, "N": 6, "bits": 4, "block_size": 16},
    ),
    "4-bit weights with zero points": (
        "MatMulNBits",
        [F(0, 3, 40), _u8(1, 6, 3, 8), _scale(2, 18), _u8(3, 12)],
        1,
        {"K": 40, "N": 6, "bits": 4, "block_size": 16},
    ),
    "quantized add": ("QLinearAdd", [_u8(0, 2, 3), S, Z, _u8(1, 3), S * 2, Z, S * 3, Z], 1, {}),
    "quantized mul": ("QLinearMul", [_i8(0, 2, 3), S, np.int8(1), _i8(1, 3), S, np.int8(-2), S, np.int8(5)], 1, {}),
    "quantized sigmoid": ("QLinearSigmoid", [_u8(0, 2, 3), S, Z, np.float32(1 / 256), np.uint8(0)], 1, {}),
    "quantized leaky relu": ("QLinearLeakyRelu", [_u8(0, 2, 3), S, Z, S, Z], 1, {"alpha": 0.3}),
    "quantized mean": (
        "QLinearGlobalAveragePool",
        [_u8(0, 2, 3, 4, 4), S, Z, S, Z],
        1,
        {},
    ),
    "quantized pool": (
        "QLinearAveragePool",
        [_u8(0, 1, 3, 6, 6), S, Z, S, Z],
        1,
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    "quantized softmax": (
        "QLinearSoftmax",
        [_u8(0, 2, 5), S, Z, np.float32(1 / 256), np.uint8(0)],
        1,
        {"axis": -1, "opset": 13},
    ),
    "quantized concat": ("QLinearConcat", [S, Z, _u8(0, 2, 3), S * 2, Z, _u8(1, 2, 2), S, Z], 1, {"axis": 1}),
    "quantized gemm": (
        "QGemm",
        [_u8(0, 4, 3), S, Z, _i8(1, 5, 3), S, np.int8(0), np.arange(5, dtype=np.int32) * 9, S * 3, Z],
        1,
        {"transB": 1},
    ),
    "quantized gemm to floats": (
        "QGemm",
        [_u8(0, 4, 3), S, Z, _i8(1, 3, 5), _scale(2, 5), np.zeros(5, np.int8), None],
        1,
        {"alpha": 0.5},
    ),
    "integer product to floats": (
        "MatMulIntegerToFloat",
        [_u8(0, 4, 3), _i8(1, 3, 5), S, _scale(2, 5), Z, np.zeros(5, np.int8), F(3, 5)],
        1,
        {},
    ),
    "quantize": ("QuantizeLinear", [F(0, 2, 3) * 9, _scale(1, 3), _u8(2, 3)], 1, {"axis": 1}),
    "dequantize": ("DequantizeLinear", [_u8(0, 2, 3), _scale(1, 3), _u8(2, 3)], 1, {"axis": 1}),
    "heads": ("MultiHeadAttention", QKV, 1, {"num_heads": 2}),
    "heads with biases": ("MultiHeadAttention", [*QKV, F(4, 18)], 1, {"num_heads": 2, "scale": 0.3}),
    "heads with a mask": ("MultiHeadAttention", [*QKV, None, MASK], 1, {"num_heads": 2}),
    "heads with a bias of scores": ("MultiHeadAttention", [*QKV, None, MASK, F(5, 1, 2, 4, 4)], 1, {"num_heads": 2}),
    "heads with a past": (
        "MultiHeadAttention",
        [*QKV, None, None, None, F(6, 2, 2, 3, 3), F(7, 2, 2, 3, 3)],
        3,
        {"num_heads": 2},
    ),
    "causal heads": ("MultiHeadAttention", QKV, 1, {"num_heads": 2, "unidirectional": 1}),
    "attention": ("Attention", [F(0, 2, 4, 6), F(1, 6, 18), F(2, 18)], 1, {"num_heads": 2}),
    "attention with a mask": ("Attention", [F(0, 2, 4, 6), F(1, 6, 18), F(2, 18), MASK], 1, {"num_heads": 2}),
    "attention with lengths": (
        "Attention",
        [F(0, 2, 4, 6), F(1, 6, 18), F(2, 18), np.array([3, 2], np.int32)],
        1,
        {"num_heads": 2},
    ),
    "attention of other sizes": (
        "Attention",
        [F(0, 2, 4, 6), F(1, 6, 16), F(2, 16)],
        1,
        {"num_heads": 2, "qkv_hidden_sizes": [6, 6, 4]},
    ),
    "attention with a past": (
        "Attention",
        [F(0, 2, 4, 6), F(1, 6, 18), F(2, 18), None, F(3, 2, 2, 2, 3, 3)],
        2,
        {"num_heads": 2, "unidirectional": 1},
    ),
    "rotary": (
        "RotaryEmbedding",
        [F(0, 2, 3, 8), np.array([[0, 1, 2], [4, 3, 2]]), F(1, 6, 2), F(2, 6, 2)],
        1,
        {},
    ),
    "rotary from a position": (
        "RotaryEmbedding",
        [F(0, 2, 2, 3, 4), np.array([1]), F(1, 6, 2), F(2, 6, 2)],
        1,
        {"interleaved": 1},
    ),
    "linear attention": (
        "LinearAttention",
        [F(0, 2, 3, 12), F(1, 2, 3, 6), F(2, 2, 3, 8), F(3, 2, 2, 3, 4), -abs(F(4, 2, 3, 2)), abs(F(5, 2, 3, 2))],
        2,
        {"q_num_heads": 4, "kv_num_heads": 2, "scale": 0.3},
    ),
    "linear attention without a past": (
        "LinearAttention",
        [F(0, 1, 4, 6), F(1, 1, 4, 6), F(2, 1, 4, 8)],
        2,
        {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear", "chunk_size": 2},
    ),
    "causal convolution": (
        "CausalConvWithState",
        [F(0, 2, 3, 5), F(1, 3, 1, 4), F(2, 3), F(3, 2, 3, 3)],
        2,
        {"activation": "silu"},
    ),
    "causal convolution, channels last": (
        "CausalConvWithState",
        [F(0, 2, 5, 3), F(1, 3, 1, 4), F(2, 3), F(3, 2, 3, 3)],
        2,
        {"channels_last": 1},
    ),
    **contrib_cases.CASES,
}


def _build(name: str) -> Case:
    op_type, inputs, outputs, attributes = CASES[name]
    return case(op_type, inputs, outputs, domain=MS, **attributes)


@pytest.mark.parametrize("name", CASES)
def test_against_onnxruntime(name: str) -> None:
    # A quantized result may fall on the other side of a half: ONNX Runtime's own kernels differ by as much.
    subject = _build(name)
    expected = subject.onnxruntime()
    if any(array.dtype in (np.uint8, np.int8) for array in expected):
        for array, good in zip(subject.evaluate(), expected, strict=True):
            assert array.dtype == good.dtype and array.shape == good.shape
            assert np.abs(array.astype(int) - good.astype(int)).max() <= 1
    else:
        shapes = subject.node.op_type not in contrib_cases.OF_VALUES
        check(subject, expected, rtol=1e-4, atol=1e-5, expression=False, shapes=shapes)


@pytest.mark.parametrize("name", CASES)
def test_expanding_keeps_names_types_and_values(name: str) -> None:
    subject = _build(name)
    node, graph = subject.node, subject.node.graph
    assert graph is not None and can_expand(node)
    node.origins = ("culprit",)
    types = [kind for value, kind in zip(node.outputs, subject.infer(), strict=True) if value.name]
    expected = [array for value, array in zip(node.outputs, subject.evaluate(), strict=False) if value.name]
    graph.outputs = [value for value in node.outputs if value.name]
    assert expand(node)
    assert MS not in {inner.domain for inner in graph.nodes}
    assert {inner.origins for inner in graph.nodes if inner.op_type != "Constant"} == {("culprit",)}
    infer_graph(graph, strict=True)
    if node.op_type not in contrib_cases.OF_VALUES:
        assert [value.type for value in graph.outputs] == types
    inputs = [array for array in subject.arrays if array is not None]
    for found, wanted in zip(evaluate_graph(graph, inputs), expected, strict=True):
        compare(found, wanted, 1e-6, 1e-6, name)


def test_every_decomposition_of_the_domain_is_tested() -> None:
    tested = {op_type for op_type, *_ in CASES.values()} | {
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "TransposeMatMul",
    }
    tested |= {row[0] for row, _ in contrib_cases.ALONE.values()}
    assert {op_type for domain, op_type in DECOMPOSITIONS if domain == MS} == tested


@pytest.mark.parametrize("name", contrib_cases.ALONE)
def test_what_onnxruntime_has_no_cpu_kernel_for(name: str) -> None:
    (op_type, inputs, outputs, attributes), meaning = contrib_cases.ALONE[name]
    subject = case(op_type, inputs, outputs, domain=MS, **attributes)
    kinds = [kind for kind in subject.infer() if isinstance(kind, TensorType)]
    wanted = [array.astype(kind.dtype.numpy) for array, kind in zip(meaning(*subject.arrays), kinds, strict=True)]
    check(subject, wanted, rtol=1e-4, atol=1e-5, expression=False)


def test_rows_of_different_lengths() -> None:
    """Each row's new positions stand behind its own; what lies beyond them is nobody's."""
    op_type, inputs, outputs, attributes = contrib_cases.grouped(lengths=[5, 3])
    subject = case(op_type, inputs, outputs, domain=MS, **attributes)
    for found, wanted in zip(subject.evaluate(), subject.onnxruntime(), strict=True):
        compare(found[:1], wanted[:1], 1e-5, 1e-5, "the longer row")
        length = 3 if wanted.ndim == 4 else None
        compare(found[1, ..., :length, :], wanted[1, ..., :length, :], 1e-5, 1e-5, "the shorter row")


def test_inverses() -> None:
    check(case("Inverse", [floats(0, 2, 3, 3)], domain=MS), rtol=1e-4, atol=1e-5, expression=False)


def test_dynamic_quantization_expands_to_what_it_computes() -> None:
    for scale in (0, 1, 30):
        subject = case("DynamicQuantizeLinear", [floats(0, 3, 4) * np.float32(scale)], 3)
        expected = subject.evaluate()
        graph = subject.node.graph
        assert graph is not None
        subject.infer()
        graph.outputs = subject.node.outputs
        assert expand(subject.node)
        for found, wanted in zip(evaluate_graph(graph, subject.arrays), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_dynamically_quantized_product() -> None:
    arrays = [floats(0, 3, 4), _i8(1, 4, 5), _scale(2, 5), np.zeros(5, np.int8), floats(3, 5)]
    # ONNX Runtime quantizes the left operand by its own kernel, whose rounding differs in the last place.
    check(case("DynamicQuantizeMatMul", arrays, domain=MS), rtol=0.02, atol=0.05, expression=False)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("by_row", [False, True])
def test_a_dynamically_quantized_lstm(direction: str, by_row: bool) -> None:
    directions, size, hidden = 2 if direction == "bidirectional" else 1, 5, 6
    scales = (directions, 4 * hidden) if by_row else (directions,)
    arrays = [
        floats(0, 3, 2, size),
        _i8(1, directions, size, 4 * hidden),
        _i8(2, directions, hidden, 4 * hidden),
        floats(3, directions, 8 * hidden),
        np.array([3, 2], np.int32),
        floats(4, directions, 2, hidden),
        None,
        floats(5, directions, 3 * hidden),
        _scale(6, *scales) / 100,
        np.zeros(scales, np.int8),
        _scale(7, *scales) / 100,
        np.zeros(scales, np.int8),
    ]
    # ONNX Runtime rounds inputs and states to 8 bits.
    subject = case("DynamicQuantizeLSTM", arrays, 3, domain=MS, direction=direction, hidden_size=hidden)
    check(subject, rtol=0.02, atol=0.03, expression=False)


def test_a_norm_by_the_root_of_the_mean_square_with_its_statistics() -> None:
    subject = case("SimplifiedLayerNormalization", [floats(0, 2, 3, 4), floats(1, 4)], 2, version=1, epsilon=1e-3)
    check(subject, rtol=1e-5, atol=1e-5, expression=False)


def test_what_has_no_decomposition_stays() -> None:
    graph = Graph("g", opset=24)
    x = graph.add_input("x", TensorType(dtypes.FLOAT32, (2,)))
    node = Builder(graph).op("Relu", x).producer
    assert node is not None and not can_expand(node) and not expand(node)
    assert len(graph) == 1


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (case("MultiHeadAttention", [floats(0, 2, 4, 6)], domain=MS, num_heads=2), "packed"),
        (
            case("MatMulNBits", [floats(0, 2, 16), _u8(0, 1, 1, 6), floats(0, 1)], domain=MS, K=16, N=1, bits=3),
            "3 bits",
        ),
        (case("CDist", [floats(0, 2, 3), floats(0, 2, 3)], domain=MS, metric="dice"), "dice"),
        (case("Inverse", [floats(0, 2, 3)], domain=MS), "square"),
        (case("SkipLayerNormalization", [floats(0, 2, 3), floats(0, 2, 4), floats(0, 3)], domain=MS), "broadcast"),
    ],
)
def test_what_does_not_fit_is_an_error(subject: Case, text: str) -> None:
    subject.node.name = "culprit"
    with pytest.raises(TypeInferenceError, match=text):
        subject.infer()


@pytest.mark.parametrize(
    ("op_type", "packed", "scales"),
    [("MatMulNBits", (1 << 31, 1 << 27, 8), (1 << 58,)), ("MatMulBnb4", (1 << 61,), (1 << 58,))],
)
def test_weights_that_no_memory_holds_have_types_all_the_same(
    op_type: str, packed: tuple[int, ...], scales: tuple[int, ...]
) -> None:
    graph = Graph("g", opset=24)
    kinds = [(dtypes.FLOAT32, (2, 1 << 31)), (dtypes.UINT8, packed), (dtypes.FLOAT32, scales)]
    inputs = [graph.add_input(f"x{i}", TensorType(dtype, shape)) for i, (dtype, shape) in enumerate(kinds)]
    graph.outputs = [Builder(graph).op(op_type, *inputs, domain=MS, N=1 << 31, K=1 << 31, block_size=16)]
    infer_graph(graph)
    assert graph.outputs[0].tensor_type.static_shape == (2, 1 << 31)


def test_a_sink_of_more_heads_than_memory_holds_has_types_all_the_same() -> None:
    heads = 1 << 40
    graph = Graph("g", opset=24)
    kinds = [(dtypes.FLOAT32, (1, 1, heads * 8))] + 2 * [(dtypes.FLOAT32, (1, 1, 8))]
    kinds += [(dtypes.INT32, (1,)), (dtypes.INT32, ())]
    q, k, v, lengths, total = (graph.add_input(f"x{i}", TensorType(*kind)) for i, kind in enumerate(kinds))
    attributes = {"num_heads": heads, "kv_num_heads": 1, "smooth_softmax": 1}
    made = Builder(graph).op("GroupQueryAttention", q, k, v, None, None, lengths, total, domain=MS, **attributes)
    graph.outputs = [made]
    infer_graph(graph)
    assert graph.outputs[0].tensor_type.static_shape == (1, 1, heads * 8)
