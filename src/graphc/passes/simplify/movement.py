"""Transposes, concatenations and splits, pads and resizes that do nothing or that another operator can do."""

from __future__ import annotations

import numpy as np

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.ir.symbolic import product
from graphc.passes.rules import Const, Filled, Match, Optional, P, Refusal, Rest, Var, attr, fixed, refuse, shape_of
from graphc.passes.rules.conditions import copy_op, keeps_shape, normalized_axes, reshape
from graphc.passes.simplify.base import SIMPLIFY

x = Var("x")


def permutation(m: Match, name: str, rank: int) -> tuple[int, ...]:
    """Attribute `perm` bound as `name`, or its default: the axes reversed."""
    perm = m.attribute(name)
    return tuple(reversed(range(rank))) if perm is None else tuple(perm)


@SIMPLIFY.rule(P.Transpose(x, perm=attr("perm")))
def transpose_of_units(m: Match, b: Builder) -> Value | Refusal:
    """Transpose[p](x) = Reshape(x), or x, where p moves nothing but axes of extent 1."""
    shape = m.shape("x")
    perm = permutation(m, "perm", len(shape))
    if perm == tuple(range(len(shape))):
        return m["x"]
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved != sorted(moved):
        return refuse("axes with more than one element change their order")
    if m.output_shape == shape:
        return m["x"]
    return reshape(b, m["x"], shape, m.output_shape)


@SIMPLIFY.rule(P.Transpose(P.Transpose(x, perm=attr("inner")), perm=attr("outer")))
def transpose_of_transpose(m: Match, b: Builder) -> Value:
    """Transpose[q](Transpose[p](x)) = Transpose[p∘q](x)."""
    rank = len(m.shape("x"))
    inner, outer = permutation(m, "inner", rank), permutation(m, "outer", rank)
    combined = tuple(inner[axis] for axis in outer)
    return m["x"] if combined == tuple(range(rank)) else b.op("Transpose", m["x"], perm=combined)


SIMPLIFY.formula("concat_of_one", P.Concat(x), x)


PICTURE = TensorType(dtypes.FLOAT32, (2, 3))


@SIMPLIFY.rule(
    P.Concat(Rest("parts"), axis=attr("axis")),
    examples=lambda choose: {
        "axis": choose.pick((0, 1, -1)),
        "parts": lambda b: [
            x := b.graph.add_input("x", PICTURE),
            b.op("Concat", x, b.graph.add_input("y", PICTURE), axis=choose.pick((0, 1))),
        ],
    },
)
def concat_of_concat(m: Match, b: Builder) -> Value | Refusal:
    """Concat(a, Concat(b, c), d) = Concat(a, b, c, d), where nothing else reads the inner one."""
    axis, parts = m.attribute("axis"), m.rest("parts")
    rank = len(m.output_shape)
    flat: list[Value] = []
    for part in parts:
        inner = part.producer
        if (
            inner is not None
            and inner.is_op("Concat")
            and inner.int_attribute("axis", 0) % rank == axis % rank
            and all(user is m.root for user in part.consumers)
            and not part.is_graph_output
        ):
            flat.extend(value for value in inner.inputs if value is not None)
        else:
            flat.append(part)
    if len(flat) == len(parts):
        return refuse("no input is a Concat along the same axis that is read here alone")
    return b.op("Concat", *flat, axis=axis)


def _halves(b: Builder, axis: int) -> tuple[Value, ...]:
    split = b.op(
        "Split", b.graph.add_input("x", TensorType(dtypes.FLOAT32, (4, 4))), outputs=2, axis=axis, num_outputs=2
    )
    assert split.producer is not None, split
    return split.producer.outputs


@SIMPLIFY.rule(
    P.Concat(Rest("parts"), axis=attr("axis")),
    examples=lambda choose: {"axis": choose.pick((0, 1)), "parts": lambda b: _halves(b, choose.pick((0, 1)))},
)
def concat_of_split(m: Match, b: Builder) -> Value | Refusal:
    """Concat(Split(x)) = x, along one axis and in order."""
    parts = m.rest("parts")
    split = parts[0].producer
    if split is None or not split.is_op("Split") or parts != split.outputs:
        return refuse("the inputs are not the outputs of one Split in order")
    rank = len(m.output_shape)
    if split.int_attribute("axis", 0) % rank != m.attribute("axis") % rank:
        return refuse("Split and Concat have different axes")
    source = split.inputs[0]
    return source if source is not None else refuse("Split has no input")


@SIMPLIFY.rule(P.Split(x, Rest("sizes")).named("split"))
def split_into_one(m: Match, b: Builder) -> Value | Refusal:
    """Split(x) into one part = x."""
    if len(m.root.outputs) != 1:
        return refuse("Split has several outputs")
    return m["x"]


@SIMPLIFY.rule(P.Pad(x, Rest("how")), when=keeps_shape("x"))
def pad_by_nothing(m: Match, b: Builder) -> Value | Refusal:
    """Pad(x, 0) = x."""
    how = m.rest("how")
    if not how or how[0].constant is None or how[0].constant.array().any():
        return refuse("the pads are not all zero")
    return m["x"]


@SIMPLIFY.rule(
    P.Conv(
        P.Pad(
            x,
            Const("pads"),
            Optional(Const("fill", Filled(0))),
            Optional(Const("axes")),
            mode=fixed("constant", default="constant"),
        ).only_here(),
        Var("w"),
        Optional(Var("bias")),
        auto_pad=attr(
            "auto_pad", default="NOTSET", where=lambda found: found in ("NOTSET", "VALID"), examples=("NOTSET",)
        ),
        pads=attr("own"),
    )
)
def pad_into_conv(m: Match, b: Builder) -> Value | Refusal:
    """Conv[p](Pad[q](x)) = Conv[p + q](x) for zero padding of spatial axes."""
    rank = len(m.shape("x"))
    axes = list(range(rank)) if m.get("axes") is None else [axis % rank for axis in m.integers("axes")]
    amounts = m.integers("pads")
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = amounts[place], amounts[place + len(axes)]
    if any(before[:2]) or any(after[:2]):
        return refuse("batch or channels are padded")
    if min(*before, *after) < 0:
        return refuse("a pad is negative: it crops")
    spatial = rank - 2
    own = (
        [0] * (2 * spatial) if m.attribute("own") is None or m.attribute("auto_pad") == "VALID" else m.attribute("own")
    )
    total = [a + p for a, p in zip(own, [*before[2:], *after[2:]], strict=True)]
    return copy_op(b, m.root, m["x"], m["w"], m.get("bias"), pads=tuple(total), auto_pad=None)


@SIMPLIFY.rule(P.Resize(x, Rest("how"), mode=attr("mode", default="nearest")), when=keeps_shape("x"))
def resize_to_same(m: Match, b: Builder) -> Value | Refusal:
    """Resize(x) by scales of 1 = x."""
    how = m.root.inputs[1:]
    if m.root.str_attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return refuse("it crops")
    scales = how[1].constant if len(how) > 1 and how[1] is not None else None
    sizes = how[2] if len(how) > 2 else None
    if scales is not None and scales.size and not np.all(scales.array() == 1):
        return refuse("a scale is not 1")
    if scales is None and sizes is None:
        return refuse("the scales are not constant")
    return m["x"]


@SIMPLIFY.rule(
    P.AveragePool(
        Var("x", rank=4),
        kernel_shape=attr("kernel"),
        strides=attr("strides"),
        pads=attr("pads"),
        auto_pad=attr(
            "auto_pad", default="NOTSET", where=lambda found: found in ("NOTSET", "VALID"), examples=("NOTSET",)
        ),
        dilations=attr("dilations"),
    )
)
def pool_over_everything(m: Match, b: Builder) -> Value | Refusal:
    """AveragePool over the whole picture = GlobalAveragePool."""
    if m.shape("x")[2:] != tuple(m.attribute("kernel")):
        return refuse(f"the kernel is {m.attribute('kernel')}, the picture {m.shape('x')[2:]}")
    if any(m.attribute("pads") or ()):
        return refuse("it pads")
    if any(dilation != 1 for dilation in m.attribute("dilations") or ()):
        return refuse("it is dilated")
    return b.op("GlobalAveragePool", m["x"])


@SIMPLIFY.rule(
    P.Squeeze(
        P.one_of("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")(
            x, Const("axes"), keepdims=fixed(1, default=1)
        )
        .named("reduce")
        .only_here(),
        Const("dropped"),
    )
)
def squeeze_of_reduction(m: Match, b: Builder) -> Value | Refusal:
    """Squeeze(Reduce[keepdims](x, axes), axes) = Reduce(x, axes)."""
    rank = len(m.shape("x"))
    axes = normalized_axes(m.integers("axes"), rank)
    if not axes or axes != normalized_axes(m.integers("dropped"), rank):
        return refuse("other axes are squeezed than reduced")
    return copy_op(b, m.node("reduce"), m["x"], m["axes"], keepdims=0)


@SIMPLIFY.rule(
    P.Reshape(
        P.Transpose(P.Reshape(x, Var("merged")).named("merge").only_here(), perm=attr("perm"))
        .named("inner")
        .only_here(),
        Var("split"),
    ),
    examples=lambda choose: {
        "x": TensorType(dtypes.FLOAT32, (2, 3, 4, 5)),
        "merged": [6, 4, 5],
        "perm": (0, 2, 1),
        "split": choose.pick(([2, 3, 5, 4], [2, 3, 5, 4], [6, 20])),
    },
)
def transpose_of_merged_axes(m: Match, b: Builder) -> Value | Refusal:
    """Reshape(Transpose(Reshape(x))) = Transpose(x), where leading axes are merged, stay in front, and are split."""
    whole, merged = m.shape("x"), shape_of(m.node("merge").output)
    perm = permutation(m, "perm", len(merged))
    count = len(whole) - len(merged) + 1
    if (
        count < 1
        or not merged
        or perm[:1] != (0,)
        or product(whole[:count]) != merged[0]
        or whole[count:] != merged[1:]
    ):
        return refuse("it does not merge leading axes and leave them in front")
    moved = (*range(count), *(axis + count - 1 for axis in perm[1:]))
    if m.output_shape != tuple(whole[axis] for axis in moved):
        return refuse("the result is not split as it was before")
    return b.op("Transpose", m["x"], perm=moved)


@SIMPLIFY.rule(
    P.Transpose(P.Reshape(x, Var("merged")).named("merge").only_here(), perm=attr("perm")),
    examples=lambda choose: {
        "x": TensorType(dtypes.FLOAT32, (2, 3, 4, 5)),
        "merged": [2, 3, 20],
        "perm": choose.pick(((0, 2, 1), (2, 0, 1), (2, 1, 0))),
    },
)
def transpose_of_merged_pixels(m: Match, b: Builder) -> Value | Refusal:
    """Transpose(Reshape(x)) = Reshape(Transpose(x)), where trailing axes are merged: pixels become rows in one step."""
    whole, merged = m.shape("x"), shape_of(m.node("merge").output)
    kept = len(merged) - 1
    if kept < 1 or kept > len(whole) - 2 or whole[:kept] != merged[:kept] or product(whole[kept:]) != merged[kept]:
        return refuse("it does not merge trailing axes")
    pixels = tuple(range(kept, len(whole)))
    moved = [a for axis in permutation(m, "perm", len(merged)) for a in (pixels if axis == kept else (axis,))]
    turned = b.op("Transpose", m["x"], perm=tuple(moved))
    return reshape(b, turned, tuple(whole[axis] for axis in moved), m.output_shape)
