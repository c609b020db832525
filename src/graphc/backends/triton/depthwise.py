"""Depthwise convolutions on a GPU: every output channel sees one input channel, and vectors run along channels.

A block reads for each tap what its pixels see, and adds; neighbouring windows find what they share in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.conv_problem import Convolution, check_weights, convolution_of
from graphc.backends.conv_shapes import two_dimensional
from graphc.backends.triton.assemble import arguments_of, build_kernel
from graphc.backends.triton.conv_plan import DTYPES, OPERATORS
from graphc.backends.triton.conv_weights import depthwise_packing
from graphc.backends.triton.conv_windows import inside_image, is_wide, window_facts
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.pixels import epilogue_of
from graphc.backends.triton.scope import Code
from graphc.backends.triton.tiles import power_above
from graphc.backends.triton.zero_points import ZeroPoints
from graphc.errors import BackendError
from graphc.ir import Graph
from graphc.package.cuda import Integer
from graphc.target import CudaTarget
from graphc.target.cuda import WARP

MOST_TAPS = 25
"""Taps up to which the loop over them is unrolled, so that all their loads are in flight."""

_MOST_WARPS = 4
_VECTOR = 8
"""Results of a thread at least: what 16 bytes of halves are."""

_CHANNELS = (64, 32, 16)
"""Of a block: as many as leave few of its lanes without a channel."""

_WASTE = 9 / 8
_ELEMENTS = (2048, 1024, 512)
"""Results of a block: as many as leave each processor a few blocks."""

_BLOCKS_EACH = 4


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a depthwise Conv or ConvInteger along one or two axes with constant weights.

    Args:
        body: One convolution, in which each input channel is a group, and its epilogue.
        target: The GPU.
        constants: Numbers of the body's inputs that are constants.
        options: `depthwise_tile` overrides the block: pixels, channels.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    body, problem, pixels = _accepted(body, constants)
    block = options.get("depthwise_tile") or _block(problem, pixels, target)
    launch, reads = _launch(body, problem, pixels, (block[0], block[1]))
    return build_kernel(
        "depthwise",
        body,
        target,
        [launch],
        flops=2 * problem.macs,
        schedule={"tile": f"{block[0]} pixels x {block[1]} channels"},
        reads=reads,
        packed={problem.weights: (body.inputs[problem.weights].tensor_type.storage_bytes, depthwise_packing())},
    )


def alternatives(
    body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring, its own choice first.

    Raises:
        BackendError: As of `lower`.
    """
    _, problem, pixels = _accepted(body, constants)
    widths = [width for width in _CHANNELS if width <= power_above(problem.outputs)]
    others = ((elements // width, width) for width in widths for elements in _ELEMENTS)
    blocks = dict.fromkeys((_block(problem, pixels, target), *others))
    return [{"depthwise_tile": list(block)} for block in blocks]


def _accepted(body: Graph, constants: frozenset[int]) -> tuple[Graph, Convolution, int]:
    """The body with images, the convolution that this template takes, and how many pixels it makes.

    Raises:
        BackendError: It does not; the message says why.
    """
    body = two_dimensional(body, OPERATORS)
    problem = convolution_of(body, operators=OPERATORS, dtypes=DTYPES, reads_bias=False)
    check_weights(problem, body, constants)
    if not is_depthwise(problem):
        raise BackendError("the convolution's groups have several channels, or it has one group")
    rows, columns = problem.window.output
    pixels = problem.batch * rows * columns
    if is_wide(pixels):
        raise BackendError("the convolution has more pixels than an index of 32 bits reaches")
    return body, problem, pixels


def is_depthwise(problem: Convolution) -> bool:
    """Whether each input channel of several is a group."""
    return problem.group == problem.inputs > 1


def _block(problem: Convolution, pixels: int, target: CudaTarget) -> tuple[int, int]:
    """Pixels and channels of a block."""
    fitting = [width for width in _CHANNELS if width <= power_above(problem.outputs)] or [_CHANNELS[-1]]
    waste = {width: -(-problem.outputs // width) * width / problem.outputs for width in fitting}
    channels = next((width for width in fitting if waste[width] <= _WASTE), min(fitting, key=waste.__getitem__))
    for elements in _ELEMENTS:
        rows = elements // channels
        if -(-pixels // rows) * -(-problem.outputs // channels) >= _BLOCKS_EACH * target.processors:
            break
    return rows, channels


def _launch(body: Graph, problem: Convolution, pixels: int, block: tuple[int, int]) -> tuple[FunctionLaunch, list[int]]:
    """The launch, and the inputs that it reads."""
    data = body.inputs[problem.data].tensor_type
    masked = (pixels % block[0] != 0, problem.outputs % block[1] != 0)
    epilogue = epilogue_of(body, problem.anchor)
    code = Code()
    renderer = epilogue.renderer(code)
    scope = epilogue.scope(pixels, problem.outputs, masked=masked)
    zeros = ZeroPoints(code, renderer, scope, body, problem.anchor) if data.dtype.is_integer else None
    other = "0.0" if zeros is None else zeros.data()
    centre = () if zeros is None else (zeros.wide(0), zeros.wide(1))
    before = code.take()
    epilogue.store(renderer, scope)
    reads = sorted({*renderer.reads, problem.data, problem.weights})
    names = [f"in{number}" for number in reads] + [f"out{number}" for number in range(len(body.outputs))]
    kernel = problem.window.kernel
    column_tiles = -(-problem.outputs // block[1])
    text = render_module(
        "depthwise",
        code.functions,
        name="depthwise",
        parameters=names,
        **window_facts(problem, data),
        multiplier=problem.outputs // problem.inputs,
        column_tiles=column_tiles,
        masked_m=masked[0],
        masked_n=masked[1],
        inside=[
            *(name for name, used in zip(("inside_m", "inside_n"), masked, strict=True) if used),
            *inside_image(problem),
        ],
        before=before,
        other=other,
        centre=centre,
        sum_type="float32" if zeros is None else "int32",
        unrolled=kernel[0] * kernel[1] <= MOST_TAPS,
        kernel_taps=kernel[0] * kernel[1],
        after=code.take(),
    )
    inputs = [value.tensor_type for value in body.inputs]
    outputs = [value.tensor_type for value in body.outputs]
    arguments = (
        *arguments_of(names, reads, inputs, outputs),
        Argument("taps", "i32", Integer(kernel[0] * kernel[1]), multiple=1),
    )
    constants = (("BLOCK_M", block[0]), ("BLOCK_N", block[1]))
    warps = min(_MOST_WARPS, max(1, block[0] * block[1] // (_VECTOR * WARP)))
    function = Function(text, "depthwise", arguments, constants, warps=warps, stages=1)
    return FunctionLaunch(function, (-(-pixels // block[0]) * column_tiles, 1, 1)), reads
