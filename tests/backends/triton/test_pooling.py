"""Pools of images on GPUs, in either order of storage, against NumPy, interpreted."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.triton import templates
from graphc.ir import ROW_MAJOR, Builder, Graph, TensorType, channels_last, dtypes
from graphc.ir.dtypes import DType
from graphc.ops import infer_graph
from graphc.testing.triton.kernels import check_kernel

OPERATORS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool")


@settings(max_examples=25, deadline=None)
@given(
    operator=st.sampled_from(OPERATORS),
    dtype=st.sampled_from([dtypes.FLOAT16, dtypes.FLOAT32]),
    shape=st.tuples(st.integers(1, 2), st.sampled_from([3, 8, 40]), st.integers(3, 6), st.integers(3, 6)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    pads=st.booleans(),
    last=st.tuples(st.booleans(), st.booleans()),
)
def test_pools(
    operator: str,
    dtype: DType,
    shape: tuple[int, ...],
    kernel: tuple[int, int],
    stride: int,
    pads: bool,
    last: tuple[bool, bool],
) -> None:
    graph = Graph("pool", [("x", TensorType(dtype, shape))], opset=23)
    facts = {}
    if not operator.startswith("Global"):
        facts = {"kernel_shape": kernel, "strides": [stride] * 2}
        facts["pads"] = [extent // 2 for extent in kernel] * 2 if pads else [0] * 4
    result = Builder(graph).op(operator, graph.inputs[0], **facts)
    graph.outputs = [result]
    infer_graph(graph)
    for value, is_last in zip((graph.inputs[0], result), last, strict=True):
        value.type = value.tensor_type.with_layout(channels_last(4) if is_last else ROW_MAJOR)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype.numpy)
    check_kernel(graph, [x], lambda body, target: templates.lower(body, target, frozenset(), {}))
