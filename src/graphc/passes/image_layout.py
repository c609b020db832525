"""How a machine wants the activations around convolutions stored: in blocks of channels, or channels last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from graphc.ir import Layout, Node, TensorType, Value, blocked, channels_last
from graphc.ir.dtypes import FLOAT32
from graphc.ops.convolution import conv_window
from graphc.ops.movement import permutation
from graphc.target import CudaTarget

Border = tuple[tuple[int, int], ...]
"""Cells before and after each spatial axis."""

_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Convolutions, and which of their inputs are the weights; the image is the first."""


class ImageLayout(Protocol):
    """What the layout pass asks: which convolutions profit, and how the tensors around them are stored."""

    def takes(self, node: Node) -> bool:
        """Whether `node` is a convolution that profits."""
        ...

    def refusal(self, value: Value) -> str | None:
        """Why `value` cannot be stored so; None where it can."""
        ...

    def converts(self, value: Value) -> bool:
        """Whether it pays to store a row-major image so for one convolution, where `refusal` says nothing."""
        ...

    def follows(self, node: Node) -> bool:
        """Whether `node`, beside what computes in any layout, makes images of images that are stored so."""
        ...

    def reads(self, node: Node) -> bool:
        """Whether `node`, beside those, reads images that are stored so."""
        ...

    def turns(self, node: Node) -> bool:
        """Whether `node` turns row-major storage into an image that is stored so already."""
        ...

    def layout(self, value: Value, border: Border) -> Layout:
        """How an image is stored whose readers see `border` zeros around it."""
        ...

    def describe(self, layout: Layout) -> str:
        """Says in a few words how something is stored."""
        ...


@dataclass(frozen=True)
class Blocks:
    """NCHW[b]c: channels in blocks of one vector, with the border of zeros that windows read.

    Args:
        block: Channels of a block.
        halo: Whether producers write the border.
    """

    block: int
    halo: bool = True

    def takes(self, node: Node) -> bool:
        """A 2-D Conv: its channels stay whole when split into blocks."""
        return node.op_type == "Conv" and convolution_rank(node) == 4

    def refusal(self, value: Value) -> str | None:
        """Only float32 batches of images with channels enough to fill most of a block."""
        kind = value.type
        if not isinstance(kind, TensorType) or kind.shape is None or len(kind.shape) != 4:
            return "its result is no batch of images"
        if kind.dtype != FLOAT32:
            return f"its result is {kind.dtype}, not float32"
        channels = kind.shape[1]
        if not isinstance(channels, int):
            return f"the number of channels is open: {channels}"
        if 2 * channels < self.block:
            return f"{channels} channels fill less than half of a block of {self.block}"
        return None

    def converts(self, value: Value) -> bool:
        """Always."""
        return True

    def follows(self, node: Node) -> bool:
        """Nothing: parts of blocks are work of their own."""
        return False

    def reads(self, node: Node) -> bool:
        """Nothing."""
        return False

    def turns(self, node: Node) -> bool:
        """No: blocks are made."""
        return False

    def layout(self, value: Value, border: Border) -> Layout:
        """Blocked, with the border."""
        halo = ((0, 0), (0, 0), *border) if self.halo and any(map(any, border)) else ()
        return blocked(1, self.block, halo=halo, fill=0.0)

    def describe(self, layout: Layout) -> str:
        """Names the block and the border."""
        return f"stored in blocks of {self.block} channels{' with a border of zeros' if layout.halo else ''}"


_ANY_ORDER = frozenset({"Pad", "Split", "LRN", "LpPool"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"})


def computes_in_any_order(node: Node) -> bool:
    """Whether `node` reads and makes tensors whose axes are stored in any order, row-major ones among them."""
    return node.domain == "" and node.op_type in _ANY_ORDER | _REDUCTIONS | {"Transpose"}


def _reduces_pixels(node: Node) -> bool:
    """Whether `node` reduces each channel of images by itself."""
    axes = node.input(1)
    if node.domain or node.op_type not in _REDUCTIONS or axes is None or axes.constant is None:
        return False
    image = node.inputs[0]
    rank = 0 if image is None else len(image.tensor_type.dims)
    return all(int(axis) % rank > 1 for axis in axes.constant.array().reshape(-1)) if rank else False


FEWEST_CHANNELS = 16
"""Of an image that is stored channels last for a convolution of its own: one of fewer is gathered as it lies."""


@dataclass(frozen=True)
class ChannelsLast:
    """NHWC (NWC): what one tap reads of a pixel lies in one piece, as the products of tensor cores want it."""

    def takes(self, node: Node) -> bool:
        """A convolution along one axis or two, of floats or integers."""
        return convolution_rank(node) in (3, 4)

    def refusal(self, value: Value) -> str | None:
        """Images and signals of whole bytes, of several channels and several pixels: others lie so anyway."""
        kind = value.type
        if not isinstance(kind, TensorType) or kind.shape is None or len(kind.shape) not in (3, 4):
            return "its result is no batch of images"
        if kind.dtype.bits < 8:
            return f"its result is {kind.dtype}, of which several share a byte"
        if kind.shape[1] == 1 or all(extent == 1 for extent in kind.shape[2:]):
            return "it has one channel or one pixel: its channels are last in any order"
        return None

    def converts(self, value: Value) -> bool:
        """Not the few channels of a photo."""
        channels = value.tensor_type.dims[1]
        return isinstance(channels, int) and channels >= FEWEST_CHANNELS

    def follows(self, node: Node) -> bool:
        """What moves whole elements, and windows that are no pool's."""
        return node.domain == "" and node.op_type in _ANY_ORDER

    def reads(self, node: Node) -> bool:
        """A Transpose, which may find there what it makes, and what reduces pixels."""
        return node.is_op("Transpose") or _reduces_pixels(node)

    def turns(self, node: Node) -> bool:
        """A Transpose that brings the last axis to the channels' place."""
        rank = len(node.output.tensor_type.dims)
        return node.is_op("Transpose") and permutation(node, rank) == (0, rank - 1, *range(1, rank - 1))

    def layout(self, value: Value, border: Border) -> Layout:
        """Channels last; borders are masked when they are read."""
        return channels_last(len(value.tensor_type.dims))

    def describe(self, layout: Layout) -> str:
        """Says that channels are last."""
        return "stored with its channels last"


def image_layout(target: object, *, block: int = 0, halo: bool = True, last: bool = False) -> ImageLayout | None:
    """What a target wants; None where everything stays row-major.

    Args:
        target: A CPU, a GPU, or None.
        block: Channels of a block; 0 takes the target's vector width, 1 leaves everything row-major.
        halo: Whether producers write the border that convolutions need.
        last: Whether channels are last whatever the target.
    """
    if block == 1:
        return None
    if last or isinstance(target, CudaTarget):
        return ChannelsLast()
    lanes = getattr(target, "lanes", None)
    return Blocks(block or (lanes(FLOAT32) if lanes is not None else 16), halo)


def is_convolution(node: Node) -> bool:
    """Whether `node` is a convolution, of floats or integers."""
    return node.domain == "" and node.op_type in _WEIGHTS


def convolution_rank(node: Node) -> int:
    """Axes of a convolution's weights; 0 for any other node, and where that is open."""
    if not is_convolution(node):
        return 0
    weight = node.input(_WEIGHTS[node.op_type])
    return 0 if weight is None else weight.tensor_type.rank or 0


def border_of(node: Node) -> Border:
    """Zeros that a convolution sees before and after each spatial axis; none where they depend on open extents."""
    operands = [node.inputs[0], node.inputs[_WEIGHTS[node.op_type]]]
    shapes = [value.tensor_type.dims for value in operands if value is not None]
    window = conv_window(node, *shapes)
    pads = list(zip(window.pads_begin, window.pads_end, strict=True))
    known = [(lo, hi) for lo, hi in pads if isinstance(lo, int) and isinstance(hi, int)]
    return tuple(known) if len(known) == len(pads) else ((0, 0),) * len(pads)


def widest(borders: list[Border]) -> Border:
    """A border wide enough for all of several; empty for none."""
    return tuple((max(lo for lo, _ in axis), max(hi for _, hi in axis)) for axis in zip(*borders, strict=True))
