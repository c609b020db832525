"""Convolution regions to lower for GPUs: a Conv or ConvInteger, with what may follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.ir import ROW_MAJOR, Builder, Graph, TensorType, Value, channels_last, dtypes
from graphc.ir.dtypes import DType
from graphc.ops import infer_graph

Array = np.ndarray[Any, Any]

WEIGHTS = frozenset({1})
"""The number of the weights among the body's inputs."""

_RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One convolution.

    Args:
        x: Shape of the input (N, C, spatial...).
        outputs: Output channels.
        kernel: Taps along each spatial axis.
        stride: Along all axes.
        pads: Before and after each spatial axis, as ONNX has them.
        dilation: Along all axes.
        group: Groups.
        dtype: Of input and weights.
        weights: Of the weights, if another.
        bias: Whether it has one.
        residual: Whether another tensor is added to it.
        last: Whether input, residual and output are stored with their channels last.
        zero: Zero point of an input of integers, or None.
        zeros: Whether weights of integers have zero points of their own.
    """

    x: tuple[int, ...]
    outputs: int
    kernel: tuple[int, ...] = (3, 3)
    stride: int = 1
    pads: tuple[int, ...] = (1, 1, 1, 1)
    dilation: int = 1
    group: int = 1
    dtype: DType = dtypes.FLOAT16
    weights: DType | None = None
    bias: bool = True
    residual: bool = False
    last: tuple[bool, bool, bool] = (True, True, True)
    zero: int | None = None
    zeros: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> Graph:
        """The body."""
        return self.build(None)[0]

    def build(self, rng: np.random.Generator | None = _RNG) -> tuple[Graph, list[Array]]:
        """The body, and arrays for its inputs, which are zeros without a generator."""
        shape = (self.outputs, self.x[1] // self.group, *self.kernel)
        kinds = [(self.dtype, self.x), (self.weights or self.dtype, shape)]
        arrays = [_random(rng, dtype, shape) for dtype, shape in kinds]
        graph = Graph("conv", opset=23)
        b = Builder(graph)
        x, w = (graph.add_input(f"x{i}", TensorType(dtype, shape)) for i, (dtype, shape) in enumerate(kinds))
        rank = len(self.kernel)
        facts = {
            "kernel_shape": self.kernel,
            "strides": (self.stride,) * rank,
            "pads": self.pads,
            "dilations": (self.dilation,) * rank,
            "group": self.group,
        }

        def extra(array: Array) -> Value:
            arrays.append(array)
            return graph.add_input(f"x{len(arrays) - 1}", TensorType(dtypes.from_numpy(array.dtype), array.shape))

        if self.dtype.is_integer:
            points = []
            if self.zero is not None or self.zeros:
                points.append(extra(np.array(self.zero or 0, self.dtype.numpy)))
            if self.zeros:
                points.append(extra(np.arange(self.outputs).astype(kinds[1][0].numpy)))
            result = b.op("Cast", b.op("ConvInteger", x, w, *points, **facts), to=dtypes.FLOAT32.onnx)
        else:
            bias = [extra(_random(rng, self.dtype, (self.outputs,)))] if self.bias else []
            result = b.op("Conv", x, w, *bias, **facts)
        infer_graph(graph)
        if self.residual:
            kind = result.tensor_type
            result = b.op("Add", result, extra(_random(rng, kind.dtype, kind.static_shape)))
        graph.outputs = [b.op("Relu", result)]
        infer_graph(graph)
        self._store(graph, len(arrays) - 1 if self.residual else None)
        return graph, arrays

    def _store(self, graph: Graph, residual: int | None) -> None:
        layout = channels_last(len(self.x))
        stored = [(graph.inputs[0], self.last[0])]
        stored += [] if residual is None else [(graph.inputs[residual], self.last[1])]
        stored += [(node.output, self.last[2]) for node in graph.nodes]
        for value, last in stored:
            value.type = value.tensor_type.with_layout(layout if last else ROW_MAJOR)


def _random(rng: np.random.Generator | None, dtype: DType, shape: Sequence[int]) -> Array:
    if rng is None:
        return np.broadcast_to(np.zeros((), dtype.numpy), tuple(shape))
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(dtype.numpy)
