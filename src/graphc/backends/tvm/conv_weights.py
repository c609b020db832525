"""How convolutions want their weights stored: numpy transforms applied once, at compile time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.base import Packing

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class DirectWeights:
    """Weights of a direct convolution: per group of output blocks, input blocks, taps, input channels, lanes.

    A group of output blocks is `vectors` blocks of `lanes` channels, the last group narrower where blocks do not
    divide; channels past the end are zero. An input block is `depth` channels, the last one shorter.

    Args:
        outputs: Output channels.
        group: Groups as the model has them.
        merged: How many of those become one, with zeros between channels that do not see each other.
        inputs: Input channels of a merged group.
        taps: Rows and columns of the kernel.
        depth: Channels of an input block.
        vectors: Blocks of a group of output blocks.
        lanes: Channels of an output block.
    """

    outputs: int
    group: int
    merged: int
    inputs: int
    taps: tuple[int, int]
    depth: int
    vectors: int
    lanes: int

    @property
    def groups(self) -> int:
        """Groups after merging."""
        return self.group // self.merged

    @property
    def blocks(self) -> int:
        """Output blocks of a merged group."""
        return -(-(self.outputs // self.groups) // self.lanes)

    @property
    def full_parts(self) -> int:
        """Groups of `vectors` output blocks whose lanes are all inside a merged group."""
        return self.outputs // self.groups // (self.vectors * self.lanes)

    @property
    def tail_blocks(self) -> int:
        """Output blocks after those; 0 where there are none."""
        return self.blocks - self.full_parts * self.vectors

    @property
    def reduction(self) -> int:
        """Multiply-adds of one result."""
        return self.inputs * self.taps[0] * self.taps[1]

    @property
    def group_elements(self) -> int:
        """Packed elements of a merged group."""
        return self.blocks * self.lanes * self.reduction

    @property
    def elements(self) -> int:
        """Packed elements in all."""
        return self.groups * self.group_elements

    def packing(self) -> Packing:
        """The transform, by name and parameters."""
        parameters = {
            "merged": self.merged,
            "depth": self.depth,
            "vectors": self.vectors,
            "lanes": self.lanes,
        }
        return Packing("conv_direct", tuple(parameters.items()), self.pack)

    def pack(self, weights: Array) -> Array:
        """Weights of shape [outputs, inputs / group, rows, columns] as one flat array."""
        return np.concatenate([self._pack_group(w) for w in self.merge(weights)])

    def merge(self, weights: Array) -> Array:
        """Weights as [groups, outputs of a group, inputs of a group, rows, columns], zero between merged groups."""
        small_out, small_in = self.outputs // self.group, self.inputs // self.merged
        split = weights.reshape(self.groups, self.merged, small_out, small_in, *self.taps)
        wide = np.zeros((self.groups, self.merged, small_out, self.merged, small_in, *self.taps), weights.dtype)
        for member in range(self.merged):
            wide[:, member, :, member] = split[:, member]
        return wide.reshape(self.groups, self.merged * small_out, self.inputs, *self.taps)

    def _pack_group(self, weights: Array) -> Array:
        width = self.blocks * self.lanes
        padded = np.zeros((width, *weights.shape[1:]), weights.dtype)
        padded[: weights.shape[0]] = weights
        size = self.vectors * self.lanes
        parts = [padded[start : start + size] for start in range(0, width, size)]
        return np.concatenate([self._pack_blocks(part) for part in parts])

    def _pack_blocks(self, weights: Array) -> Array:
        pieces = [weights[:, start : start + self.depth] for start in range(0, self.inputs, self.depth)]
        return np.concatenate([piece.transpose(2, 3, 1, 0).reshape(-1) for piece in pieces])


def depthwise_packing(lanes: int) -> Packing:
    """Weights [channels, 1, rows, columns] as [blocks, taps, lanes]; channels past the end are zero."""

    def pack(weights: Array) -> Array:
        channels, taps = weights.shape[0], int(np.prod(weights.shape[2:]))
        padded = np.zeros((-(-channels // lanes) * lanes, taps), weights.dtype)
        padded[:channels] = weights.reshape(channels, taps)
        return np.ascontiguousarray(padded.reshape(-1, lanes, taps).transpose(0, 2, 1))

    return Packing("conv_depthwise", (("lanes", lanes),), pack)


def merge_factor(group: int, inputs: int, outputs: int, block: int, lanes: int) -> int:
    """How many neighbouring groups must become one so that every group starts at a block of channels.

    Args:
        group: Groups.
        inputs: Input channels of a group.
        outputs: Output channels of a group.
        block: Channels of an input block.
        lanes: Channels of an output block.
    """
    for merged in range(1, group + 1):
        aligned = merged * inputs % block == 0 and merged * outputs % lanes == 0
        if group % merged == 0 and (aligned or merged == group):
            return merged
    return group
