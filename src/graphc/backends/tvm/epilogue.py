"""What a region does with its anchor's result before it is stored: bias, residual, activation, scale.

A template computes vectors of the anchor's output (a matmul's, a convolution's) in registers and hands each to
`Epilogue.store`, with the logical index of its lanes; the rest of the region is rendered around it and every output of
the region is written in its own layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.backends.regions import Expander
from graphc.backends.tvm.render import Renderer
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.stores import fill_halo, steps_of, store
from graphc.backends.tvm.tir import Expr, KernelBuilder
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node
from graphc.ops.expr import Index, Scalar, axes_of


class Epilogue:
    """Renders everything between an anchor's first output and the region's outputs.

    Args:
        builder: The kernel under construction.
        body: The region's body; every output has the shape of the anchor's output.
        anchor: The node whose result the template computes.
        inputs: Pointer argument of each body input that the epilogue reads (others may be left out).
        outputs: Pointer argument of each body output.

    Raises:
        BackendError: An output's shape differs from the anchor's.
    """

    def __init__(
        self, builder: KernelBuilder, body: Graph, anchor: Node, inputs: Mapping[int, int], outputs: Sequence[int]
    ) -> None:
        self.builder = builder
        self.body = body
        self._outputs = tuple(outputs)
        shape = anchor.output.tensor_type.dims
        for value in body.outputs:
            if value.tensor_type.dims != shape:
                raise BackendError(f"epilogue changes the shape {shape} of {anchor.op} to {value.tensor_type.dims}")
        number = len(body.inputs)
        expander = Expander(body, {anchor.output: number})
        self._axes = axes_of(shape)
        index = [axis.index for axis in self._axes]
        self._elements = [expander.element(value, index) for value in body.outputs]
        self._value: Expr = None
        types = [*(value.tensor_type for value in body.inputs), anchor.output.tensor_type]
        # Once for all stores: where extents are open these are products that take time.
        self._steps = [
            [builder.bind_index(step, 1, None, "step") for step in steps_of(value.tensor_type)]
            for value in body.outputs
        ]
        self._renderer = Renderer(builder, types, inputs, {number: self._result})

    def _result(self, indices: Sequence[Index]) -> Expr:
        """The vector at hand: an epilogue reads the anchor's result only where it writes."""
        assert not any(isinstance(i, Scalar) for i in indices), "epilogue gathers from its anchor"
        return self._value

    def store(self, value: Expr, index: Sequence[Dim], lane: Lane) -> None:
        """Finishes and writes one vector of the anchor's result.

        Args:
            value: The vector (`lane.lanes` wide), in the anchor's computing type.
            index: Logical index in the anchor's output of all lanes: exactly one entry contains the lane symbol.
            lane: The lane symbol (from `builder.lanes`), the width, and how many lanes are inside.
        """
        self._value = value
        scope = Scope({axis.name: place for axis, place in zip(self._axes, index, strict=True)})
        each = zip(self._elements, self.body.outputs, self._outputs, self._steps, strict=True)
        for element, output, operand, steps in each:
            result = self._renderer.stored(element, lane, scope)
            store(self.builder, result, output.tensor_type, operand, index, lane, steps)

    def finish(self) -> None:
        """Writes the fill of the outputs' halos; call once, after all stores."""
        for output, operand in zip(self.body.outputs, self._outputs, strict=True):
            fill_halo(self.builder, operand, output.tensor_type)
