"""Matmul with packed weights: against NumPy, at sizes that leave tails, with every kind of epilogue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import gemm
from graphc.backends.tvm.gemm_tiles import Tile, choose_tile, fitting, streams, sweep_cost
from graphc.errors import BackendError
from graphc.ir import Builder, DType, Graph, TensorType, Value, blocked, dtypes
from graphc.target import Target, parse_target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, Array, check

Shape = tuple[int, ...]
NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Every attempt compiles a kernel."""
every_target = pytest.mark.parametrize("target", TARGETS, ids=str)


def lower(*constants: int, **options: Any) -> Any:
    return lambda graph, target: gemm.lower(graph, target, frozenset(constants), options)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def gelu(b: Builder, x: Value) -> Value:
    half = b.op("Mul", x, b.constant(np.float32(0.5)))
    inner = b.op("Erf", b.op("Mul", x, b.constant(np.float32(0.5**0.5))))
    return b.op("Mul", half, b.op("Add", inner, b.constant(np.float32(1))))


EPILOGUES: dict[str, Any] = {
    "none": lambda b, x, rest: x,
    "bias": lambda b, x, rest: b.op("Add", x, rest),
    "bias relu": lambda b, x, rest: b.op("Relu", b.op("Add", rest, x)),
    "gelu": lambda b, x, rest: gelu(b, b.op("Add", x, rest)),
    "two outputs": lambda b, x, rest: [b.op("Relu", x), b.op("Mul", x, rest)],
    "to int": lambda b, x, rest: b.op("Cast", b.op("Mul", x, rest), to=6),
}


@every_target
@settings(max_examples=12, phases=NO_SHRINKING)
@given(st.data())
def test_matmul_of_any_size_with_any_epilogue(target: Target, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 40), "rows")
    columns = data.draw(st.integers(1, 130), "columns")
    depth = data.draw(st.integers(1, 40), "depth")
    batch = data.draw(st.sampled_from([(), (1,), (2,), (2, 3)]), "batch")
    name = data.draw(st.sampled_from(sorted(EPILOGUES)), "epilogue")
    extra = data.draw(st.sampled_from([(columns,), (rows, columns), (rows, 1), (*batch, rows, columns)]), "extra")
    arrays = [normal(*batch, rows, depth), normal(depth, columns), normal(*extra)]
    if name == "to int":
        arrays = [np.round(a * 4) for a in arrays]
    graph = body(arrays, lambda b, x, w, rest: EPILOGUES[name](b, b.op("MatMul", x, w), rest))
    check(graph, arrays, lower(1), target)


@every_target
@settings(max_examples=8, phases=NO_SHRINKING)
@given(st.data())
def test_gemm_with_any_attributes(target: Target, data: st.DataObject) -> None:
    rows, columns, depth = (data.draw(st.integers(1, 20), name) for name in ("rows", "columns", "depth"))
    turn_a, turn_b = data.draw(st.booleans(), "transA"), data.draw(st.booleans(), "transB")
    alpha, beta = data.draw(st.sampled_from([(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)]), "scales")
    addend = data.draw(st.sampled_from([None, (columns,), (rows, 1), (1, columns), (rows, columns), (1,)]), "C")
    arrays = [
        normal(*((depth, rows) if turn_a else (rows, depth))),
        normal(*((columns, depth) if turn_b else (depth, columns))),
    ]
    arrays += [normal(*addend)] if addend else []

    def make(b: Builder, *values: Value) -> Value:
        attributes = {"transA": int(turn_a), "transB": int(turn_b), "alpha": alpha, "beta": beta}
        return b.op("Relu", b.op("Gemm", *values, **attributes))

    check(body(arrays, make), arrays, lower(1), target)


@every_target
@pytest.mark.parametrize(
    ("rows", "columns", "depth"), [(128, 384, 96), (1, 64, 64), (197, 80, 33), (65, 1000, 40), (4, 512, 300)]
)
def test_products_that_threads_share(rows: int, columns: int, depth: int, target: Target) -> None:
    arrays = [normal(rows, depth), normal(depth, columns), normal(columns)]
    graph = body(arrays, lambda b, x, w, c: b.op("Add", b.op("MatMul", x, w), c))
    check(graph, arrays, lower(1), target)


@pytest.mark.parametrize(("rows", "depth", "shared"), [(1, 128, True), (1, 64, False), (2, 64, False), (8, 64, True)])
def test_few_rows_are_shared_for_the_weights_that_they_read(rows: int, depth: int, shared: bool) -> None:
    assert gemm.choose_schedule(HOST, dtypes.FLOAT32, rows, 512, depth).parallel is shared


def test_rows_are_split_where_the_left_operand_leaves_l2() -> None:
    schedule = gemm.choose_schedule(HOST, dtypes.FLOAT32, 4096, 256, 1024)
    assert schedule.blocks.blocks * HOST.l2_bytes >= 4096 * 1024 * 4
    assert schedule.parallel


@every_target
def test_a_block_of_rows_that_is_not_whole(target: Target) -> None:
    arrays = [normal(50, 2048), normal(2048, 40)]
    graph = body(arrays, lambda b, x, w: b.op("MatMul", x, w))
    schedule = gemm.choose_schedule(target, dtypes.FLOAT32, 50, 40, 2048)
    assert schedule.blocks.blocks > 1
    check(graph, arrays, lower(1), target)


@every_target
def test_the_left_operand_is_read_through_movement(target: Target) -> None:
    arrays = [normal(2, 5, 3, 8), normal(24, 20)]

    def merged(b: Builder, x: Value, w: Value) -> Value:
        return b.op("MatMul", b.op("Reshape", x, b.constant(np.array([2, 5, 24]))), w)

    check(body(arrays, merged), arrays, lower(1), target)
    turned = [normal(2, 8, 5), normal(8, 20)]
    check(
        body(turned, lambda b, x, w: b.op("MatMul", b.op("Transpose", x, perm=[0, 2, 1]), w)), turned, lower(1), target
    )


@every_target
def test_a_vector_times_a_matrix(target: Target) -> None:
    arrays = [normal(30), normal(30, 20)]
    check(body(arrays, lambda b, x, w: b.op("MatMul", x, w)), arrays, lower(1), target)


@every_target
def test_a_residual_in_another_layout(target: Target) -> None:
    layout = blocked(1, target.lanes(dtypes.FLOAT32))
    arrays = [normal(6, 10), normal(10, 21), normal(6, 21)]
    types = [TensorType(dtypes.FLOAT32, a.shape) for a in arrays]
    types[2] = types[2].with_layout(layout)
    graph = body(types, lambda b, x, w, rest: b.op("Add", b.op("MatMul", x, w), rest))
    check(graph, arrays, lower(1), target)


@pytest.mark.parametrize("target", [HOST, *TARGETS[1:], ARM, parse_target("cpu:x86-64-v2")], ids=str)
def test_tiles_fit_the_registers_and_none_is_better(target: Target) -> None:
    for rows, vectors in ((128, 24), (1, 4), (197, 5), (4, 100)):
        chosen = choose_tile(target, rows, vectors)
        assert chosen.rows * chosen.vectors * chosen.ways + chosen.vectors + 1 <= target.vector_registers
        assert chosen.rows <= rows
        cost = sweep_cost(chosen, rows, vectors)
        assert all(cost <= sweep_cost(tile, rows, vectors) for tile in fitting(target, rows, vectors))


def test_rows_that_share_sets_of_the_cache_are_few() -> None:
    target = parse_target("cpu:znver4")
    assert streams(target, 4096) == 7
    assert streams(target, 3 * 4096) == 7
    assert streams(target, 2048) == 14
    assert streams(target, 3072) == 28
    assert choose_tile(target, 128, 48, 4 * 3072).rows <= 7 < choose_tile(target, 128, 48, 4 * 3000).rows


def test_the_option_overrides_the_tile() -> None:
    arrays = [normal(9, 8), normal(8, 40)]
    graph = body(arrays, lambda b, x, w: b.op("MatMul", x, w))
    kernel = check(graph, arrays, lower(1, tile=(2, 1)))
    assert kernel.schedule["tile"].startswith(f"2x{HOST.lanes(dtypes.FLOAT32)}")
    assert kernel.key != gemm.lower(graph, HOST, frozenset([1]), {}).key


def test_an_arm_object_compiles() -> None:
    arrays = [normal(20, 16), normal(16, 24), normal(24)]
    graph = body(arrays, lambda b, x, w, c: b.op("Relu", b.op("Add", b.op("MatMul", x, w), c)))
    code = gemm.lower(graph, ARM, frozenset([1]), {}).compile()
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == 183, "EM_AARCH64"


def refusal(graph: Graph, *constants: int) -> str:
    with pytest.raises(BackendError) as caught:
        gemm.lower(graph, HOST, frozenset(constants), {})
    return caught.value.message


def test_refusals_say_why() -> None:
    plain = body([normal(4, 5), normal(5, 6)], lambda b, x, w: b.op("MatMul", x, w))
    assert "not a constant" in refusal(plain)
    batched = body([normal(3, 4, 5), normal(3, 5, 6)], lambda b, x, w: b.op("MatMul", x, w))
    assert "every batch" in refusal(batched, 1)
    whole = body([np.ones((4, 5), np.int32), np.ones((5, 6), np.int32)], lambda b, x, w: b.op("MatMul", x, w))
    assert "int32" in refusal(whole, 1)
    empty = body([normal(0, 5), normal(5, 6)], lambda b, x, w: b.op("MatMul", x, w))
    assert "zero" in refusal(empty, 1)
    none = body([normal(4, 5)], lambda b, x: b.op("Relu", x))
    assert "0 of Gemm, MatMul" in refusal(none)
    computed = body([normal(4, 5), normal(5, 6)], lambda b, x, w: b.op("MatMul", b.op("Relu", x), w))
    assert "computed inside" in refusal(computed, 1)
    again = body([normal(5, 5), normal(5, 5)], lambda b, x, w: b.op("Add", b.op("MatMul", x, w), w))
    assert "read again" in refusal(again, 1)
    both = body([normal(5, 5)], lambda b, w: b.op("MatMul", w, w))
    assert "one constant" in refusal(both, 0)


def test_equal_kernels_have_equal_keys_and_bytes() -> None:
    def kernel(prefix: str) -> Kernel:
        graph = Graph(prefix, opset=23)
        x = graph.add_input(prefix + "x", TensorType(dtypes.FLOAT32, (8, 16)))
        w = graph.add_input(prefix + "w", TensorType(dtypes.FLOAT32, (16, 16)))
        out = Builder(graph).op("MatMul", x, w, types=[TensorType(dtypes.FLOAT32, (8, 16))])
        graph.outputs = [out]
        return gemm.lower(graph, HOST, frozenset([1]), {})

    one, two = kernel("a"), kernel("b")
    assert one.key == two.key
    assert one.compile() == two.compile()
    assert one.flops == 2 * 8 * 16 * 16
    assert str(one.operands[1].packing).startswith("gemm_panels(width=")


def test_packing_pads_the_last_panel_with_zeros() -> None:
    matrix = normal(3, 21)
    packed = gemm.pack_panels(matrix, 8, 4)
    assert packed.size == 3 * (16 + 8)
    np.testing.assert_array_equal(packed[:24].reshape(3, 8), matrix[:, :8])
    tail = packed[48:].reshape(3, 8)
    np.testing.assert_array_equal(tail[:, :5], matrix[:, 16:])
    assert not tail[:, 5:].any()
    assert Tile(8, 3) < Tile(9, 1)


NUMBERS = {dtypes.FLOAT64: 1e-14, dtypes.FLOAT16: 1e-3, dtypes.BFLOAT16: 8e-3, dtypes.FLOAT8E5M2: 0.25}
"""Element types besides float32, and how far from the sum in float64 a rounded result may be."""


@every_target
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 33, 70), (37, 50, 19), (130, 160, 64)])
def test_other_floats(rows: int, columns: int, depth: int, dtype: DType, target: Target) -> None:
    """Narrow floats are summed in float32 and rounded once; float64 stays itself."""
    arrays = [a.astype(dtype.numpy) for a in (normal(rows, depth), normal(depth, columns), normal(columns))]
    attributes = {"alpha": 0.37, "beta": -1.5}
    graph = body(arrays, lambda b, x, w, c: b.op("Relu", b.op("Gemm", x, w, c, **attributes)))
    kernel = check(graph, arrays, lower(1), target, rtol=NUMBERS[dtype])
    (weights,) = [operand for operand in kernel.operands if operand.packing is not None]
    lanes = target.lanes(dtypes.FLOAT64 if dtype == dtypes.FLOAT64 else dtypes.FLOAT32)
    assert weights.size == -(-columns // lanes) * lanes * depth * dtype.itemsize, "weights stay as narrow as they are"


@every_target
def test_a_turned_left_operand_of_half_width(target: Target) -> None:
    arrays = [normal(2, 30, 19).astype(np.float16), normal(30, 24).astype(np.float16)]
    graph = body(arrays, lambda b, x, w: b.op("MatMul", b.op("Transpose", x, perm=[0, 2, 1]), w))
    check(graph, arrays, lower(1), target, rtol=1e-3)
