"""Kernels for any extent: one kernel at many bindings, tails and ones among them, between guards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from graphc.backends.base import Kernel
from graphc.backends.regions import symbols_of
from graphc.backends.tvm import attention, batch_matmul, gemm, generic, rows, scan
from graphc.backends.tvm.flat import flattened
from graphc.errors import BackendError
from graphc.ir import Builder, Dim, Graph, TensorType, Value, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import evaluate, multiply, symbol
from graphc.ops.inference import infer_graph
from graphc.target import Target
from tests.backends.tvm.harness import TARGETS, Array, check_open

Make = Callable[..., "Value | Sequence[Value]"]
B, S = symbol("batch"), symbol("seq")
BINDINGS = [(1, 1), (1, 2), (2, 1), (3, 5), (1, 15), (1, 16), (2, 17), (1, 33), (1, 63), (2, 64), (1, 130), (5, 29)]


def over(shapes: Sequence[Sequence[Dim]], make: Make, dtype: Sequence[DType] | DType = dtypes.FLOAT32) -> Graph:
    """A body over `batch` and `seq`, which are at least 1."""
    graph = Graph("body", opset=23)
    graph.bounds = {"batch": (1, None), "seq": (1, 4000)}
    kinds = [dtype] * len(shapes) if isinstance(dtype, DType) else dtype
    pairs = zip(shapes, kinds, strict=True)
    values = [graph.add_input(f"x{i}", TensorType(kind, tuple(shape))) for i, (shape, kind) in enumerate(pairs)]
    made = make(Builder(graph), *values)
    graph.outputs = [made] if isinstance(made, Value) else list(made)
    infer_graph(graph)
    return graph


def feeds(
    graph: Graph, bindings: Sequence[tuple[int, int]] = BINDINGS, high: int = 100
) -> list[tuple[dict[str, int], list[Array]]]:
    """Inputs of a body at each binding; the same constants at all of them."""
    rng = np.random.default_rng(0)

    def draw(kind: TensorType, bound: dict[str, int]) -> Array:
        shape = [evaluate(extent, bound) for extent in kind.dims]
        if kind.dtype.kind == "bool":
            return rng.random(shape) < 0.7
        if not kind.dtype.is_float:
            return rng.integers(0, high, shape).astype(kind.dtype.numpy)
        return rng.standard_normal(shape).astype(kind.dtype.numpy)

    fixed = [draw(v.tensor_type, {}) if v.tensor_type.is_static else None for v in graph.inputs]
    found = []
    for batch, seq in bindings:
        bound = {"batch": batch, "seq": seq}
        arrays = [
            draw(v.tensor_type, bound) if one is None else one for v, one in zip(graph.inputs, fixed, strict=True)
        ]
        found.append((bound, arrays))
    return found


def gemm_of(constants: frozenset[int]) -> Callable[[Graph, Target], Kernel]:
    return lambda graph, target: gemm.lower(graph, target, constants, {})


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(("depth", "columns"), [(19, 40), (64, 17), (7, 1)])
def test_products_of_any_number_of_rows(target: Target, depth: int, columns: int) -> None:
    def make(b: Builder, x: Value, w: Value, bias: Value, other: Value) -> Value:
        return b.op("Gelu", b.op("Add", b.op("Add", b.op("MatMul", x, w), bias), other))

    graph = over([(B, S, depth), (depth, columns), (columns,), (B, S, columns)], make)
    flat = flattened(graph)
    assert [value.tensor_type.dims for value in flat.outputs] == [(multiply(B, S), columns)]
    lower = gemm_of(frozenset({1}))
    # Kernels see pointers: what is computed on one axis is checked on both.
    kernel = check_open(graph, feeds(graph), lambda body, machine: lower(flattened(body), machine), target)
    assert symbols_of(graph) == ("batch", "seq")
    assert [str(dim) for dim in kernel.dims] == ["batch", "seq"]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_products_of_rows_that_are_not_one_axis(target: Target) -> None:
    def make(b: Builder, x: Value, w: Value) -> Value:
        return b.op("MatMul", b.op("Transpose", x, perm=(1, 0, 2)), w)

    graph = over([(S, B, 24), (24, 33)], make)
    assert flattened(graph) is graph
    check_open(graph, feeds(graph), gemm_of(frozenset({1})), target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("dtype", [dtypes.FLOAT16, dtypes.BFLOAT16], ids=str)
def test_products_of_half_floats(target: Target, dtype: DType) -> None:
    graph = over([(S, 20), (20, 35)], lambda b, x, w: b.op("MatMul", x, w), dtype)
    check_open(graph, feeds(graph, BINDINGS[:8]), gemm_of(frozenset({1})), target, rtol=1e-2)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_products_of_two_activations(target: Target) -> None:
    # An open batch and rows; and an open inner axis, along which the right operand is read where it lies.
    for shapes in ([(B, 3, S, 16), (B, 3, 16, 24)], [(B, 3, 5, S), (B, 3, S, 24)]):
        graph = over(shapes, lambda b, x, y: b.op("MatMul", x, y))
        check_open(graph, feeds(graph), lambda g, t: batch_matmul.lower(g, t, frozenset(), {}), target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("dtype", [dtypes.FLOAT32, dtypes.FLOAT16], ids=str)
def test_products_with_open_columns(target: Target, dtype: DType) -> None:
    # Read in place, packed from rows, and packed from columns as keys are; with what follows the scores.
    cases: list[tuple[Sequence[Dim], tuple[int, ...]]] = [((B, 2, 16, S), (0, 1, 2, 3)), ((B, 2, S, 20), (0, 1, 3, 2))]
    for shape, perm in cases:
        rows = shape[perm[-2]]

        def make(b: Builder, x: Value, y: Value, mask: Value, order: tuple[int, ...] = perm) -> Value:
            moved = y if order == (0, 1, 2, 3) else b.op("Transpose", y, perm=order)
            return b.op("Add", b.op("MatMul", x, moved), mask)

        graph = over([(B, 2, S, rows), shape, (B, 1, 1, S)], make, dtype)
        tolerance = 1e-5 if dtype == dtypes.FLOAT32 else 1e-2
        check_open(graph, feeds(graph), lambda g, t: batch_matmul.lower(g, t, frozenset(), {}), target, rtol=tolerance)


def test_open_inner_axes_of_columns_are_refused_with_the_reason() -> None:
    graph = over([(B, 4, S), (B, 7, S)], lambda b, x, y: b.op("MatMul", x, b.op("Transpose", y, perm=(0, 2, 1))))
    with pytest.raises(BackendError, match="the extent seq, which is not bound"):
        batch_matmul.lower(graph, TARGETS[0], frozenset(), {})


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("width", [12, 40, 129])
def test_normalizations_of_any_number_of_rows(target: Target, width: int) -> None:
    def make(b: Builder, x: Value, y: Value, scale: Value, bias: Value) -> Value:
        return b.op("LayerNormalization", b.op("Add", x, y), scale, bias, axis=-1)

    graph = over([(B, S, width), (1, S, width), (width,), (width,)], make)
    check_open(graph, feeds(graph), lambda g, t: rows.lower(g, t, frozenset(), {}), target, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_rows_of_any_length(target: Target) -> None:
    def make(b: Builder, x: Value, mask: Value) -> Value:
        return b.op("Softmax", b.op("Where", mask, x, b.constant(np.float32(-3e38))), axis=-1)

    graph = over([(B, 3, S), (B, 1, S)], make, [dtypes.FLOAT32, dtypes.BOOL])
    cases = feeds(graph, [*BINDINGS, (1, 300), (2, 128)])
    check_open(graph, cases, lambda g, t: rows.lower(g, t, frozenset(), {}), target, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("packed", [False, True], ids=["heads", "packed"])
def test_attention_over_any_number_of_positions(target: Target, causal: int, packed: bool) -> None:
    heads, size = 3, 24

    def make(b: Builder, q: Value, k: Value, v: Value, mask: Value) -> Value:
        if packed:
            return b.op("Attention", q, k, v, mask, q_num_heads=heads, kv_num_heads=heads, is_causal=causal)
        return b.op("Attention", q, k, v, mask, is_causal=causal)

    shape: tuple[Dim, ...] = (B, S, heads * size) if packed else (B, heads, S, size)
    graph = over([shape, shape, shape, (B, 1, S, S)], make)
    cases = feeds(graph)
    check_open(graph, cases, lambda g, t: attention.lower(g, t, frozenset(), {}), target, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_attention_of_open_queries_to_open_keys_in_place(target: Target) -> None:
    def make(b: Builder, q: Value, k: Value, v: Value) -> Value:
        return b.op("Attention", q, b.op("Transpose", k, perm=(0, 1, 3, 2)), v)

    # Keys come transposed, and there are as many as batches: another symbol than the queries'.
    graph = over([(1, 2, S, 16), (1, 2, 16, B), (1, 2, B, 16)], make)
    check_open(graph, feeds(graph), lambda g, t: attention.lower(g, t, frozenset(), {}), target, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_sums_of_any_length(target: Target, reverse: int) -> None:
    cases: list[tuple[Sequence[Dim], int]] = [((B, S), 1), ((B, S, 5), 1), ((S, 3), 0)]
    for shape, axis in cases:

        def make(b: Builder, x: Value, over: int = axis) -> Value:
            return b.op("CumSum", x, b.constant(np.array(over)), reverse=reverse, exclusive=reverse)

        graph = over((shape,), make, dtypes.INT64)
        check_open(graph, feeds(graph), lambda g, t: scan.lower(g, t, frozenset(), {}), target)


POINTWISE: dict[str, tuple[list[tuple[Dim, ...]], list[DType], Make]] = {
    "innermost": ([(B, S), (S,)], [dtypes.FLOAT32] * 2, lambda b, x, y: b.op("Exp", b.op("Sub", x, y))),
    "outer": ([(S, 9), (9,)], [dtypes.FLOAT32] * 2, lambda b, x, y: b.op("Mul", x, y)),
    "bytes": ([(B, S)], [dtypes.INT64], lambda b, x: b.op("Cast", x, to=dtypes.BOOL.onnx)),
    "halves": ([(B, S), (B, 1)], [dtypes.FLOAT16] * 2, lambda b, x, y: b.op("Add", x, y)),
    "transposed": ([(B, S, 6)], [dtypes.FLOAT32], lambda b, x: b.op("Transpose", x, perm=(2, 1, 0))),
    "split": (
        [(B, S, 12)],
        [dtypes.FLOAT32],
        lambda b, x: b.op("Transpose", b.op("Reshape", x, b.constant(np.array([0, 0, 3, 4]))), perm=(0, 2, 1, 3)),
    ),
    "sum": ([(B, S, 10)], [dtypes.FLOAT32], lambda b, x: b.op("ReduceSum", x, b.constant(np.array([1])), keepdims=0)),
    "row": ([(B, S)], [dtypes.FLOAT32], lambda b, x: b.op("Softmax", x, axis=-1)),
    "best": ([(B, S)], [dtypes.FLOAT32], lambda b, x: b.op("ArgMax", x, axis=1, keepdims=0)),
    "table": ([(50, 12), (B, S)], [dtypes.FLOAT32, dtypes.INT64], lambda b, t, i: b.op("Gather", t, i, axis=0)),
    "joined": ([(B, S), (B, 3)], [dtypes.FLOAT32] * 2, lambda b, x, y: b.op("Concat", x, y, axis=1)),
    "extents": ([(B, S, 4)], [dtypes.FLOAT32], lambda b, x: b.op("Shape", x)),
    "two": ([(B, S)], [dtypes.FLOAT32], lambda b, x: [b.op("Neg", x), b.op("Relu", x)]),
}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", POINTWISE)
def test_nests_of_any_extents(name: str, target: Target) -> None:
    shapes, kinds, make = POINTWISE[name]
    graph = over(shapes, make, kinds)
    check_open(graph, feeds(graph, high=50), generic.lower, target, rtol=1e-3 if name == "halves" else 1e-5)
