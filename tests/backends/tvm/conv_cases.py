"""Convolution regions to lower: a Conv in blocked layouts, with what may follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.backends.base import Kernel
from graphc.ir import ROW_MAJOR, Builder, Dim, Graph, Layout, TensorType, Value, blocked, dtypes
from graphc.ir.symbolic import evaluate
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm import harness

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ConvCase:
    """One convolution.

    Args:
        x: Shape of the input (N, C, H, W); all but C may be open.
        outputs: Output channels.
        kernel: Rows and columns.
        stride: Along both axes.
        pads: Top, left, bottom, right.
        dilation: Along both axes.
        group: Groups.
        bias: Whether it has one.
        residual: Whether another tensor is added to it.
        activation: Operator that follows, or empty.
        halo: Border that the input's layout keeps; None for what `pads` asks for.
        output_halo: Border of the output.
        input_rows: Whether the input is row-major.
        output_rows: Whether the output is.
    """

    x: tuple[Dim, int, Dim, Dim]
    outputs: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: int = 1
    group: int = 1
    bias: bool = True
    residual: bool = False
    activation: str = "Relu"
    halo: int | None = None
    output_halo: int = 0
    input_rows: bool = False
    output_rows: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def y(self) -> tuple[Dim, ...]:
        """Shape of the output."""
        spatial = [
            (extent + begin + end - self.dilation * (taps - 1) - 1) // self.stride + 1
            for extent, begin, end, taps in zip(self.x[2:], self.pads[:2], self.pads[2:], self.kernel, strict=True)
        ]
        return (self.x[0], self.outputs, *spatial)

    def region(
        self, target: Target, seed: int = 0, bindings: Mapping[str, int] | None = None
    ) -> tuple[Graph, list[Array]]:
        """The body and its inputs: small integers, whose sums of products are exact in any order."""
        bound = bindings or {}
        lanes = target.lanes(dtypes.FLOAT32)
        shapes: list[Sequence[Dim]] = [self.x, (self.outputs, self.x[1] // self.group, *self.kernel)]
        if self.bias:
            shapes.append((self.outputs,))
        if self.residual:
            shapes.append(self.y)
        extents = [[evaluate(dim, bound) for dim in shape] for shape in shapes]
        # Weights are the same whatever the size of the image.
        generators = [np.random.default_rng([seed, number]) for number in range(len(shapes))]
        arrays = [r.integers(-4, 5, shape).astype(np.float32) for r, shape in zip(generators, extents, strict=True)]
        types = [TensorType(dtypes.FLOAT32, shape) for shape in map(tuple, shapes)]
        types[0] = types[0].with_layout(self._input_layout(lanes))
        if self.residual:
            types[-1] = types[-1].with_layout(blocked(1, lanes))
        graph = body(types, self._make)
        graph.bounds = {name: (1, None) for kind in types for name in kind.symbols()}
        layout = ROW_MAJOR if self.output_rows else _image(lanes, (self.output_halo,) * 4)
        for node in graph.nodes:
            node.output.type = node.output.tensor_type.with_layout(layout)
        return graph, arrays

    def check(self, lower: Any, target: Target, rtol: float = 2e-5) -> Kernel:
        """Lowers the region with a template's `lower`, runs it, compares it, and answers the kernel."""
        graph, arrays = self.region(target)
        return harness.check(graph, arrays, self._lowered(lower), target, rtol=rtol)

    def check_open(self, lower: Any, bindings: Sequence[Mapping[str, int]], target: Target) -> Kernel:
        """As `check`, with one kernel for several values of the open extents."""
        graph, _ = self.region(target, bindings=bindings[0])
        feeds = [(bound, self.region(target, bindings=bound)[1]) for bound in bindings]
        return harness.check_open(graph, feeds, self._lowered(lower), target, rtol=2e-5)

    def _lowered(self, lower: Any) -> harness.Lower:
        constants = frozenset({1, 2} if self.bias else {1})

        def chosen(body: Graph, on: Target) -> Kernel:
            kernel: Kernel = lower(body, on, constants, self.options)
            return kernel

        return chosen

    def _input_layout(self, lanes: int) -> Layout:
        if self.input_rows:
            return ROW_MAJOR
        return _image(lanes, self.pads if self.halo is None else (self.halo,) * 4)

    def _make(self, builder: Builder, x: Value, w: Value, *rest: Value) -> Value:
        parameters = [x, w, *rest[: int(self.bias)]]
        value = builder.op(
            "Conv",
            *parameters,
            kernel_shape=list(self.kernel),
            strides=[self.stride] * 2,
            pads=list(self.pads),
            dilations=[self.dilation] * 2,
            group=self.group,
        )
        if self.residual:
            value = builder.op("Add", value, rest[-1])
        return builder.op(self.activation, value) if self.activation else value


def _image(lanes: int, border: Sequence[int]) -> Layout:
    top, left, bottom, right = border
    return blocked(1, lanes, halo=((0, 0), (0, 0), (top, bottom), (left, right)), fill=0.0)
