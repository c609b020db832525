"""Convolutions of 8-bit integers written as integer products.

    ConvInteger(x, w) = MatMulInteger(patches(x), w as a matrix), channels first again

The patches hold, for each output pixel, what its window reads, channels innermost: an image with its channels last,
sliced once for each tap and joined. They are bytes, an eighth of what is read and written per product in float32, and
products of 8-bit integers are what CPUs have an instruction for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.ir import Builder, TensorType, Value
from graphc.ir.dtypes import FLOAT32, INT8, INT32, UINT8
from graphc.ops.convolution import conv_window
from graphc.ops.expr import highest, lowest
from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Const, Match, Optional, P, Refusal, Var, attr, refuse, rule_set
from graphc.passes.rules.predicate import Chooser
from graphc.passes.simplify.slicing import Range, emit

RULES = rule_set("integer_conv")

ATTRIBUTES = {
    "kernel_shape": attr("kernel", default=()),
    "strides": attr("strides", default=()),
    "dilations": attr("dilations", default=()),
    "pads": attr("pads", default=()),
}


_LARGEST_PRODUCT = 255 * 255
_EXACT = 1 << 24
"""Integers below this are numbers of float32."""


@register_pass
@dataclass(frozen=True)
class IntegerConv(RulePass):
    """Writes ConvInteger and QLinearConv of one group as MatMulInteger and what follows it.

    A QLinearConv of one channel a group is one of floats, which hold its few products' sums exactly.

    Before: types are inferred. After: one that remains has groups of several channels, weights that are not constant,
    more or fewer than two spatial axes, or open extents. Results are the same bits.
    """

    name: ClassVar[str] = "integer_conv"


def examples(choose: Chooser) -> Mapping[str, Any]:
    """Instances of integer and quantized convolutions of images."""
    left, right, result = (choose.pick((INT8, UINT8)) for _ in range(3))
    kernel = (choose.integer(1, 3), choose.integer(1, 3))
    channels, outputs = choose.integer(1, 5), choose.integer(1, 5)
    count = outputs * channels * math.prod(kernel)
    per = (outputs,) if choose.integer(0, 1) else ()
    return {
        "x": TensorType(left, (choose.integer(1, 2), channels, choose.integer(3, 6), choose.integer(3, 6))),
        "w": (np.arange(count) * 7 % 100).astype(right.numpy).reshape(outputs, channels, *kernel),
        "x_zero": np.array(3, left.numpy),
        "w_zero": np.full(per, 2, right.numpy),
        "y_zero": np.array(5, result.numpy),
        "x_scale": np.float32(0.03),
        "w_scale": np.full(per, 0.02, np.float32),
        "y_scale": np.float32(0.7),
        "bias": (np.arange(outputs) * 50).astype(np.int32),
        "kernel": kernel,
        "strides": (choose.integer(1, 2), choose.integer(1, 2)),
        "dilations": (1, choose.integer(1, 1 if kernel[1] > 1 else 2)),
        "pads": tuple(choose.integer(0, 2) for _ in range(4)),
    }


@RULES.rule(
    P.ConvInteger(Var("x"), Const("w"), Optional(Var("x_zero")), Optional(Var("w_zero")), **ATTRIBUTES),
    examples=examples,
)
def integer_convolution(m: Match, b: Builder) -> Value | Refusal:
    """ConvInteger(x, w) = Transpose(MatMulInteger(patches(x), w as a matrix))."""
    sums = _sums(m, b)
    return sums if isinstance(sums, Refusal) else b.op("Transpose", sums, perm=(0, 3, 1, 2))


@RULES.rule(
    P.QLinearConv(
        *(Var("x"), Var("x_scale"), Var("x_zero"), Const("w"), Var("w_scale"), Var("w_zero")),
        *(Var("y_scale"), Var("y_zero"), Optional(Var("bias"))),
        **ATTRIBUTES,
    ),
    examples=examples,
)
def quantized_convolution(m: Match, b: Builder) -> Value | Refusal:
    """QLinearConv(x, w, b) = Transpose(saturate(round((MatMulInteger(patches(x), w) + b) * scales) + zero))."""
    for name in ("x_scale", "y_scale", "y_zero"):
        if math.prod(m.shape(name)) != 1:
            return refuse(f"%{m[name].name} is more than one number")
    sums = _sums(m, b)
    return sums if isinstance(sums, Refusal) else b.op("Transpose", requantized(m, b, sums), perm=(0, 3, 1, 2))


def _depthwise_examples(choose: Chooser) -> Mapping[str, Any]:
    found = dict(examples(choose))
    channels = found["x"].static_shape[1]
    weights = (np.arange(channels * math.prod(found["kernel"])) * 7 % 100).astype(found["w"].dtype)
    found["w"] = weights.reshape(channels, 1, *found["kernel"])
    found |= {"bias": np.arange(channels, dtype=np.int32) * 50, "group": channels}
    return found | {"w_zero": np.array(2, found["w"].dtype), "w_scale": np.float32(0.02)}


@RULES.rule(
    P.QLinearConv(
        *(Var("x"), Var("x_scale"), Var("x_zero"), Const("w"), Var("w_scale"), Const("w_zero")),
        *(Var("y_scale"), Var("y_zero"), Optional(Var("bias"))),
        group=attr("group", default=1),
        **ATTRIBUTES,
    ),
    examples=_depthwise_examples,
)
def quantized_depthwise_convolution(m: Match, b: Builder) -> Value | Refusal:
    """QLinearConv(x, w, b) of single channels = saturate(round((Conv(x - zero, w - zero) + b) * scales) + zero)."""
    for name in ("x_scale", "x_zero", "y_scale", "y_zero"):
        if math.prod(m.shape(name)) != 1:
            return refuse(f"%{m[name].name} is more than one number")
    x, w, w_zero = m.type("x"), m.array("w"), m.array("w_zero")
    if w.ndim != 4 or x.dtype not in (INT8, UINT8) or w.dtype not in (np.int8, np.uint8):
        return refuse("it is no convolution of images of 8-bit integers")
    if w.shape[1] != 1 or m.attribute("group") in (0, 1):
        return refuse("its groups have several channels")
    if math.prod(w.shape[2:]) * _LARGEST_PRODUCT >= _EXACT:
        return refuse("its sums are no numbers of float32")
    zero = b.op("Reshape", m["x_zero"], b.constant(np.zeros(0, np.int64)))
    image = b.op("Sub", b.op("Cast", m["x"], to=FLOAT32.onnx), b.op("Cast", zero, to=FLOAT32.onnx))
    weights = w.astype(np.float32) - w_zero.astype(np.float32).reshape(-1, 1, 1, 1)
    kept: dict[str, Any] = {
        name: m.root.attributes[name] for name in (*ATTRIBUTES, "auto_pad", "group") if name in m.root.attributes
    }
    sums = b.op("Conv", image, b.constant(weights, name="weights"), **kept)
    return requantized(m, b, b.op("Cast", sums, to=INT32.onnx), trailing=2)


def requantized(m: Match, b: Builder, sums: Value, *, trailing: int = 0) -> Value:
    """The result of a QLinearConv from its sums of products: saturate(round((sums + b) * scales) + zero).

    Args:
        m: The match of a QLinearConv whose scales, those of the weights aside, are numbers.
        b: Builds the replacement.
        sums: In int32.
        trailing: Axes of `sums` behind the one of output channels.
    """

    def by_channel(value: Value) -> Value:
        if not trailing or math.prod(value.tensor_type.static_shape) == 1:
            return value
        return b.op("Reshape", value, b.constant(np.array([-1, *(1,) * trailing])))

    if m.get("bias") is not None:
        sums = b.op("Add", sums, by_channel(m["bias"]))
    result = m.type("y_zero").dtype
    scalar = b.constant(np.zeros(0, np.int64))
    x_scale, y_scale, zero = (b.op("Reshape", m[name], scalar) for name in ("x_scale", "y_scale", "y_zero"))
    factor = b.op("Div", b.op("Mul", x_scale, by_channel(m["w_scale"])), y_scale)
    scaled = b.op("Round", b.op("Mul", b.op("Cast", sums, to=FLOAT32.onnx), factor))
    moved = b.op("Add", scaled, b.op("Cast", zero, to=FLOAT32.onnx))
    low, high = (b.constant(np.float32(limit(result))) for limit in (lowest, highest))
    return b.op("Cast", b.op("Clip", moved, low, high), to=result.onnx)


def _sums(m: Match, b: Builder) -> Value | Refusal:
    """The products' sums, channels last."""
    x, w = m.type("x"), m.array("w")
    if w.ndim != 4 or x.dtype not in (INT8, UINT8) or w.dtype not in (np.int8, np.uint8):
        return refuse("it is no convolution of images of 8-bit integers")
    if m.root.int_attribute("group", 1) != 1:
        return refuse("it has groups")
    window = conv_window(m.root, x.dims, w.shape).static() if x.is_static else None
    if window is None or 0 in (*x.static_shape, *w.shape, *window.output):
        return refuse(f"%{m['x'].name} has open extents, or none")
    zero = m.get("x_zero")
    if zero is not None and math.prod(m.shape("x_zero")) != 1:
        return refuse(f"%{zero.name} is more than one number")
    if zero is None:
        zero = b.constant(np.zeros((), x.dtype.numpy))
    elif m.shape("x_zero"):
        zero = b.op("Reshape", zero, b.constant(np.zeros(0, np.int64)))
    image = m["x"]
    if any((*window.pads_begin, *window.pads_end)):
        # What a window reads beside the image is the number that stands for zero.
        pads = np.array([0, 0, *window.pads_begin, 0, 0, *window.pads_end])
        image = b.op("Pad", image, b.constant(pads), zero)
    image = b.op("Transpose", image, perm=(0, 2, 3, 1))
    taps = []
    for tap in itertools.product(*map(range, window.kernel)):
        taken = {
            axis + 1: Range(place * dilation, count, stride)
            for axis, (place, dilation, count, stride) in enumerate(
                zip(tap, window.dilations, window.output, window.strides, strict=True)
            )
        }
        whole = all(r == Range(0, image.tensor_type.static_shape[axis], 1) for axis, r in taken.items())
        taps.append(image if whole else emit(b, image, taken))
    patches = taps[0] if len(taps) == 1 else b.op("Concat", *taps, axis=3)
    matrix = np.ascontiguousarray(w.transpose(2, 3, 1, 0)).reshape(-1, w.shape[0])
    w_zero = [] if m.get("w_zero") is None else [m["w_zero"]]
    return b.op("MatMulInteger", patches, b.constant(matrix), zero, *w_zero)
