"""Convolutions that mix the channels of each pixel, as products of matrices of the same storage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.conv_product import as_product
from graphc.errors import BackendError
from graphc.ir import ROW_MAJOR, Builder, Graph, TensorType, channels_last, dtypes
from graphc.ops import evaluate_graph, infer_graph


def _body(shape: tuple[int, ...], outputs: int, *, last: bool = True, **attributes: Any) -> Graph:
    """A convolution, scaled by channel, with a residual, clipped."""
    rank = len(shape)
    ones = (1,) * (rank - 2)
    kernel = attributes.pop("kernel", ones)
    graph = Graph("g", opset=23)
    b = Builder(graph)
    kinds = [shape, (outputs, shape[1], *kernel), (outputs,), (outputs, *ones), (shape[0], outputs, *shape[2:])]
    x, w, bias, scale, residual = (
        graph.add_input(f"x{i}", TensorType(dtypes.FLOAT32, dims)) for i, dims in enumerate(kinds)
    )
    result = b.op("Mul", b.op("Conv", x, w, bias, kernel_shape=kernel, **attributes), scale)
    bounds = [b.constant(np.float32(bound)) for bound in (-1, 1)]
    graph.outputs = [b.op("Clip", b.op("Add", result, residual), *bounds)]
    infer_graph(graph)
    layout = channels_last(rank) if last else ROW_MAJOR
    for value in (x, residual, *(n.output for n in graph.nodes if not n.is_op("Constant"))):
        value.type = value.tensor_type.with_layout(layout)
    return graph


@settings(max_examples=25, deadline=None)
@given(
    extents=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    batch=st.integers(1, 2),
    channels=st.integers(1, 5),
    outputs=st.integers(2, 5),
)
def test_a_product_of_the_same_storage(extents: list[int], batch: int, channels: int, outputs: int) -> None:
    graph = _body((batch, channels, *extents), outputs)
    rng = np.random.default_rng(0)
    arrays: list[Any] = [rng.standard_normal(v.tensor_type.static_shape).astype(np.float32) for v in graph.inputs]
    (wanted,) = evaluate_graph(graph, arrays)
    body, weights = as_product(graph)
    assert weights == 1 and [node.op_type for node in body.nodes].count("Gemm") == 1
    stored = [
        np.ascontiguousarray(outer.tensor_type.layout.pack(array)).reshape(inner.tensor_type.static_shape)
        for outer, inner, array in zip(graph.inputs, body.inputs, arrays, strict=True)
    ]
    (found,) = evaluate_graph(body, stored)
    shape = np.asarray(wanted).shape
    logical = channels_last(len(shape)).unpack(np.asarray(found).reshape(shape[0], *shape[2:], shape[1]), shape)
    np.testing.assert_allclose(logical, wanted, rtol=1e-5, atol=1e-5)


def test_what_is_no_product_is_refused() -> None:
    def refusal(graph: Graph) -> str:
        with pytest.raises(BackendError) as caught:
            as_product(graph)
        return str(caught.value)

    assert "neighbours" in refusal(_body((1, 4, 6, 6), 4, kernel=(3, 3), pads=[1, 1, 1, 1]))
    assert "neighbours" in refusal(_body((1, 4, 1, 1), 4, strides=[2, 2]))
    assert "no rows of a matrix" in refusal(_body((1, 4, 6, 6), 4, last=False))
