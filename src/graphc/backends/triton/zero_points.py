"""Zero points of convolutions of 8-bit integers: sums of products as they are stored, corrected once at the end.

    sum (x - zx)(w - zw) = sum x*w - zx * sum w - zw * sum x + K*zx*zw

What lies beside an image, or pads the inner axis, is read as `zx`, so that it adds nothing. Unsigned numbers are less
128 on both sides, since what multiplies are signed bytes.
"""

from __future__ import annotations

from graphc.backends.regions import Expander
from graphc.backends.triton.conv_weights import ConvWeights
from graphc.backends.triton.render import Renderer
from graphc.backends.triton.scope import Code, Scope
from graphc.errors import BackendError
from graphc.ir import Graph, Node, Value, dtypes, symbol
from graphc.ir.dtypes import DType
from graphc.ops.expr import Scalar, call, cast, const

_DATA, _WEIGHTS = 2, 3
"""Which inputs of a ConvInteger they are."""


class ZeroPoints:
    """Writes what the zero points of one ConvInteger ask for.

    Args:
        code: Of its function.
        renderer: Of its epilogue.
        scope: Where its epilogue stands.
        body: Of the region.
        anchor: The node.

    Raises:
        BackendError: The zero point of the input is more than one number.
    """

    def __init__(self, code: Code, renderer: Renderer, scope: Scope, body: Graph, anchor: Node) -> None:
        self.code, self.renderer, self.scope = code, renderer, scope
        self.expander = Expander(body)
        # The scope knows scalars by identity: they must not be given to others.
        self._kept: list[Scalar] = []
        self.values = (anchor.input(_DATA), anchor.input(_WEIGHTS))
        data = self.values[0]
        if data is not None and data.tensor_type.numel != 1:
            raise BackendError("the input has several zero points")
        x, w = anchor.inputs[0], anchor.inputs[1]
        assert x is not None and w is not None, "a convolution has both operands"
        self.dtypes = (x.tensor_type.dtype, w.tensor_type.dtype)

    @property
    def has_weights(self) -> bool:
        """Whether the weights may have one that is not zero as they are stored."""
        return self.values[1] is not None or self.dtypes[1] == dtypes.UINT8

    def data(self) -> str:
        """Text of the input's, of its type; what computes it is written."""
        return self.renderer.render(self._keep(self._element(0)), self.scope).text

    def _keep(self, scalar: Scalar) -> Scalar:
        self._kept.append(scalar)
        return scalar

    def _element(self, side: int) -> Scalar:
        value: Value | None = self.values[side]
        dtype: DType = self.dtypes[side]
        if value is None:
            return const(0, dtype)
        extents = value.tensor_type.dims
        return self.expander.element(value, [symbol("output") if extent != 1 else 0 for extent in extents])

    def wide(self, side: int, *, signed: bool = False) -> str:
        """Text of a zero point in int32; what computes it is written.

        Args:
            side: 0 for the input's, 1 for that of the weights, by output channel.
            signed: Whether unsigned numbers are less 128.
        """
        value = cast(self._element(side), dtypes.INT32)
        if signed and self.dtypes[side] == dtypes.UINT8:
            value = call("sub", value, const(128, dtypes.INT32))
        return self.renderer.tensor(self._keep(value), self.scope).text

    def correct(self, weights: str, shape: ConvWeights) -> None:
        """Writes the correction of `accumulator`, from `group`, `n` and, where weights have one, `row_sums`.

        Args:
            weights: The pointer to the packed weights.
            shape: How they are packed.
        """
        code = self.code
        x = self.wide(0, signed=True)
        code.emit(f"sums = ({weights} + {shape.matrix_bytes}).to(tl.pointer_type(tl.int32))")
        code.emit(f"accumulator -= tl.load(sums + group * {shape.height} + n) * {x}")
        if self.has_weights:
            w = self.wide(1, signed=True)
            code.emit(f"accumulator -= row_sums[:, None] * {w}")
            code.emit(f"accumulator += {shape.width} * {x} * {w}")
