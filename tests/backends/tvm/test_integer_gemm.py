"""Products of 8-bit integers in dot-product instructions: against NumPy, bit for bit, whatever the zero points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import integer_gemm
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, Value, dtypes
from graphc.target import Target, parse_target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, Array, check

NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Every attempt compiles a kernel."""
INTEGER_TARGETS = [*TARGETS, parse_target("cpu:x86-64-v4")] if HOST.has_int8_dot else TARGETS
"""Every way of forming products that this machine can run."""
every_target = pytest.mark.parametrize("target", INTEGER_TARGETS, ids=str)
BYTES = st.sampled_from(["int8", "uint8"])


def lower(graph: Graph, target: Target) -> Kernel:
    return integer_gemm.lower(graph, target, frozenset({1}), {})


def whole_range(dtype: str, *shape: int, seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng([seed, *shape]).integers(info.min, info.max, shape, dtype, endpoint=True)


@every_target
@settings(max_examples=20, phases=NO_SHRINKING)
@given(st.data())
def test_products_of_any_size_and_zero_point(target: Target, data: st.DataObject) -> None:
    left, right = data.draw(BYTES, "left"), data.draw(BYTES, "right")
    batch = data.draw(st.sampled_from([(), (2,), (2, 3)]), "batch")
    rows, columns, depth = (data.draw(st.integers(1, n), name) for name, n in (("M", 20), ("N", 70), ("K", 150)))
    arrays = [whole_range(left, *batch, rows, depth), whole_range(right, depth, columns)]
    given_zeros = data.draw(st.sampled_from(["none", "left", "right", "both", "columns", "constant"]), "zero points")
    zero_a: Any = whole_range(left, seed=1)
    zero_b: Any = whole_range(right, columns, seed=2) if given_zeros == "columns" else whole_range(right, seed=2)
    if given_zeros in ("left", "both", "columns"):
        arrays.append(zero_a)
    if given_zeros in ("right", "both", "columns"):
        arrays.append(zero_b)

    def make(b: Builder, x: Value, w: Value, *zeros: Value) -> Value:
        if given_zeros == "constant":
            return b.op("MatMulInteger", x, w, b.constant(zero_a), b.constant(zero_b))
        return b.op("MatMulInteger", x, w, *([None] if given_zeros == "right" else []), *zeros)

    check(body(arrays, make), arrays, lower, target)


@every_target
def test_an_epilogue_that_scales(target: Target) -> None:
    arrays = [whole_range("uint8", 37, 200), whole_range("int8", 200, 90), np.array(7, np.uint8)]
    arrays += [np.random.default_rng(0).random(90).astype(np.float32), np.arange(90).astype(np.float32)]

    def make(b: Builder, x: Value, w: Value, zero: Value, scale: Value, bias: Value) -> Value:
        product = b.op("Cast", b.op("MatMulInteger", x, w, zero), to=dtypes.FLOAT32.onnx)
        return b.op("Relu", b.op("Add", b.op("Mul", product, scale), bias))

    check(body(arrays, make), arrays, lower, target)


@every_target
@pytest.mark.parametrize(("rows", "columns", "depth"), [(128, 384, 96), (1, 500, 640), (65, 130, 1000)])
def test_products_that_threads_share(rows: int, columns: int, depth: int, target: Target) -> None:
    arrays = [whole_range("int8", rows, depth), whole_range("uint8", depth, columns), np.array(-3, np.int8)]
    check(body(arrays, lambda b, x, w, z: b.op("MatMulInteger", x, w, z)), arrays, lower, target)


@every_target
def test_sums_beyond_32_bits_wrap(target: Target) -> None:
    arrays = [np.full((2, 70_000), 255, np.uint8), np.full((70_000, 3), 127, np.int8)]
    check(body(arrays, lambda b, x, w: b.op("MatMulInteger", x, w)), arrays, lower, target)


def test_refusals_say_why() -> None:
    graph = body([whole_range("int8", 4, 5), whole_range("int8", 5, 6)], lambda b, x, w: b.op("MatMulInteger", x, w))
    with pytest.raises(BackendError, match="not a constant"):
        integer_gemm.lower(graph, HOST, frozenset(), {})
    with pytest.raises(BackendError, match="aarch64"):
        integer_gemm.lower(graph, ARM, frozenset({1}), {})
    arrays = [whole_range("int8", 4, 5), whole_range("int8", 5, 6), whole_range("int8", 4)]
    rows = body(arrays, lambda b, x, w, z: b.op("MatMulInteger", x, w, z))
    with pytest.raises(BackendError, match="row to row"):
        lower(rows, HOST)
    batched = body(
        [whole_range("int8", 2, 4, 5), whole_range("int8", 2, 5, 6)], lambda b, x, w: b.op("MatMulInteger", x, w)
    )
    with pytest.raises(BackendError, match="not a matrix"):
        lower(batched, HOST)
