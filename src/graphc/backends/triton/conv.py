"""Convolutions of images as products on a GPU: rows are pixels, columns output channels; taps and channels are summed.

The matrix of pixels is never stored: each step of the product reads, for a block of pixels, what one tap sees of a
block of channels (implicit GEMM). Where an image has few channels, a step goes across taps and gathers. What lies
beside an image is masked. Small images with many channels are cut along the inner axis too; a second launch adds up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphc.backends.base import Kernel
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
from graphc.backends.triton import conv_tiles
from graphc.backends.triton.assemble import arguments_of, build_kernel
from graphc.backends.triton.conv_tiles import MEASURED, TILES, Products
from graphc.backends.triton.conv_weights import ConvWeights, Order, joined_groups
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.backends.triton.matmul_tiles import Problem as Product
from graphc.backends.triton.matmul_tiles import Tile
from graphc.backends.triton.module import render_module
from graphc.backends.triton.occupancy import Arithmetic
from graphc.backends.triton.pixels import epilogue_of
from graphc.backends.triton.scope import Code
from graphc.backends.triton.zero_points import ZeroPoints
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, TensorType, dtypes
from graphc.package.cuda import Integer
from graphc.target import CudaTarget

OPERATORS = FLOAT_CONVOLUTIONS | INTEGER_CONVOLUTIONS
DTYPES = frozenset({dtypes.FLOAT32, dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.INT8, dtypes.UINT8})

_VECTOR = 16
"""Bytes that a thread reads at once."""

_LEAST = 16
"""Channels below which groups are joined: fewer do not fill an instruction of a tensor core."""

LIMIT = 1 << 31
"""Indices and offsets of this many have 32 bits."""

_SUM_ROWS, _SUM_COLUMNS = 32, 64
"""Block of results that one block of the second launch adds up."""


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the functions of one convolution."""

    problem: Convolution
    data: TensorType
    weights: ConvWeights
    tile: Tile
    precision: str

    @property
    def strides(self) -> Strides:
        """Where the elements of the input lie."""
        return Source(self.data, False).strides()

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


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a Conv or ConvInteger along one or two axes with constant weights.

    Args:
        body: One convolution and its epilogue.
        target: The GPU.
        constants: Numbers of the body's inputs that are constants.
        options: `precision`: "tf32" rounds float32 to what tensor cores take; `conv_tile` overrides the choice of
            tiles: rows, columns, depth, stages, warps, splits.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    body, problem = _accepted(body, constants)
    plan = _plan(body, problem, target, options)
    return _Conv(body, plan).kernel(target)


def alternatives(
    body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any], most: int = 16
) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring, the more promising ones first; those of eight warps are among the last.

    Raises:
        BackendError: As of `lower`.
    """
    body, problem = _accepted(body, constants)
    arithmetic = _arithmetic(body.inputs[problem.data].tensor_type, options)
    products = _products(body, problem, arithmetic)
    ranked: list[Tile] = []
    for tiles in (TILES[arithmetic], MEASURED.get(arithmetic, ())):
        found = sorted(conv_tiles.fitting(target, tiles, products), key=lambda choice: choice[0])
        ranked += list(dict.fromkeys(tile for _, tile, _ in found))[:most]
    return [{"conv_tile": [t.rows, t.columns, t.depth, t.stages, t.warps, t.splits]} for t in ranked]


def _accepted(body: Graph, constants: frozenset[int]) -> tuple[Graph, Convolution]:
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


def _arithmetic(data: TensorType, options: Mapping[str, Any]) -> Arithmetic:
    if data.dtype.is_integer:
        return "byte"
    if data.dtype.bits == 16:
        return "half"
    return "tf32" if options.get("precision") == "tf32" else "single"


def _plan(body: Graph, problem: Convolution, target: CudaTarget, options: Mapping[str, Any]) -> _Plan:
    data = body.inputs[problem.data].tensor_type
    rows, columns = problem.window.output
    if problem.batch * rows * columns >= LIMIT:
        raise BackendError("the convolution has more pixels than an index of 32 bits reaches")
    arithmetic = _arithmetic(data, options)
    override = options.get("conv_tile")
    products = _products(body, problem, arithmetic)
    given = None if override is None else Tile(*override)
    tile, weights = conv_tiles.choose(target, arithmetic, products, given)
    return _Plan(problem, data, weights, tile, "tf32" if arithmetic == "tf32" else "ieee")


def _products(body: Graph, problem: Convolution, arithmetic: Arithmetic) -> Products:
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
    starts = [strides.image, strides.row, window.strides[1] * strides.column]
    if weights.order == "channels, taps":
        # A row of taps: none of it may be beside the image.
        together = window.kernel[1] if strides.column * window.dilations[1] == 1 and not any(problem.border[1]) else 1
        starts += [strides.channel, window.dilations[0] * strides.row]
    else:
        together = weights.channels if strides.channel == 1 else 1
        starts += [window.dilations[1] * strides.column]
    return math.gcd(together, *starts) * size


class _Conv:
    """Writes the functions of one convolution."""

    def __init__(self, body: Graph, plan: _Plan) -> None:
        self.body = body
        self.plan = plan
        self.epilogue = epilogue_of(body, plan.problem.anchor)
        self.sum_type = "int32" if plan.is_integer else "float32"
        # The pointers of the second launch are among those of the first.
        self.reads: set[int] = {plan.problem.data, plan.problem.weights}
        self.stored = [f"out{number}" for number in range(len(body.outputs))]

    def kernel(self, target: CudaTarget) -> Kernel:
        """The kernel."""
        plan, problem = self.plan, self.plan.problem
        split = plan.parts > 1
        parts = [self._product(), *([self._sum()] if split else [])]
        reads = sorted(self.reads)
        return build_kernel(
            "conv",
            self.body,
            target,
            [self._with_pointers(launch, names, reads) for launch, names in parts],
            flops=2 * problem.macs,
            schedule=self._describe(),
            reads=reads,
            packed={problem.weights: (plan.weights.bytes, plan.weights.packing())},
            workspaces=[4 * plan.parts * plan.pixels * problem.outputs] if split else [],
        )

    def _with_pointers(self, launch: FunctionLaunch, names: Sequence[str], reads: Sequence[int]) -> FunctionLaunch:
        """A launch with the pointers called `names` in front of its other arguments."""
        kinds = [value.tensor_type for value in self.body.inputs]
        outputs = [value.tensor_type for value in self.body.outputs]
        weights = self.plan.problem.weights
        if self.plan.is_integer:
            kinds[weights] = kinds[weights].with_dtype(dtypes.INT8)
        pointers = arguments_of(names, reads, kinds, outputs, ["*fp32"])
        function = launch.function
        return replace(launch, function=replace(function, arguments=(*pointers, *function.arguments)))

    def _describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"tile": str(self.plan.tile)}
        if self.plan.weights.flat:
            facts["steps"] = "across taps"
        if self.plan.weights.joined > 1:
            facts["groups"] = f"{self.plan.weights.joined} joined"
        return facts

    def _product(self) -> tuple[FunctionLaunch, list[str]]:
        """The launch that multiplies, and the names of its pointers."""
        plan, problem, weights, tile = self.plan, self.plan.problem, self.plan.weights, self.plan.tile
        masked = (plan.pixels % tile.rows != 0, weights.height != weights.made)
        code = Code()
        renderer = self.epilogue.renderer(code)
        scope = self.epilogue.scope(plan.pixels, problem.outputs, masked=masked)
        zeros = ZeroPoints(code, renderer, scope, self.body, problem.anchor) if plan.is_integer else None
        zero = zeros.data() if zeros is not None else None
        before = taken(code)
        if zeros is not None:
            zeros.correct(f"in{problem.weights}", weights)
        if plan.parts == 1:
            self.epilogue.store(renderer, scope)
        after = taken(code)
        self.reads |= renderer.reads
        names = [f"in{number}" for number in sorted({*renderer.reads, problem.data, problem.weights})]
        names += self.stored if plan.parts == 1 else ["workspace0"]
        rows, columns = problem.window.output
        text = render_module(
            "conv",
            code.functions,
            name="conv",
            parameters=names,
            data=f"in{problem.data}",
            weights=f"in{problem.weights}",
            shape=weights,
            window=problem.window,
            strides=plan.strides,
            rows=rows,
            columns=columns,
            pixels=plan.pixels,
            outputs=problem.outputs,
            wide=_is_wide(plan.data.numel),
            masked_m=masked[0],
            masked_n=masked[1],
            inside=self._inside(),
            before=before,
            zero=zero,
            data_unsigned=plan.data.dtype == dtypes.UINT8,
            sums_rows=zeros is not None and zeros.has_weights,
            sum_type=self.sum_type,
            precision=plan.precision,
            parts=plan.parts,
            part_steps=plan.part_steps,
            partial_wide=self._partial_is_wide,
            after=after,
        )
        blocks = (("BLOCK_M", tile.rows), ("BLOCK_N", tile.columns), ("BLOCK_K", tile.depth))
        # The number of steps comes at run time: a loop whose length is known would be unrolled whole.
        steps = Argument("steps", "i32", Integer(weights.steps), multiple=1)
        function = Function(text, "conv", (steps,), blocks, warps=tile.warps, stages=tile.stages)
        tiles = -(-plan.pixels // tile.rows) * (weights.height // weights.rows)
        return FunctionLaunch(function, (tiles, weights.groups, plan.parts)), names

    def _inside(self) -> list[str]:
        """Conditions under which an element of the matrix of pixels is in the image."""
        weights, plan = self.plan.weights, self.plan
        found = ["inside_m"] if plan.pixels % plan.tile.rows else []
        found += inside_image(plan.problem)
        if weights.flat:
            taps = weights.taps[0] * weights.taps[1]
            found += [f"(place < {taps * weights.channels})"] if weights.width != taps * weights.channels else []
        elif weights.channels % weights.depth:
            found.append(f"(channel + k[None, :] < {weights.channels})")
        return found

    @property
    def _partial_is_wide(self) -> bool:
        return _is_wide(self.plan.parts * self.plan.pixels * self.plan.problem.outputs)

    def _sum(self) -> tuple[FunctionLaunch, list[str]]:
        """The launch that adds the parts up and does what follows, and the names of its pointers."""
        plan, outputs = self.plan, self.plan.problem.outputs
        rows, columns = min(_SUM_ROWS, power_of_two(plan.pixels)), min(_SUM_COLUMNS, power_of_two(outputs))
        masked = (plan.pixels % rows != 0, outputs % columns != 0)
        code = Code()
        renderer = self.epilogue.renderer(code)
        self.epilogue.store(renderer, self.epilogue.scope(plan.pixels, outputs, masked=masked))
        self.reads |= renderer.reads
        names = [*(f"in{number}" for number in sorted(renderer.reads)), *self.stored, "workspace0"]
        text = render_module(
            "conv_sum",
            code.functions,
            name="conv_sum",
            parameters=names,
            pixels=plan.pixels,
            outputs=outputs,
            column_tiles=-(-outputs // columns),
            masked_m=masked[0],
            masked_n=masked[1],
            partial_wide=self._partial_is_wide,
            after=taken(code),
        )
        parts = Argument("parts", "i32", Integer(plan.parts), multiple=1)
        function = Function(text, "conv_sum", (parts,), (("BLOCK_M", rows), ("BLOCK_N", columns)), warps=4, stages=1)
        return FunctionLaunch(function, (-(-plan.pixels // rows) * -(-outputs // columns), 1, 1)), names


def inside_image(problem: Convolution) -> list[str]:
    """Conditions under which what a tap reads is in the image, over `top`, `left`, `down` and `across`."""
    found = []
    extents = (problem.height, problem.width)
    for place, (begin, end), extent in zip(("top + down", "left + across"), problem.border, extents, strict=True):
        found += [f"({place} >= 0)"] if begin else []
        found += [f"({place} < {extent})"] if end else []
    return found


def taken(code: Code) -> str:
    """The lines written so far, taken out."""
    text = code.text
    code.lines.clear()
    return text


def _is_wide(extent: Dim) -> bool:
    return not isinstance(extent, int) or extent >= LIMIT


def power_of_two(extent: int) -> int:
    """The least power of two that is not less."""
    return 1 << (extent - 1).bit_length()
