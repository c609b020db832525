"""Tensor expressions on GPUs: every kind of access, interpreted, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import templates
from graphc.backends.triton.cubin import compilation_of
from graphc.errors import ExecutionError
from graphc.ir import ROW_MAJOR, Builder, Graph, TensorType, Value, channels_last, dtypes
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import Make, body
from tests.backends.expression_cases import CASES, normal


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return templates.lower(graph, target, frozenset(), {})


LONG = frozenset({"long", "softmax down columns"})


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in CASES])
def test_every_kind_of_access(name: str) -> None:
    arrays, make = CASES[name]
    check_kernel(body(arrays, make), arrays, lower)


@pytest.mark.parametrize("bad", [70, -71, 2**40, -(2**62)])
def test_a_bad_index_is_told_and_never_read(bad: int) -> None:
    arrays = [normal(70, 50), np.array([[3, 5], [bad, -70]])]
    graph = body(arrays, lambda b, x, i: b.op("Gather", x, i, axis=0))
    with pytest.raises(ExecutionError, match="refuses its data"):
        check_kernel(graph, arrays, lower)


def test_an_index_of_a_branch_that_is_not_taken_is_not_bad() -> None:
    arrays = [normal(7, 5), np.array([6, 9, -1, 3]), np.array([True, False, True, True])]

    def make(b: Builder, x: Value, i: Value, c: Value) -> Value:
        rows = b.op("Gather", x, b.op("Where", c, i, b.constant(np.array(0))), axis=0)
        return b.op("Neg", rows)

    check_kernel(body(arrays, make), arrays, lower)


@pytest.mark.parametrize("source", [False, True], ids=["row", "pixels"])
@pytest.mark.parametrize("result", [False, True], ids=["row", "pixels"])
@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: b.op("Relu", x),
        lambda b, x: b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        lambda b, x: b.op("GlobalAveragePool", x),
        lambda b, x: b.op("Softmax", x, axis=1),
        lambda b, x: b.op("Concat", x, x, axis=1),
    ],
    ids=["relu", "max pool", "global pool", "softmax", "concat"],
)
def test_pixels_with_their_channels_together(make: Make, source: bool, result: bool) -> None:
    image = normal(2, 20, 5, 6)
    layout = channels_last(4)
    graph = body([TensorType(dtypes.FLOAT32, image.shape, layout if source else ROW_MAJOR)], make)
    (output,) = graph.outputs
    output.type = output.tensor_type.with_layout(layout if result else ROW_MAJOR)
    check_kernel(graph, [image], lower)


SHAPES = st.lists(st.sampled_from([1, 2, 3, 8, 17, 40]), min_size=1, max_size=4).filter(lambda s: math.prod(s) <= 5000)


@given(SHAPES, st.data(), st.sampled_from(["float32", "float16", "uint8"]))
@settings(max_examples=12, deadline=None)
def test_axes_in_any_order_and_operands_of_any_extent(shape: list[int], data: st.DataObject, dtype: str) -> None:
    """Blocks along one axis and along two, with elements left over at every side, and broadcasting."""
    order = data.draw(st.permutations(range(len(shape))))
    turned = [shape[axis] for axis in order]
    other = [extent if data.draw(st.booleans()) else 1 for extent in turned]
    random = np.random.default_rng(len(shape))
    arrays = [random.integers(0, 50, extents).astype(dtype) for extents in (shape, other)]
    check_kernel(body(arrays, lambda b, x, y: b.op("Add", b.op("Transpose", x, perm=list(order)), y)), arrays, lower)


@pytest.mark.parametrize("side", [4, 32])
def test_offsets_beyond_32_bits_along_a_side_of_one_block(side: int) -> None:
    """Of the side itself no place is large, but the offset of its last is."""
    graph = body([TensorType(dtypes.UINT8, (side, (1 << 32) // side))], lambda b, x: b.op("Transpose", x, perm=[1, 0]))
    (launch,) = compilation_of(lower(graph, GPUS["sm_90"])).launches
    text = launch.function.text
    assert f"tl.arange(0, {side}))[None, :]" in text, "one block"
    assert "tl.cast(p1, tl.int64)" in text


def test_operands_are_named_by_their_numbers_and_what_is_not_read_is_left_out() -> None:
    x, y = normal(3, 4), normal(5)
    kernel = lower(body([x, y], lambda b, x, y: b.op("Relu", x)), GPUS["sm_80"])
    (launch,) = compilation_of(kernel).launches
    assert [argument.name for argument in launch.function.arguments] == ["in0", "out0"]
    assert [(operand.kind, operand.index) for operand in kernel.operands] == [("input", 0), ("output", 0)]
    again = lower(body([x, y], lambda b, x, y: b.op("Relu", x)), GPUS["sm_80"])
    assert again.key == kernel.key and compilation_of(again).launches == (launch,)
