"""Where windows lie: the geometry of convolutions and pools, shared by inference, evaluation and every backend.

Along one spatial axis, window `o` reads positions `o*stride - pad_begin + k*dilation` for `0 <= k < kernel`. Positions
outside the input are padding: zero for a convolution, the identity of its reduction for a pool.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from graphc.errors import TypeInferenceError
from graphc.ir import Dim, Node
from graphc.ir.symbolic import add, floordiv, maximum, minimum, multiply
from graphc.ops.base import Array
from graphc.ops.expr import Scalar, all_of
from graphc.ops.indexing import ceildiv, last_axes, subtract, within


@dataclass(frozen=True)
class Window:
    """Windows over the spatial axes of one input; one entry per spatial axis in every field.

    Args:
        spatial: Extents of the input.
        kernel: Taps.
        strides: Distance between neighbouring windows.
        dilations: Distance between neighbouring taps.
        pads_begin: Padding before the input; symbolic only for `auto_pad` over a symbolic extent.
        pads_end: Padding after it.
        output: Number of windows.
    """

    spatial: tuple[Dim, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[Dim, ...]
    pads_end: tuple[Dim, ...]
    output: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def reach(self) -> tuple[int, ...]:
        """Positions from the first tap to the last, both included."""
        return tuple(dilation * (taps - 1) + 1 for taps, dilation in zip(self.kernel, self.dilations, strict=True))

    def guards(self, axis: int) -> tuple[bool, bool]:
        """Whether windows may read before the input, and after it, along spatial `axis`."""
        begin, extent, output = self.pads_begin[axis], self.spatial[axis], self.output[axis]
        low = begin != 0
        if isinstance(begin, int) and isinstance(extent, int) and isinstance(output, int):
            high = (output - 1) * self.strides[axis] - begin + self.reach[axis] > extent
        else:
            fits = add(floordiv(subtract(extent, self.reach[axis]), self.strides[axis]), 1)
            high = not (begin == 0 and output == fits)
        return low, high

    def positions(self, outputs: Sequence[Dim], taps: Sequence[Dim]) -> tuple[Dim, ...]:
        """Positions in the input that windows `outputs` read at `taps`."""
        return tuple(
            add(subtract(multiply(o, self.strides[i]), self.pads_begin[i]), multiply(tap, self.dilations[i]))
            for i, (o, tap) in enumerate(zip(outputs, taps, strict=True))
        )

    def inside(self, positions: Sequence[Dim]) -> Scalar | None:
        """The predicate that `positions` lie in the input; None where they always do."""
        found = []
        for axis, position in enumerate(positions):
            low, high = self.guards(axis)
            condition = within(position, self.spatial[axis], low=low, high=high)
            if condition is not None:
                found.append(condition)
        return all_of(*found) if found else None

    def valid_taps(self, axis: int, output: Dim, *, begin: Dim = 0, end: Dim = 0) -> Dim:
        """How many taps of window `output` read the input widened by `begin` and `end` positions."""
        start = subtract(multiply(output, self.strides[axis]), self.pads_begin[axis])
        dilation = self.dilations[axis]
        low, high = self.guards(axis)
        limit = subtract(add(self.spatial[axis], end), start)
        last = minimum(self.kernel[axis], ceildiv(limit, dilation)) if high else self.kernel[axis]
        first = maximum(0, ceildiv(subtract(multiply(-1, begin), start), dilation)) if low else 0
        return subtract(last, first)

    def static(self) -> StaticWindow:
        """The same with every extent known (a caller's precondition)."""
        begin, end = (tuple(p for p in pads if isinstance(p, int)) for pads in (self.pads_begin, self.pads_end))
        output = tuple(o for o in self.output if isinstance(o, int))
        assert len(begin) == len(end) == len(output) == self.rank, f"{self} is not static"
        return StaticWindow(self.kernel, self.strides, self.dilations, begin, end, output)


@dataclass(frozen=True)
class StaticWindow:
    """A `Window` over known extents, for evaluation in NumPy."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    output: tuple[int, ...]

    def taps(self) -> Iterator[tuple[int, ...]]:
        """Every tap of the kernel, in row-major order."""
        return itertools.product(*map(range, self.kernel))

    def pad(self, array: Array, fill: float | int | bool) -> Array:
        """`array` (spatial axes last) with its padding, and as much more as the last windows reach."""
        rank = len(self.kernel)
        widths = [(0, 0)] * (array.ndim - rank)
        for axis, extent in enumerate(array.shape[array.ndim - rank :]):
            reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            needed = (self.output[axis] - 1) * self.strides[axis] + reach - self.pads_begin[axis] - extent
            widths.append((self.pads_begin[axis], max(self.pads_end[axis], needed, 0)))
        return np.pad(array, widths, constant_values=fill) if any(map(any, widths)) else array

    def region(self, tap: Sequence[int]) -> tuple[slice, ...]:
        """Slices of the padded input's spatial axes that `tap` reads, an element per window."""
        return tuple(
            slice(k * d, k * d + (o - 1) * s + 1 if o else k * d, s)
            for k, d, o, s in zip(tap, self.dilations, self.output, self.strides, strict=True)
        )

    def views(self, array: Array, fill: float | int | bool) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Each tap with what it reads: a view of the padded `array` with one element per window."""
        padded = self.pad(array, fill)
        for tap in self.taps():
            yield tap, padded[last_axes(self.region(tap))]


def _fail(node: Node, message: str) -> NoReturn:
    names = node.origins or (node.name or node.describe(),)
    raise TypeInferenceError(f"{node.op}: {message}", nodes=names)


def window_of(node: Node, spatial: Sequence[Dim], kernel: Sequence[int]) -> Window:
    """The windows that a node's `strides`, `dilations`, `pads`, `auto_pad` and `ceil_mode` describe.

    Args:
        node: A convolution or pool.
        spatial: Spatial extents of its input.
        kernel: Taps per spatial axis.

    Raises:
        TypeInferenceError: Attributes have the wrong length or sign, or the input is smaller than a window.
    """
    rank = len(spatial)
    if len(kernel) != rank:
        _fail(node, f"kernel of {len(kernel)} axes over an input of {rank} spatial axes")
    strides, dilations = window_attribute(node, "strides", rank), window_attribute(node, "dilations", rank)
    pads = node.ints_attribute("pads") or (0,) * (2 * rank)
    if len(pads) != 2 * rank or min(pads, default=0) < 0:
        _fail(node, f"pads {list(pads)} must be {2 * rank} non-negative numbers")
    if min(kernel, default=1) < 1:
        _fail(node, f"kernel_shape {list(kernel)} must be positive")
    auto, ceil = node.str_attribute("auto_pad", "NOTSET"), bool(node.int_attribute("ceil_mode", 0))
    begins: list[Dim] = []
    ends: list[Dim] = []
    outputs: list[Dim] = []
    for axis, extent in enumerate(spatial):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        begin: Dim = 0
        end: Dim = 0
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            output = ceildiv(extent, strides[axis])
            total = maximum(add(multiply(subtract(output, 1), strides[axis]), subtract(reach, extent)), 0)
            half = floordiv(total, 2)
            begin, end = (half, subtract(total, half)) if auto == "SAME_UPPER" else (subtract(total, half), half)
        elif auto in ("NOTSET", "VALID", ""):
            if auto != "VALID":
                begin, end = pads[axis], pads[rank + axis]
            span = subtract(add(extent, add(begin, end)), reach)
            if isinstance(span, int) and span < 0 and not (ceil and span > -strides[axis]):
                _fail(node, f"a window of {reach} does not fit extent {extent} padded by {begin} and {end}")
            output = add(ceildiv(span, strides[axis]) if ceil else floordiv(span, strides[axis]), 1)
            if ceil:
                # A window that would start past the input and its leading padding is dropped.
                output = minimum(output, ceildiv(add(extent, begin), strides[axis]))
        else:
            _fail(node, f"auto_pad {auto!r} is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER")
        begins.append(begin)
        ends.append(end)
        outputs.append(output)
    return Window(tuple(spatial), tuple(kernel), strides, dilations, tuple(begins), tuple(ends), tuple(outputs))


def window_attribute(node: Node, name: str, rank: int) -> tuple[int, ...]:
    """`strides` or `dilations` of a node; ones where absent.

    Raises:
        TypeInferenceError: The attribute has the wrong length or a number below 1.
    """
    found = node.ints_attribute(name) or (1,) * rank
    if len(found) != rank or min(found, default=1) < 1:
        _fail(node, f"{name} {list(found)} must be {rank} positive numbers")
    return found
