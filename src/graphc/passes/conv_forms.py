"""Convolutions and pools that no kernel takes well as they are, written as those that one does.

    Conv(volume, w) = Transpose(Conv(Slabs(volume), w'))          weights constant, three spatial axes
    Conv(x, w)      = MatMul(w as a matrix, Columns(x))           weights computed
    MaxPool(volume) = MaxPool(MaxPool(volume))                    over height and width, then over depth

A volume's slabs hold each slice as often as windows along the depth read it, which is little beside the products made
of it; the convolution of images then has all its kernels, Winograd's too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, TensorType, Value
from graphc.ir.dtypes import FLOAT32
from graphc.ops.convolution import conv_window
from graphc.ops.pooling import pool_window
from graphc.ops.window import StaticWindow
from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Const, Match, Optional, P, Refusal, Var, attr, refuse, rule_set
from graphc.passes.rules.predicate import Chooser

RULES = rule_set("conv_forms")


@register_pass
@dataclass(frozen=True)
class ConvForms(RulePass):
    """Writes convolutions of volumes as those of images, those with computed weights as products, pools axis by axis.

    Before: types are inferred, scales are folded into weights. After: a Conv that remains has constant weights and one
    or two spatial axes, or open extents. Results differ by the order of sums only.
    """

    name: ClassVar[str] = "conv_forms"


def _geometry(choose: Chooser, rank: int) -> dict[str, Any]:
    kernel = [choose.integer(1, 3) for _ in range(rank)]
    return {
        "kernel": tuple(kernel),
        "strides": tuple(choose.integer(1, 2) for _ in kernel),
        "dilations": tuple(choose.integer(1, 2) for _ in kernel),
        "pads": tuple(choose.integer(0, 2) for _ in range(2 * rank)),
        "group": choose.pick((1, 1, 2)),
    }


def _volumes(choose: Chooser) -> Mapping[str, Any]:
    geometry = _geometry(choose, 3)
    group, inner, outputs = geometry["group"], choose.integer(1, 2), choose.integer(1, 3)
    weights = (group * outputs, inner, *geometry["kernel"])
    return {
        "x": TensorType(FLOAT32, (choose.integer(1, 2), group * inner, 5, 6, 5)),
        "w": np.cos(np.arange(math.prod(weights), dtype=np.float32)).reshape(weights),
        "bias": np.sin(np.arange(group * outputs, dtype=np.float32)),
        **geometry,
    }


def _computed(choose: Chooser) -> Mapping[str, Any]:
    rank = choose.integer(1, 3)
    geometry = _geometry(choose, rank)
    group, inner, outputs = geometry["group"], choose.integer(1, 2), choose.integer(1, 3)
    return {
        "x": TensorType(FLOAT32, (choose.integer(1, 2), group * inner, *[5] * rank)),
        "w": TensorType(FLOAT32, (group * outputs, inner, *geometry["kernel"])),
        "bias": TensorType(FLOAT32, (group * outputs,)),
        **geometry,
    }


_ATTRIBUTES = {
    "kernel_shape": attr("kernel", default=()),
    "strides": attr("strides", default=()),
    "dilations": attr("dilations", default=()),
    "pads": attr("pads", default=()),
    "group": attr("group", default=1),
}


def _window(m: Match) -> StaticWindow | None:
    """Where the windows lie; None where extents are open."""
    x, w = m.type("x"), m.type("w")
    return conv_window(m.root, x.dims, w.dims).static() if x.is_static and w.is_static else None


@RULES.rule(P.Conv(Var("x", rank=5), Const("w"), Optional(Const("bias")), **_ATTRIBUTES), examples=_volumes)
def volume_as_images(m: Match, b: Builder) -> Value | Refusal:
    """Conv(volume, w, b) = Transpose(Conv(Slabs(volume), w', b))."""
    window, weights, group = _window(m), m.array("w"), m.attribute("group")
    if window is None or 0 in m.type("x").static_shape:
        return refuse(f"%{m['x'].name} has open extents, or none")
    batch, channels, *extents = m.type("x").static_shape
    outputs, inner, taps, height, width = weights.shape
    made, bias = window.output, [m["bias"]] if m.get("bias") is not None else []
    if math.prod(weights.shape[2:]) == 1 and math.prod(window.strides) == 1 and tuple(extents) == made:
        row = b.op("Reshape", m["x"], b.constant(np.array([batch, channels, 1, -1])))
        flat = b.op("Conv", row, b.constant(weights.reshape(outputs, inner, 1, 1)), *bias, group=group)
        return b.op("Reshape", flat, b.constant(np.array([batch, outputs, *made])))
    slabs = b.op(
        "Slabs",
        m["x"],
        domain=GRAPHC_DOMAIN,
        kernel_shape=(taps,),
        strides=window.strides[:1],
        dilations=window.dilations[:1],
        pads=(window.pads_begin[0], window.pads_end[0]),
        group=group,
    )
    kernel = np.ascontiguousarray(weights.transpose(0, 2, 1, 3, 4)).reshape(outputs, taps * inner, height, width)
    images = b.op(
        "Conv",
        slabs,
        b.constant(kernel),
        *bias,
        kernel_shape=(height, width),
        strides=window.strides[1:],
        dilations=window.dilations[1:],
        pads=(*window.pads_begin[1:], *window.pads_end[1:]),
        group=group,
    )
    split = b.op("Reshape", images, b.constant(np.array([batch, made[0], outputs, *made[1:]])))
    return b.op("Transpose", split, perm=(0, 2, 1, 3, 4))


@RULES.rule(P.Conv(Var("x"), Var("w", constant=False), Optional(Var("bias")), **_ATTRIBUTES), examples=_computed)
def computed_weights(m: Match, b: Builder) -> Value | Refusal:
    """Conv(x, w, b) = MatMul(Reshape(w), Columns(x)) + b."""
    if m.type("w").dims[1] == 1 and m.attribute("group") > 1:
        return refuse("each channel is a product of its own")
    window, group = _window(m), m.attribute("group")
    if window is None or 0 in (*m.type("x").static_shape, *m.type("w").static_shape, *window.output):
        return refuse(f"%{m['x'].name} or %{m['w'].name} has open extents, or none")
    batch, _, *extents = m.type("x").static_shape
    outputs, inner, *kernel = m.type("w").static_shape
    depth, pixels = inner * math.prod(kernel), math.prod(window.output)
    columns = m["x"]
    if math.prod(kernel) > 1 or math.prod(window.strides) > 1 or tuple(extents) != window.output:
        columns = b.op(
            "Columns",
            columns,
            domain=GRAPHC_DOMAIN,
            kernel_shape=tuple(kernel),
            strides=window.strides,
            dilations=window.dilations,
            pads=(*window.pads_begin, *window.pads_end),
        )
    parts = [] if group == 1 else [group]
    matrix = b.op("Reshape", m["w"], b.constant(np.array([*parts, outputs // group, depth])))
    panels = b.op("Reshape", columns, b.constant(np.array([batch, *parts, depth, pixels])))
    product = b.op("MatMul", matrix, panels)
    result = b.op("Reshape", product, b.constant(np.array([batch, outputs, *window.output])))
    if m.get("bias") is None:
        return result
    shift = b.op("Reshape", m["bias"], b.constant(np.array([outputs, *[1] * len(kernel)])))
    return b.op("Add", result, shift)


def _pools(choose: Chooser) -> Mapping[str, Any]:
    geometry = _geometry(choose, 3)
    pads = [choose.integer(0, k - 1) for k in (*geometry["kernel"], *geometry["kernel"])]
    return {"x": TensorType(FLOAT32, (1, 2, 6, 7, 6)), **geometry, "pads": tuple(pads), "ceil": choose.integer(0, 1)}


@RULES.rule(
    P.MaxPool(
        Var("x", rank=5),
        kernel_shape=attr("kernel"),
        strides=attr("strides", default=()),
        dilations=attr("dilations", default=()),
        pads=attr("pads", default=()),
        ceil_mode=attr("ceil", default=0),
    ),
    examples=_pools,
)
def maximum_of_maxima(m: Match, b: Builder) -> Value | Refusal:
    """MaxPool(volume) = MaxPool over depth(MaxPool over height and width): fewer elements are compared."""
    if len(m.root.outputs) > 1:
        return refuse("the places of the maxima are wanted")
    kernel = m.attribute("kernel")
    if kernel[0] == 1 or math.prod(kernel[1:]) == 1:
        return refuse(f"a window of {kernel} does not come apart")
    if not m.type("x").is_static or not m.output.is_static:
        return refuse(f"%{m['x'].name} has open extents")
    window = pool_window(m.root, m.shape("x")).static()
    extents = m.type("x").static_shape[2:]
    value = m["x"]
    for axes in ((1, 2), (0,)):
        plain = [axis not in axes for axis in range(3)]
        taps = [1 if out else window.kernel[axis] for axis, out in enumerate(plain)]
        strides = [1 if out else window.strides[axis] for axis, out in enumerate(plain)]
        dilations = [1 if out else window.dilations[axis] for axis, out in enumerate(plain)]
        begins = [0 if out else window.pads_begin[axis] for axis, out in enumerate(plain)]
        # Exactly as much padding as the last window reads, so that rounding up needs no attribute.
        ends = [
            0
            if out
            else max(0, (window.output[a] - 1) * strides[a] + dilations[a] * (taps[a] - 1) + 1 - extents[a] - begins[a])
            for a, out in enumerate(plain)
        ]
        value = b.op("MaxPool", value, kernel_shape=taps, strides=strides, dilations=dilations, pads=[*begins, *ends])
    return value
