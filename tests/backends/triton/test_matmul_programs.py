"""Networks around products go through the pipeline of GPUs with few kernels, and every kernel is interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.base import make_backend
from graphc.compiler.options import CompileOptions
from graphc.compiler.program import Program, build_program
from graphc.ir import Builder, Graph, Value, dtypes
from graphc.ops.evaluate import evaluate_graph
from graphc.target.cuda import GPUS
from graphc.testing.oracle import compare_arrays
from graphc.testing.triton.programs import interpret_program
from tests.backends.bodies import Array, body

TEMPLATES = frozenset({"matmul", "attention"})


def normal(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * 0.3).astype(np.float32)


def check(graph: Graph, arrays: list[Array], precision: str = "fp32") -> Program:
    options = CompileOptions(precision=precision)
    program = build_program(graph.clone(), {}, GPUS["sm_90"], make_backend("triton"), options)
    allowed = 1e-4 if precision == "fp32" else 3e-2
    for found, wanted in zip(interpret_program(program, arrays), evaluate_graph(graph, list(arrays)), strict=True):
        compare_arrays("output", np.asarray(wanted), np.asarray(found), allowed)
    return program


def templates(program: Program) -> list[str]:
    return [kernel.template for kernel in program.kernels.values()]


def attention(b: Builder, x: Value, heads: int, size: int, join: Any) -> Value:
    """Attention of a vision transformer, with products of its own for queries, keys and values."""
    batch, length, width = (int(str(extent)) for extent in x.tensor_type.dims)

    def split(seed: int, order: list[int]) -> Value:
        y = b.op("MatMul", x, b.constant(normal(width, heads * size, seed=seed)))
        y = b.op("Add", y, b.constant(normal(heads * size, seed=seed)))
        return b.op("Transpose", b.op("Reshape", y, b.constant(np.array([batch, length, heads, size]))), perm=order)

    q, k, v = split(1, [0, 2, 1, 3]), split(2, [0, 2, 3, 1]), split(3, [0, 2, 1, 3])
    scores = join(b.op("Mul", b.op("MatMul", q, k), b.constant(np.float32(size**-0.5))))
    y = b.op("Transpose", b.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    y = b.op("Reshape", y, b.constant(np.array([batch, length, heads * size])))
    return b.op("Add", b.op("MatMul", y, b.constant(normal(heads * size, width, seed=4))), x)


def test_heads_are_split_and_joined_where_products_read_and_write() -> None:
    """What is no attention (a sigmoid of the scores) keeps its products, and they take the movement around them."""
    arrays = [normal(2, 9, 32)]
    graph = body(arrays, lambda b, x: attention(b, x, 2, 16, lambda s: b.op("Sigmoid", s)))
    program = check(graph, arrays)
    assert templates(program) == ["matmul"] * 4


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_attention_reads_the_parts_of_one_product(precision: str) -> None:
    arrays = [normal(2, 9, 32)]
    graph = body(arrays, lambda b, x: attention(b, x, 2, 16, lambda s: b.op("Softmax", s, axis=-1)))
    program = check(graph, arrays, precision)
    assert [name for name in templates(program) if name in TEMPLATES].count("attention") == 1
    assert templates(program).count("matmul") == 2


def test_what_follows_a_reshape_of_a_product_is_in_its_kernel() -> None:
    arrays = [normal(2, 9, 24), normal(2, 9, 40, seed=1)]

    def make(b: Builder, x: Value, residual: Value) -> Value:
        flat = b.op("Reshape", x, b.constant(np.array([-1, 24])))
        y = b.op("Gemm", flat, b.constant(normal(24, 40)), b.constant(normal(40)))
        y = b.op("Reshape", y, b.constant(np.array([2, 9, 40])))
        return b.op("Relu", b.op("Add", b.op("Sigmoid", y), residual))

    assert templates(check(body(arrays, make), arrays)) == ["matmul"]


def test_weights_of_bytes_stay_bytes() -> None:
    arrays = [normal(3, 64).astype(np.float16)]

    def make(b: Builder, x: Value) -> Value:
        weight = b.constant(np.random.default_rng(0).integers(-128, 128, (96, 64)).astype(np.int8))
        scale = b.constant(np.abs(normal(96)).astype(np.float16) / np.float16(64))
        return b.op("Gemm", x, b.op("DequantizeLinear", weight, scale, axis=0), transB=1)

    graph = body(arrays, make)
    program = check(graph, arrays, "fp16")
    assert templates(program) == ["matmul"]
    (kernel,) = program.kernels.values()
    sizes = [operand.size for operand in kernel.operands if operand.kind == "input"]
    assert 96 * 64 in sizes
    assert dtypes.FLOAT16.itemsize * 96 * 64 not in sizes


@pytest.mark.parametrize("zeros", [False, True])
def test_weights_of_four_bits_are_read_as_such(zeros: bool) -> None:
    rows, depth, size = 48, 96, 32
    random = np.random.default_rng(0)
    packed = random.integers(0, 256, (rows, depth // size, size // 2)).astype(np.uint8)
    points = random.integers(0, 256, (rows, 2)).astype(np.uint8)
    arrays = [normal(1, 3, depth)]

    def make(b: Builder, x: Value) -> Value:
        scales = b.constant(normal(rows, depth // size))
        known = [b.constant(packed), scales, *([b.constant(points)] if zeros else [])]
        facts: dict[str, Any] = {"K": depth, "N": rows, "bits": 4, "block_size": size}
        return b.op("MatMulNBits", x, *known, domain="com.microsoft", **facts)

    program = check(body(arrays, make), arrays)
    assert templates(program) == ["matmul"]
    (kernel,) = program.kernels.values()
    assert rows * depth // 2 in [operand.size for operand in kernel.operands]


def test_a_quantized_product_is_one_kernel() -> None:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (5, 48)).astype(np.uint8)]

    def make(b: Builder, x: Value) -> Value:
        weight = b.constant(random.integers(-128, 128, (48, 32)).astype(np.int8))
        scales = b.constant(np.abs(normal(32)) / np.float32(100))
        left = [b.constant(np.float32(0.01)), b.constant(np.uint8(120))]
        result = [b.constant(np.float32(0.05)), b.constant(np.uint8(128))]
        return b.op("QLinearMatMul", x, *left, weight, scales, b.constant(np.zeros(32, np.int8)), *result)

    program = check(body(arrays, make), arrays)
    (kernel,) = program.kernels.values()
    assert (kernel.template, kernel.schedule["multiplies"]) == ("matmul", "byte")


def test_a_product_of_dequantized_matrices_is_one_of_bytes() -> None:
    arrays = [np.random.default_rng(0).integers(0, 256, (5, 48)).astype(np.uint8)]

    def make(b: Builder, x: Value) -> Value:
        weight = b.constant(np.random.default_rng(1).integers(-128, 128, (32, 48)).astype(np.int8))
        scales = b.constant(np.abs(normal(32)) / np.float32(100))
        left = b.op("DequantizeLinear", x, b.constant(np.float32(0.01)), b.constant(np.uint8(120)))
        right = b.op("DequantizeLinear", weight, scales, axis=0)
        return b.op("Relu", b.op("Gemm", left, right, b.constant(normal(32)), transB=1))

    program = check(body(arrays, make), arrays)
    (kernel,) = program.kernels.values()
    assert (kernel.template, kernel.schedule["multiplies"]) == ("matmul", "byte")
