"""How convolutions want their weights stored: numpy transforms applied once, at compile time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.base import Packing
from graphc.ir import Dim
from graphc.ir.symbolic import minimum

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class DirectWeights:
    """Weights of a direct convolution: per part, blocks of input channels, taps, input channels, lanes.

    A part is `vectors` blocks of `lanes` output channels, the last part narrower where blocks do not divide; channels
    past the end are zero. A part of a grouped convolution reads the input blocks that its groups lie in, and has zeros
    for the channels there that its own do not see (so a NaN or infinity reaches neighbouring groups).

    Args:
        outputs: Output channels.
        inputs: Input channels.
        group: Groups of channels that do not see each other.
        taps: Rows and columns of the kernel.
        depth: Channels of an input block; only the last block of a convolution of one group may have fewer.
        vectors: Output blocks of a part.
        lanes: Channels of an output block.
    """

    outputs: int
    inputs: int
    group: int
    taps: tuple[int, int]
    depth: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        """Output channels of a part."""
        return self.vectors * self.lanes

    @property
    def blocks(self) -> int:
        """Output blocks."""
        return -(-self.outputs // self.lanes)

    @property
    def full_parts(self) -> int:
        """Parts whose lanes are all inside."""
        return self.outputs // self.width

    @property
    def tail_blocks(self) -> int:
        """Output blocks after those; 0 where there are none."""
        return self.blocks - self.full_parts * self.vectors

    @property
    def parts(self) -> int:
        """All parts."""
        return self.full_parts + (self.tail_blocks > 0)

    def first_block(self, part: Dim) -> Dim:
        """The first input block that a part reads."""
        return part * self.width // (self.outputs // self.group) * (self.inputs // self.group) // self.depth

    def block_count(self, part: Dim) -> Dim:
        """How many input blocks a part reads."""
        last = (
            minimum((part + 1) * self.width, self.outputs) - 1 if isinstance(part, int) else (part + 1) * self.width - 1
        )
        channels = (last // (self.outputs // self.group) + 1) * (self.inputs // self.group)
        return (channels + self.depth - 1) // self.depth - self.first_block(part)

    @property
    def block_counts(self) -> list[int]:
        """How many input blocks each part reads."""
        return [count for part in range(self.parts) if isinstance(count := self.block_count(part), int)]

    @property
    def channels(self) -> int:
        """Input channels for which a part has weights."""
        return self.inputs if self.group == 1 else max(self.block_counts) * self.depth

    @property
    def waste(self) -> float:
        """Multiply-adds over those that the model asks for."""
        if self.group == 1:
            return 1.0
        return sum(self.block_counts) / self.parts * self.depth / (self.inputs // self.group)

    @property
    def reduction(self) -> int:
        """Packed weights of one lane."""
        return self.channels * self.taps[0] * self.taps[1]

    @property
    def elements(self) -> int:
        """Packed elements in all."""
        return self.blocks * self.lanes * self.reduction

    def packing(self) -> Packing:
        """The transform, by name and parameters."""
        parameters = {"group": self.group, "depth": self.depth, "vectors": self.vectors, "lanes": self.lanes}
        return Packing("conv_direct", tuple(parameters.items()), self.pack)

    def pack(self, weights: Array) -> Array:
        """Weights of shape [outputs, inputs / group, taps...] as one flat array."""
        weights = weights.reshape(self.outputs, self.inputs // self.group, *self.taps)
        return np.concatenate([self._pack_part(weights, part) for part in range(self.parts)])

    def _pack_part(self, weights: Array, part: int) -> Array:
        start = part * self.width
        own = weights[start : start + self.width]
        lanes = min(self.width, self.blocks * self.lanes - start)
        seen = np.zeros((lanes, self.channels, *self.taps), weights.dtype)
        if self.group == 1:
            seen[: len(own)] = own
        else:
            offset = self.first_block(part) * self.depth
            assert isinstance(offset, int)
            for lane, filters in enumerate(own):
                group = (start + lane) // (self.outputs // self.group)
                first = group * (self.inputs // self.group) - offset
                seen[lane, first : first + len(filters)] = filters
        pieces = [seen[:, at : at + self.depth] for at in range(0, self.channels, self.depth)]
        return np.concatenate([piece.transpose(2, 3, 1, 0).reshape(-1) for piece in pieces])


def depthwise_packing(lanes: int) -> Packing:
    """Weights [channels, 1, taps...] as [blocks, taps, lanes]; channels past the end are zero."""

    def pack(weights: Array) -> Array:
        channels, taps = weights.shape[0], math.prod(weights.shape[2:])
        padded = np.zeros((-(-channels // lanes) * lanes, taps), weights.dtype)
        padded[:channels] = weights.reshape(channels, taps)
        return np.ascontiguousarray(padded.reshape(-1, lanes, taps).transpose(0, 2, 1))

    return Packing("conv_depthwise", (("lanes", lanes),), pack)
