"""Transposed convolutions written as convolutions.

With stride s, tap k of input pixel i adds to output pixel q = i*s + k (padding is cut off at the end). So outputs with
the same phase r = q mod s see only the taps r, r + s, ...: they are a plain convolution of the input with every s-th
tap, turned round. The phases of all outputs are the channels of one convolution, which DepthToSpace lays out:

    ConvTranspose(x, w, b; stride s) = Slice(DepthToSpace(Conv(x, w', b'), s))

Where the taps are no multiple of the stride, the last ones of some phases are zero. That costs at most a few products,
where gathering the inputs of each output pixel tests each tap (Shi et al., "Is the deconvolution layer the same as a
convolutional layer?", 2016). Channels are rounded up to whole vectors, so that each phase starts a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.ir import Builder, Dim, TensorType, Value
from graphc.ir.dtypes import FLOAT32
from graphc.ir.symbolic import multiply
from graphc.ops.base import Array
from graphc.ops.convolution import transposed_window
from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Const, Match, Optional, P, Refusal, Var, attr, refuse, rule_set
from graphc.passes.rules.predicate import Chooser
from graphc.passes.simplify.slicing import Range, emit

RULES = rule_set("transposed_conv")
WHOLE = 16
"""Channels are rounded up to this many, the most that a vector of float32 holds, unless they fill less than half."""


@register_pass
@dataclass(frozen=True)
class TransposedConv(RulePass):
    """Writes transposed convolutions as convolutions whose channels are laid out as pixels.

    Before: types are inferred, scales are folded into weights. After: a ConvTranspose that remains has weights that are
    not constant, or open extents. Results differ by the order of sums only.
    """

    name: ClassVar[str] = "transposed_conv"


def _examples(choose: Chooser) -> Mapping[str, Any]:
    rank = choose.pick((1, 2, 2, 3))
    strides = [choose.integer(1, 3)] * rank if choose.integer(0, 1) else [choose.integer(1, 3) for _ in range(rank)]
    kernel = [choose.integer(1, 4) for _ in range(rank)]
    group, inner, outputs = choose.integer(1, 2), choose.integer(1, 2), choose.integer(1, 9)
    count = group * inner * outputs * int(np.prod(kernel))
    dilations = [choose.integer(1, 2) for _ in kernel]
    pads = [choose.integer(0, d * (k - 1)) for d, k in zip(dilations, kernel, strict=True)]
    return {
        "x": TensorType(FLOAT32, (1, group * inner, *(choose.integer(2, 4) for _ in kernel))),
        "w": np.cos(np.arange(count, dtype=np.float32)).reshape(group * inner, outputs, *kernel),
        "bias": np.sin(np.arange(group * outputs, dtype=np.float32)),
        "strides": tuple(strides),
        "kernel": tuple(kernel),
        "pads": (*pads, *(choose.integer(0, p) for p in pads)),
        "dilations": tuple(dilations),
        "group": group,
        "extra": tuple(choose.integer(0, s - 1) for s in strides),
    }


@RULES.rule(
    P.ConvTranspose(
        Var("x"),
        Const("w"),
        Optional(Const("bias")),
        strides=attr("strides", default=()),
        kernel_shape=attr("kernel", default=()),
        pads=attr("pads", default=()),
        dilations=attr("dilations", default=()),
        group=attr("group", default=1),
        output_padding=attr("extra", default=()),
    ),
    examples=_examples,
)
def phases_as_channels(m: Match, b: Builder) -> Value | Refusal:
    """ConvTranspose(x, w, b) = Slice(DepthToSpace(Conv(x, w', b'), stride))."""
    kind, weights, group = m.type("x"), m.array("w"), m.attribute("group")
    extents = kind.dims[2:]
    is_open = not all(isinstance(extent, int) for extent in extents)
    window = transposed_window(m.root, kind.dims, weights.shape)
    begins, outputs = window.pads_begin, window.output
    if not isinstance(kind.dims[1], int) or not all(isinstance(begin, int) for begin in begins):
        return refuse(f"the padding of %{m['x'].name} depends on open extents")
    if 0 in (*extents, *outputs):
        return refuse("there are no pixels")
    plans = [
        _plan(*geometry)
        for geometry in zip(extents, window.kernel, window.strides, window.dilations, begins, outputs, strict=True)
    ]
    if any(plan is None for plan in plans):
        return refuse(f"padding {list(begins)} cuts off more than the taps reach, or as much as open extents say")
    axes = [plan for plan in plans if plan is not None]
    phases = tuple(axis.phases for axis in axes)
    shared = len(set(phases)) == 1 and len(phases) == 2 and phases[0] > 1
    if is_open and (any(a.after < 0 or a.is_cut(n) for a, n in zip(axes, outputs, strict=True)) or not shared):
        return refuse(f"%{m['x'].name} has open extents, and the result ends inside of a step")
    made = weights.shape[1]
    blocked = shared and group == 1
    padded = -(-made // WHOLE) * WHOLE if blocked and 2 * made >= WHOLE else made
    taps = _phase_taps(_spread(weights, axes, window.dilations), axes, group, padded, outermost=blocked)
    inputs = [_cut(b, m["x"], axes, extents), b.constant(taps, name="taps")]
    if m.get("bias") is not None:
        inputs.append(b.constant(_phase_bias(m.array("bias"), phases, padded, outermost=blocked), name="bias"))
    channels = b.op(
        "Conv",
        *inputs,
        kernel_shape=taps.shape[2:],
        dilations=tuple(axis.dilation for axis in axes),
        pads=(*(axis.before for axis in axes), *(max(axis.after, 0) for axis in axes)),
        group=group,
    )
    image = channels
    if shared:
        image = b.op("DepthToSpace", channels, blocksize=phases[0], mode="DCR" if blocked else "CRD")
    elif any(count > 1 for count in phases):
        image = _interleaved(b, channels, padded * group, axes)
    taken = {
        2 + i: Range(a.first, _known(n), 1) for i, (a, n) in enumerate(zip(axes, outputs, strict=True)) if a.is_cut(n)
    }
    if padded != made:
        taken[1] = Range(0, made, 1)
    return emit(b, image, taken) if taken else image


@dataclass(frozen=True)
class _Axis:
    """One spatial axis as a convolution.

    Args:
        phases: How many outputs one position of the convolution makes: the stride.
        taps: Taps of each phase.
        dilation: Distance between a phase's taps.
        before: Zeros before the input.
        after: Zeros after it; inputs that no output sees where negative.
        positions: Windows.
        first: Place of the first output among what the windows make.
    """

    phases: int
    taps: int
    dilation: int
    before: int
    after: int
    positions: Dim
    first: int

    def is_cut(self, outputs: Dim) -> bool:
        """Whether the windows make more than the `outputs` wanted."""
        return self.first > 0 or multiply(self.positions, self.phases) != outputs


def _plan(extent: Dim, kernel: int, stride: int, dilation: int, begin: Dim, output: Dim) -> _Axis | None:
    """The axis as a convolution; None where padding cuts off more than the taps reach, or it is not known how much."""
    if stride == 1:
        taps = kernel
    else:
        taps, dilation = -(-(dilation * (kernel - 1) + 1) // stride), 1
    low, high = begin // stride, (begin + output - 1) // stride
    after = high + 1 - extent
    reach = dilation * (taps - 1)
    if not (isinstance(begin, int) and isinstance(low, int) and isinstance(after, int)) or low > reach:
        return None
    before = reach - low
    return _Axis(stride, taps, dilation, before, after, high - low + 1, begin - low * stride)


def _known(extent: Dim) -> int:
    """An extent of a tensor that is cut or taken apart: open ones are refused before."""
    assert isinstance(extent, int), extent
    return extent


def _cut(b: Builder, x: Value, axes: Sequence[_Axis], extents: Sequence[Dim]) -> Value:
    """`x` without the pixels at its end that no output sees."""
    kept = {
        2 + i: Range(0, _known(n) + a.after, 1)
        for i, (a, n) in enumerate(zip(axes, extents, strict=True))
        if a.after < 0
    }
    return emit(b, x, kept) if kept else x


def _spread(weights: Array, axes: Sequence[_Axis], dilations: Sequence[int]) -> Array:
    """Weights with as many taps as all phases of each axis have: gaps between dilated taps, and the end, are zero."""
    for i, (axis, dilation) in enumerate(zip(axes, dilations, strict=True)):
        step = dilation if axis.phases > 1 else 1
        wide = np.zeros((*weights.shape[: 2 + i], axis.phases * axis.taps, *weights.shape[3 + i :]), weights.dtype)
        places = [slice(None)] * (2 + i) + [slice(0, step * (weights.shape[2 + i] - 1) + 1, step)]
        wide[tuple(places)] = weights
        weights = wide
    return weights


def _phase_taps(weights: Array, axes: Sequence[_Axis], group: int, padded: int, *, outermost: bool) -> Array:
    """Weights (C, M/group, taps...) as those of a convolution (channels of phases, C/group, taps of a phase...).

    Args:
        weights: With `phases * taps` taps along each axis.
        axes: The axes.
        group: Number of groups.
        padded: Outputs of a group, rounded up.
        outermost: Whether the phases come before the outputs among the channels, else after them.
    """
    rank, (channels, made) = len(axes), weights.shape[:2]
    split = [extent for axis in axes for extent in (axis.taps, axis.phases)]
    parts = weights.reshape(group, channels // group, made, *split)
    # Turned round: the first tap of a convolution is the last of a phase.
    parts = np.flip(parts, tuple(3 + 2 * i for i in range(rank)))
    parts = np.pad(parts, [(0, 0), (0, 0), (0, padded - made), *[(0, 0)] * (2 * rank)])
    phase_axes, tap_axes = [4 + 2 * i for i in range(rank)], [3 + 2 * i for i in range(rank)]
    order = [0, *phase_axes, 2, 1, *tap_axes] if outermost else [0, 2, *phase_axes, 1, *tap_axes]
    moved = parts.transpose(order)
    return np.ascontiguousarray(moved.reshape(-1, channels // group, *(axis.taps for axis in axes)))


def _phase_bias(bias: Array, phases: Sequence[int], padded: int, *, outermost: bool) -> Array:
    count = int(np.prod(phases))
    if outermost:
        return np.tile(np.pad(bias, (0, padded - bias.size)), count)
    return np.repeat(bias, count)


def _interleaved(b: Builder, channels: Value, outputs: int, axes: Sequence[_Axis]) -> Value:
    """Phases, innermost among the channels, between the positions of their axes."""
    rank = len(axes)
    phases = [axis.phases for axis in axes]
    positions = [_known(axis.positions) for axis in axes]
    split = b.op("Reshape", channels, b.constant(np.array([0, outputs, *phases, *positions], np.int64)))
    order = [0, 1]
    for i in range(rank):
        order += [2 + rank + i, 2 + i]
    moved = b.op("Transpose", split, perm=tuple(order))
    extents = [count * phase for count, phase in zip(positions, phases, strict=True)]
    return b.op("Reshape", moved, b.constant(np.array([0, outputs, *extents], np.int64)))
