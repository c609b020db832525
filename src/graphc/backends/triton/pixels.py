"""What follows a convolution, over blocks of pixels and channels: bias, residual, activation, stores."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.backends.conv_problem import FLOAT_CONVOLUTIONS
from graphc.backends.extents import unflatten
from graphc.backends.merging import in_storage_order, merged
from graphc.backends.problem import Problem
from graphc.backends.regions import Expander
from graphc.backends.triton.render import Renderer
from graphc.backends.triton.scope import Code, Mask, Place, Scope, Value
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, symbol
from graphc.ops.expr import Axis, Load, Scalar, axes_of, call, load, transform

M, N = 0, 1
"""Dimensions of a block: pixels, output channels."""


@dataclass(frozen=True)
class Epilogue:
    """Everything from a convolution's sums to the region's outputs, over pixels (of all images) and output channels.

    Args:
        problem: Over pixels and channels where all tensors lie that way, else over `axes` in some order.
        sums: The number under which the problem loads the sums.
        axes: Images, channels, rows and columns of the output.
    """

    problem: Problem
    sums: int
    axes: tuple[Axis, ...]

    def scope(self, pixels: int, channels: int, *, masked: tuple[bool, bool], wide: bool = False) -> Scope:
        """Where a block stands whose function has its pixels as `m` and its channels as `output`.

        Args:
            pixels: Of all images.
            channels: Of the output.
            masked: Whether `inside_m` and `inside_n` say which of them there are.
            wide: Whether `m` has 64 bits.
        """
        places = {
            "m": Place("m", 0, pixels - 1, frozenset({M}), wide),
            "output": Place("output", 0, channels - 1, frozenset({N})),
        }
        names = (Mask("inside_m", frozenset({M})), Mask("inside_n", frozenset({N})))
        masks = [mask for mask, used in zip(names, masked, strict=True) if used]
        m, channel = symbol("m"), symbol("output")
        axes: dict[str, Dim]
        if len(self.problem.axes) == 2:
            axes = {axis.name: part for axis, part in zip(self.problem.axes, (m, channel), strict=True)}
        else:
            image, made, *pixel = self.axes
            axes = {**unflatten((image, *pixel), m, {"m": (0, pixels - 1)}), made.name: channel}
        return Scope(axes, places, masks, ("BLOCK_M", "BLOCK_N"))

    def renderer(self, code: Code) -> Renderer:
        """Renders the problem's scalars where the sums are called `accumulator`."""
        sums = Value("accumulator", frozenset({M, N}))
        return Renderer(code, self.problem.inputs, {self.sums: sums})

    def store(self, renderer: Renderer, scope: Scope) -> None:
        """Writes the stores of all outputs."""
        index = [axis.index for axis in self.problem.axes]
        for number, (element, kind) in enumerate(zip(self.problem.elements, self.problem.outputs, strict=True)):
            renderer.store(element, kind, f"out{number}", index, scope)


def epilogue_of(body: Graph, anchor: Node) -> Epilogue:
    """What a body does with the sums of its convolution.

    Args:
        body: Of a region.
        anchor: A convolution of images.

    Raises:
        BackendError: It changes their shape, or some operator has no tensor expression.
    """
    kind = anchor.output.tensor_type
    for value in body.outputs:
        if value.tensor_type.dims != kind.dims:
            raise BackendError(f"the region makes {value.type} of {kind}")
    sums = len(body.inputs)
    expander = Expander(body, {anchor.output: sums})
    axes = axes_of(kind.dims)
    index = [axis.index for axis in axes]
    elements = tuple(expander.element(value, index) for value in body.outputs)
    bias = anchor.input(2) if anchor.op_type in FLOAT_CONVOLUTIONS else None
    if bias is not None:
        value = bias

        def biased(scalar: Scalar) -> Scalar | None:
            if not isinstance(scalar, Load) or scalar.input != sums:
                return None
            channel = scalar.indices[1]
            return call("add", load(sums, kind.dtype, scalar.indices), expander.element(value, (channel,)))

        elements = tuple(transform(element, biased, {}) for element in elements)
    types = (*(value.tensor_type for value in body.inputs), kind)
    problem = Problem(axes, elements, types, tuple(value.tensor_type for value in body.outputs))
    pixels = merged(problem, inner=1)
    together = len(pixels.axes) == 2 and pixels.axes[1].name == axes[1].name
    return Epilogue(pixels if together else in_storage_order(problem), sums, axes)
