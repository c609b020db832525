"""What decides the functions of a convolution on a GPU: the product as which it is computed, and how that is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphc.backends.conv_problem import (
    FLOAT_CONVOLUTIONS,
    INTEGER_CONVOLUTIONS,
    Convolution,
    Source,
    Strides,
    check_weights,
    convolution_of,
)
from graphc.backends.conv_shapes import two_dimensional
from graphc.backends.extents import bound
from graphc.backends.triton import conv_tiles
from graphc.backends.triton.conv_tiles import Products
from graphc.backends.triton.conv_weights import ConvWeights, Order, joined_groups
from graphc.backends.triton.conv_windows import is_wide
from graphc.backends.triton.matmul_tiles import Problem as Product
from graphc.backends.triton.matmul_tiles import Tile
from graphc.backends.triton.occupancy import Arithmetic
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, TensorType, dtypes
from graphc.target import CudaTarget

OPERATORS = FLOAT_CONVOLUTIONS | INTEGER_CONVOLUTIONS
DTYPES = frozenset({dtypes.FLOAT32, dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.INT8, dtypes.UINT8})

_VECTOR = 16
"""Bytes that a thread reads at once."""

_LEAST = 16
"""Channels below which groups are joined: fewer do not fill an instruction of a tensor core."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides the functions of one convolution."""

    problem: Convolution
    data: TensorType
    weights: ConvWeights
    tile: Tile
    precision: str

    @property
    def pixels(self) -> int:
        """Pixels of the output, of all images."""
        rows, columns = self.problem.window.output
        return self.problem.batch * rows * columns

    @property
    def is_integer(self) -> bool:
        """Whether sums are of products of integers."""
        return self.data.dtype.is_integer

    @property
    def part_steps(self) -> int:
        """Steps of each part of the inner axis."""
        return -(-self.weights.steps // self.tile.splits)

    @property
    def parts(self) -> int:
        """Parts of the inner axis that have steps."""
        return -(-self.weights.steps // self.part_steps)


def accepted(body: Graph, constants: frozenset[int]) -> tuple[Graph, Convolution]:
    """The body with images, and the convolution that this template takes.

    Raises:
        BackendError: It does not; the message says why.
    """
    body = two_dimensional(body, OPERATORS)
    problem = convolution_of(body, operators=OPERATORS, dtypes=DTYPES, reads_bias=False)
    check_weights(problem, body, constants)
    if problem.is_depthwise and problem.group > 1:
        raise BackendError("the convolution is depthwise: its channels are no product")
    return body, problem


def arithmetic_of(data: TensorType, options: Mapping[str, Any]) -> Arithmetic:
    """What multiplies elements of an input."""
    if data.dtype.is_integer:
        return "byte"
    if data.dtype.bits == 16:
        return "half"
    return "tf32" if options.get("precision") == "tf32" else "single"


def plan_of(body: Graph, problem: Convolution, target: CudaTarget, options: Mapping[str, Any]) -> Plan:
    """How a convolution is computed.

    Args:
        body: Of the region, of images.
        problem: The convolution, as `accepted` found it.
        target: The GPU.
        options: As of `conv.lower`.

    Raises:
        BackendError: No tile fits, or there are too many pixels.
    """
    data = body.inputs[problem.data].tensor_type
    rows, columns = problem.window.output
    if is_wide(problem.batch * rows * columns):
        raise BackendError("the convolution has more pixels than an index of 32 bits reaches")
    arithmetic = arithmetic_of(data, options)
    override = options.get("conv_tile")
    products = products_of(body, problem, arithmetic)
    given = None if override is None else Tile(*override)
    tile, weights = conv_tiles.choose(target, arithmetic, products, given)
    return Plan(problem, data, weights, tile, "tf32" if arithmetic == "tf32" else "ieee")


def products_of(body: Graph, problem: Convolution, arithmetic: Arithmetic) -> Products:
    """What the choice of a tile asks: the products as which a tile may compute a convolution."""
    data, kind = body.inputs[problem.data].tensor_type, body.inputs[problem.weights].tensor_type
    is_integer = data.dtype.is_integer
    kernel = problem.window.kernel
    joined = joined_groups(problem.group, problem.inputs, problem.outputs, _LEAST) if problem.group > 1 else 1
    if is_integer and joined > 1:
        # What a zero point stands for would have to be known where groups do not see each other.
        raise BackendError("the groups of the integer convolution have too few channels")
    strides = Source(data, False).strides()
    pixels = problem.batch * problem.window.output[0] * problem.window.output[1]
    size = data.dtype.itemsize
    moved = [value.tensor_type.storage_bytes for value in (*body.inputs, *body.outputs)]
    total = sum(bytes_ for bytes_ in moved if isinstance(bytes_, int))
    own = [body.inputs[number].tensor_type.storage_bytes for number in (problem.data, problem.weights)]
    left, right = (bytes_ for bytes_ in own if isinstance(bytes_, int))

    def candidate(tile: Tile) -> Iterator[tuple[Product, ConvWeights, float]]:
        for flat in (False, True) if kernel != (1, 1) and conv_tiles.can_gather(tile, arithmetic) else (False,):
            # Neighbours in a row of weights should be neighbours in the image.
            across: Order = "taps, channels" if strides.channel == 1 else "channels, taps"
            weights = ConvWeights(
                kind.dtype,
                problem.outputs,
                problem.inputs,
                problem.group,
                (kernel[0], kernel[1]),
                joined,
                across if flat else "taps",
                tile.depth,
                tile.columns,
            )
            side_by_side = _bytes_together(problem, strides, weights, size)
            # What is copied to shared memory without passing through registers is four bytes at least.
            copies = side_by_side % 4 == 0 and data.dtype.kind != "uint"
            product = Product(
                batch=weights.groups,
                rows=pixels,
                columns=weights.made,
                depth=weights.width,
                arithmetic=arithmetic,
                bytes=size,
                left_bytes=left,
                right_bytes=right,
                result_bytes=total - left - right,
                neighbours="inner",
                copies=copies,
                # Sums of integers are corrected for their zero points, which parts of them cannot be.
                splits=not is_integer,
            )
            yield product, weights, 1.0 if side_by_side % _VECTOR == 0 else conv_tiles.GATHERED

    return candidate


def _bytes_together(problem: Convolution, strides: Strides, weights: ConvWeights, size: int) -> int:
    """What the bytes of a pixel that lie together, and where they start, are all multiples of."""
    window = problem.window
    starts: list[Dim] = [strides.image, strides.row, window.strides[1] * strides.column]
    if weights.order == "channels, taps":
        # A row of taps: none of it may be beside the image.
        together = window.kernel[1] if strides.column * window.dilations[1] == 1 and not any(problem.border[1]) else 1
        starts += [strides.channel, window.dilations[0] * strides.row]
    else:
        together = weights.channels if strides.channel == 1 else 1
        starts += [window.dilations[1] * strides.column]
    return math.gcd(together, *map(bound, starts)) * size
