"""Where Resize samples its input: places along an axis, and the elements and weights that interpolate between them.

Places are computed in float32, as ONNX Runtime does: now and then a tie falls on the other side than exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.ir import Node
from graphc.ops.base import Array


@dataclass(frozen=True)
class Sampling:
    """How one axis is sampled; `scale` is output extent over input extent as the model gives it."""

    source: int
    output: int
    scale: float
    transform: str
    region: tuple[float, float] = (0.0, 1.0)

    def coordinates(self) -> Array:
        """Place in the input of every output element, in float32."""
        x = np.arange(self.output, dtype=np.float32)
        one, half, scale = np.float32(1), np.float32(0.5), np.float32(self.scale)
        last = np.float32(self.source - 1)
        match self.transform:
            case "asymmetric":
                return np.asarray(x / scale)
            case "align_corners":
                return x * last / np.float32(self.output - 1) if self.output > 1 else np.zeros_like(x)
            case "pytorch_half_pixel" if self.output <= 1:
                return np.zeros_like(x)
            case "half_pixel_symmetric":
                adjustment = np.float32(self.output) / (scale * np.float32(self.source))
                centre = np.float32(self.source) * half
                return np.asarray(centre * (one - adjustment) + (x + half) / scale - half)
            case "tf_crop_and_resize":
                start, end = map(np.float32, self.region)
                if self.output > 1:
                    return np.asarray(start * last + x * (end - start) * last / np.float32(self.output - 1))
                return np.full_like(x, half * (start + end) * last)
            case _:
                return np.asarray((x + half) / scale - half)

    def nearest(self, rounding: str) -> Array:
        """Index of the sample next to every output element."""
        x = self.coordinates()
        if self.scale == 1 and self.transform != "tf_crop_and_resize":
            return np.arange(self.output)
        half = np.float32(0.5)
        match rounding:
            case "floor":
                found = np.floor(x)
            case "ceil":
                found = np.ceil(x)
            case "round_prefer_ceil":
                found = np.floor(x + half)
            case _:
                found = np.ceil(x - half)
        return np.clip(found.astype(np.int64), 0, self.source - 1)

    def taps(self, mode: str, *, cubic: float = -0.75, exclude: bool = False, antialias: bool = False) -> Taps:
        """Elements and weights of linear or cubic interpolation.

        Args:
            mode: `linear` or `cubic`.
            cubic: The coefficient a of cubic weights.
            exclude: Whether what lies outside the input weighs nothing; else the outermost elements stand for it.
            antialias: Whether the weights widen where the input is shrunk, so that every element counts.
        """
        x = self.coordinates().astype(np.float64)
        if mode == "linear" and not antialias:
            x = np.clip(x, 0, self.source - 1)
        narrowed = min(self.scale, 1.0) if antialias else 1.0
        radius = math.ceil((1 if mode == "linear" else 2) / narrowed)
        index = np.floor(x).astype(np.int64) + np.arange(1 - radius, 1 + radius)[:, None]
        distance = np.abs(index - x) * narrowed
        weights = np.maximum(1 - distance, 0) if mode == "linear" else cubic_weights(distance, cubic)
        if exclude:
            weights = np.where((index >= 0) & (index < self.source), weights, 0)
        if exclude or antialias:
            whole = weights.sum(0)
            weights = weights / np.where(whole == 0, 1, whole)
        used = weights.any(axis=1)
        return Taps(np.clip(index, 0, self.source - 1)[used], weights[used])

    def is_outside(self) -> Array:
        """Which output elements lie beyond the input where the region says so: they are extrapolated."""
        if self.transform != "tf_crop_and_resize":
            return np.zeros(self.output, np.bool_)
        places = self.coordinates()
        return np.asarray((places < 0) | (places > self.source - 1))

    @property
    def is_identity(self) -> bool:
        """Whether every output element is the input's own."""
        return self.scale == 1 and self.transform != "tf_crop_and_resize" and self.source == self.output


@dataclass(frozen=True)
class Taps:
    """The elements that each output element is the weighted sum of.

    Args:
        index: Their places along the axis, int64 (taps, output).
        weights: Their weights, float64 (taps, output).
    """

    index: Array
    weights: Array


def cubic_weights(distance: Array, a: float) -> Array:
    """Weights of samples at `distance` from a place, after Keys (1981), "Cubic convolution interpolation"."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def resized_axes(node: Node, rank: int) -> tuple[int, ...]:
    """Axes that scales and sizes speak of."""
    return tuple(axis % rank for axis in node.ints_attribute("axes") or range(rank))


def common_scale(node: Node, sizes: Sequence[int], extents: Sequence[int]) -> float | None:
    """The one scale of all axes where the aspect ratio is kept."""
    ratios = [size / extent for size, extent in zip(sizes, extents, strict=True)]
    match node.str_attribute("keep_aspect_ratio_policy", "stretch"):
        case "not_larger":
            return min(ratios)
        case "not_smaller":
            return max(ratios)
    return None


def output_extents(
    node: Node, shape: Sequence[int], scales: Array | None, sizes: Array | None
) -> list[tuple[int, float]]:
    """Output extent and scale of every axis."""
    found = [(extent, 1.0) for extent in shape]
    axes = resized_axes(node, len(shape))
    if sizes is not None:
        wanted = [int(size) for size in sizes]
        common = common_scale(node, wanted, [shape[axis] for axis in axes])
        for axis, size in zip(axes, wanted, strict=True):
            if common is not None:
                found[axis] = (math.floor(common * shape[axis] + 0.5), common)
            else:
                found[axis] = (size, size / shape[axis] if shape[axis] else 1.0)
    elif scales is not None:
        for axis, scale in zip(axes, scales.tolist(), strict=True):
            found[axis] = (math.floor(np.float32(shape[axis]) * np.float32(scale)), scale)
    else:
        raise ValueError("neither scales nor sizes are given")
    return found


def limits_in(work: np.dtype[Any], integer: np.dtype[Any]) -> tuple[float, float]:
    """The least and the largest number of float type `work` that `integer` holds."""
    limits = np.iinfo(integer)
    high = work.type(limits.max)
    if int(high) > limits.max:
        high = np.nextafter(high, work.type(0))
    return float(limits.min), float(high)
