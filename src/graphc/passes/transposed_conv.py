"""Transposed convolutions whose patches do not overlap, written as pointwise convolutions.

ConvTranspose(x, w, b; kernel = stride = k) = DepthToSpace(Conv1x1(x, w', b'); k)

Every input pixel makes a k x k patch of its own, so the patches' pixels are channels of a pointwise convolution, which
DepthToSpace lays out. Channels are rounded up to whole vectors, so that each pixel of a patch starts a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.ir import Builder, TensorType, Value
from graphc.ir.dtypes import FLOAT32
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
    """Writes 2-D transposed convolutions of stride = kernel as pointwise convolutions and DepthToSpace.

    Before: types are inferred, scales are folded into weights. After: a ConvTranspose that remains has overlapping or
    cut patches, groups, or weights that are not constant. Results differ by the order of sums only.
    """

    name: ClassVar[str] = "transposed_conv"


def _examples(choose: Chooser) -> Mapping[str, Any]:
    size = choose.integer(1, 3)
    channels, outputs = choose.integer(1, 3), choose.integer(1, 20)
    count = channels * outputs * size * size
    weights = np.cos(np.arange(count, dtype=np.float32)).reshape(channels, outputs, size, size)
    return {
        "x": TensorType(FLOAT32, (1, channels, 3, 2)),
        "w": weights,
        "bias": np.sin(np.arange(outputs, dtype=np.float32)),
        "strides": (size, size),
        "kernel": (size, size),
        "pads": (0, 0, 0, 0),
    }


@RULES.rule(
    P.ConvTranspose(
        Var("x"),
        Const("w"),
        Optional(Const("bias")),
        strides=attr("strides", default=(1, 1)),
        kernel_shape=attr("kernel", default=()),
        pads=attr("pads", default=()),
    ),
    examples=_examples,
)
def patches_as_channels(m: Match, b: Builder) -> Value | Refusal:
    """ConvTranspose(x, w, b; k = s) = Slice(DepthToSpace(Conv(x, w', b'), k))."""
    strides = tuple(m.attribute("strides"))
    weights = m.array("w")
    if weights.ndim != 4:
        return refuse(f"the convolution has {weights.ndim - 2} spatial axes, not 2")
    _, outputs, height, width = weights.shape
    if height != width or strides != (height, width):
        return refuse(f"patches of {height}x{width} at strides {strides} overlap or gap")
    if reason := _cut(m.root.attributes):
        return refuse(reason)
    padded = outputs if 2 * outputs < WHOLE else -(-outputs // WHOLE) * WHOLE
    taps = np.zeros((height, width, padded, weights.shape[0]), weights.dtype)
    taps[:, :, :outputs] = weights.transpose(2, 3, 1, 0)
    inputs = [m["x"], b.constant(taps.reshape(-1, weights.shape[0], 1, 1), name="taps")]
    if m.get("bias") is not None:
        shift = np.zeros((height * width, padded), weights.dtype)
        shift[:, :outputs] = m.array("bias")
        inputs.append(b.constant(shift.reshape(-1), name="bias"))
    channels = b.op("Conv", *inputs, kernel_shape=(1, 1))
    image = b.op("DepthToSpace", channels, blocksize=height, mode="DCR")
    return image if padded == outputs else emit(b, image, {1: Range(0, outputs, 1)})


def _cut(attributes: Mapping[str, Any]) -> str:
    """Why the patches are not laid out whole and side by side; empty where they are."""
    if attributes.get("group", 1) != 1:
        return "it has groups"
    for name in ("pads", "output_padding"):
        if any(attributes.get(name, ())):
            return f"it has {name} {attributes[name]}"
    if any(d != 1 for d in attributes.get("dilations", ())) or attributes.get("output_shape"):
        return "it has dilations or a given output shape"
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID", b"NOTSET", b"VALID"):
        return f"it has auto_pad {attributes['auto_pad']!r}"
    return ""
