"""Weights of convolutions as GPUs read them: a matrix for each group, whose rows are output channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from graphc.backends.base import Packing
from graphc.ir.dtypes import DType

Array = np.ndarray[Any, Any]

Order: TypeAlias = Literal["taps", "taps, channels", "channels, taps"]
"""How the columns of a matrix of weights follow each other."""


@dataclass(frozen=True)
class ConvWeights:
    """A matrix of weights for each group: a row for each output channel, along it taps and channels.

    Rows and columns are padded with zeros to whole blocks, so that they are read without a mask. Groups of few channels
    are joined: a matrix then has zeros where an output channel does not see an input channel of its neighbours (so a
    NaN or infinity reaches neighbouring groups). Weights of 8-bit integers are stored signed, less 128 where they are
    not, with the sum of each row in int32 behind them.

    Args:
        dtype: Of the weights.
        outputs: Output channels.
        inputs: Input channels.
        group: Groups of channels that do not see each other.
        taps: Rows and columns of the kernel.
        joined: Groups of one matrix.
        order: Of a row: taps, the channels of each padded to whole blocks; or without padding between them, so that
            blocks go across taps, with taps or with channels outside.
        depth: Elements of a block along a row.
        rows: Rows of a block.
    """

    dtype: DType
    outputs: int
    inputs: int
    group: int
    taps: tuple[int, int]
    joined: int
    order: Order
    depth: int
    rows: int

    @property
    def flat(self) -> bool:
        """Whether blocks of a row go across taps."""
        return self.order != "taps"

    @property
    def groups(self) -> int:
        """Matrices."""
        return self.group // self.joined

    @property
    def channels(self) -> int:
        """Input channels of a matrix."""
        return self.inputs // self.groups

    @property
    def made(self) -> int:
        """Output channels of a matrix."""
        return self.outputs // self.groups

    @property
    def blocks(self) -> int:
        """Blocks of the channels of one tap."""
        return -(-self.channels // self.depth)

    @property
    def steps(self) -> int:
        """Blocks of a row."""
        taps = self.taps[0] * self.taps[1]
        return -(-taps * self.channels // self.depth) if self.flat else taps * self.blocks

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.steps * self.depth

    @property
    def height(self) -> int:
        """Rows of a matrix."""
        return -(-self.made // self.rows) * self.rows

    @property
    def matrix_bytes(self) -> int:
        """Bytes of all matrices."""
        return self.groups * self.height * self.width * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all, the sums of rows of integers included."""
        return self.matrix_bytes + (4 * self.groups * self.height if self.dtype.is_integer else 0)

    def packing(self) -> Packing:
        """The transform, by name and parameters."""
        names = ("group", "joined", "order", "depth", "rows")
        return Packing("conv_matrix", tuple((name, getattr(self, name)) for name in names), self.pack)

    def pack(self, weights: Array) -> Array:
        """Weights of shape [outputs, inputs / group, taps...] as one flat array."""
        made, channels = self.outputs // self.group, self.inputs // self.group
        own = weights.reshape(self.groups, self.joined, made, channels, *self.taps)
        if self.dtype.kind == "uint":
            own = (own ^ np.uint8(0x80)).view(np.int8)
        matrix = np.zeros((self.groups, self.height, *self.taps, self.channels), own.dtype)
        for number in range(self.joined):
            rows = slice(number * made, (number + 1) * made)
            seen = slice(number * channels, (number + 1) * channels)
            matrix[:, rows, :, :, seen] = own[:, number].transpose(0, 1, 3, 4, 2)
        if self.order == "channels, taps":
            matrix = np.moveaxis(matrix, -1, 2)
        if self.order == "taps":
            padding = self.blocks * self.depth - self.channels
            matrix = np.pad(matrix, [(0, 0)] * 4 + [(0, padding)])
        rows_of_all = matrix.reshape(self.groups * self.height, -1)
        padded = np.pad(rows_of_all, [(0, 0), (0, self.width - rows_of_all.shape[1])])
        if not self.dtype.is_integer:
            return padded.reshape(-1)
        sums = padded.sum(axis=1, dtype=np.int32)
        return np.concatenate([padded.reshape(-1).view(np.uint8), sums.view(np.uint8)])


def joined_groups(group: int, inputs: int, outputs: int, least: int) -> int:
    """How many groups to join so that a matrix has `least` rows and as many channels for each tap, or all.

    Args:
        group: Groups.
        inputs: Input channels.
        outputs: Output channels.
        least: What blocks are at least wide.
    """
    for joined in range(1, group):
        if group % joined == 0 and joined * min(inputs, outputs) // group >= least:
            return joined
    return group


def depthwise_packing() -> Packing:
    """Weights [channels, 1, taps...] as [taps, channels]."""

    def pack(weights: Array) -> Array:
        return np.ascontiguousarray(weights.reshape(weights.shape[0], math.prod(weights.shape[1:])).T)

    return Packing("conv_taps_first", (), pack)
