"""More random nodes than rules need: further operators, dtypes and attributes, as exporters of models write them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.ir import Attribute, TensorType, dtypes
from graphc.passes.rules import Chooser
from graphc.testing.choosing import chance, permutation
from graphc.testing.samples import (
    FLOATS,
    INTEGERS,
    NUMBERS,
    SAMPLERS,
    Operand,
    OperatorSampler,
    Sample,
    broadcast_partner,
    ints,
    number,
    values,
)

BYTES = (dtypes.INT8, dtypes.UINT8)
ELEMENTS = (*NUMBERS, *BYTES, dtypes.FLOAT16, dtypes.BOOL)
"""What movement moves."""


def _unary(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),))


def _binary(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_), Operand(type_.with_shape(broadcast_partner(choose, type_.static_shape)))))


def _divisor(type_: TensorType, choose: Chooser) -> Sample:
    partner = type_.with_shape(broadcast_partner(choose, type_.static_shape))
    operands = (Operand(type_), Operand(partner, values(choose, partner, low=1, high=3)))
    return Sample(operands, {"fmod": 1 if type_.dtype.is_float else choose.integer(0, 1)})


def _shift(type_: TensorType, choose: Chooser) -> Sample:
    amounts = type_.with_shape(broadcast_partner(choose, type_.static_shape))
    operands = (Operand(type_), Operand(amounts, values(choose, amounts, low=0, high=3)))
    return Sample(operands, {"direction": choose.pick(("LEFT", "RIGHT"))})


def _slope(type_: TensorType, choose: Chooser) -> Sample:
    shape = type_.static_shape
    slope = type_.with_shape(choose.pick((shape, shape[-1:], (1,) * len(shape), (1,))))
    return Sample((Operand(type_), Operand(slope, values(choose, slope))))


def _cast(type_: TensorType, choose: Chooser) -> Sample:
    targets = (*NUMBERS, *BYTES, dtypes.BOOL, dtypes.FLOAT16)
    return Sample((Operand(type_),), {"to": choose.pick(targets).onnx})


def _axis(type_: TensorType, choose: Chooser) -> int:
    rank = type_.rank or 1
    return choose.integer(-rank, rank - 1)


def _along(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),), {"axis": _axis(type_, choose)})


def _arg(type_: TensorType, choose: Chooser) -> Sample:
    attributes = {"keepdims": choose.integer(0, 1), "select_last_index": choose.integer(0, 1)}
    return Sample((Operand(type_),), {"axis": _axis(type_, choose), **attributes})


def _cumulative(type_: TensorType, choose: Chooser) -> Sample:
    attributes = {"exclusive": choose.integer(0, 1), "reverse": choose.integer(0, 1)}
    axis = np.array(_axis(type_, choose), np.int64)
    return Sample((Operand(type_), Operand(TensorType(dtypes.INT64, ()), axis)), {**attributes})


def _top(type_: TensorType, choose: Chooser) -> Sample:
    axis = _axis(type_, choose)
    count = choose.integer(1, type_.static_shape[axis])
    return Sample((Operand(type_), ints(count)), {"axis": axis, "largest": choose.integer(0, 1)})


def _reduce(type_: TensorType, choose: Chooser) -> Sample:
    rank = len(type_.static_shape)
    attributes: dict[str, Attribute] = {"keepdims": choose.integer(0, 1)}
    if chance(choose, 20):
        return Sample((Operand(type_),), attributes)
    axes = [axis - rank if chance(choose, 30) else axis for axis in permutation(choose, range(rank))]
    return Sample((Operand(type_), ints(*axes[: choose.integer(1, rank)])), attributes)


def _triangle(type_: TensorType, choose: Chooser) -> Sample:
    offset = Operand(TensorType(dtypes.INT64, ()), np.array(choose.integer(-2, 3), np.int64))
    return Sample((Operand(type_), offset if chance(choose, 60) else None), {"upper": choose.integer(0, 1)})


def _pad(type_: TensorType, choose: Chooser) -> Sample:
    shape = type_.static_shape
    mode = choose.pick(("constant", "reflect", "edge", "wrap"))
    room = [extent - 1 if mode in ("reflect", "wrap") else 2 for extent in shape]
    amounts = [choose.integer(0, min(2, most)) for most in room * 2]
    if mode == "constant" and chance(choose, 20):
        amounts = [
            -1 if extent > 2 and chance(choose, 30) else amount
            for amount, extent in zip(amounts, shape * 2, strict=True)
        ]
    fill = number(choose.pick((0, 1, 2)), type_.dtype) if mode == "constant" else None
    return Sample((Operand(type_), ints(*amounts), fill), {"mode": mode})


def _gather_elements(type_: TensorType, choose: Chooser) -> Sample:
    axis = _axis(type_, choose)
    shape = [choose.integer(1, extent) for extent in type_.static_shape]
    return Sample((Operand(type_), _indices(choose, shape, type_.static_shape[axis])), {"axis": axis})


def _gather_nd(type_: TensorType, choose: Chooser) -> Sample:
    depth = choose.integer(1, len(type_.static_shape))
    rows = choose.integer(1, 3)
    columns = [_indices(choose, (rows, 1), extent).array for extent in type_.static_shape[:depth]]
    array = np.concatenate([column for column in columns if column is not None], axis=1)
    return Sample((Operand(type_), Operand(TensorType(dtypes.INT64, array.shape), array)))


def _scatter_elements(type_: TensorType, choose: Chooser) -> Sample:
    axis = _axis(type_, choose)
    shape = [choose.integer(1, extent) for extent in type_.static_shape]
    count = shape[axis]
    # Each place once: in which order two writes to one place come, nobody says.
    order = permutation(choose, range(type_.static_shape[axis]))[:count]
    lined = [1] * len(shape)
    lined[axis] = count
    array = np.broadcast_to(np.array(order, np.int64).reshape(lined), shape).copy()
    operands = (Operand(type_), Operand(TensorType(dtypes.INT64, array.shape), array), Operand(type_.with_shape(shape)))
    return Sample(operands, {"axis": axis})


def _scatter_nd(type_: TensorType, choose: Chooser) -> Sample:
    shape = type_.static_shape
    rows = permutation(choose, range(shape[0]))[: choose.integer(1, shape[0])]
    array = np.array(rows, np.int64)[:, None]
    updates = type_.with_shape((len(rows), *shape[1:]))
    return Sample((Operand(type_), Operand(TensorType(dtypes.INT64, array.shape), array), Operand(updates)))


def _indices(choose: Chooser, shape: Any, extent: int) -> Operand:
    rng = np.random.default_rng(choose.integer(0, 2**16))
    array = rng.integers(-extent, extent, tuple(shape))
    return Operand(TensorType(dtypes.INT64, array.shape), array)


def _gather(type_: TensorType, choose: Chooser) -> Sample:
    axis = _axis(type_, choose)
    shape = choose.pick(((), (2,), (1, 3), (2, 2)))
    return Sample((Operand(type_), _indices(choose, shape, type_.static_shape[axis])), {"axis": axis})


def _depth_to_space(type_: TensorType, choose: Chooser) -> Sample | None:
    if type_.static_shape[1] % 4:
        return None
    return Sample((Operand(type_),), {"blocksize": 2, "mode": choose.pick(("DCR", "CRD"))})


def _space_to_depth(type_: TensorType, choose: Chooser) -> Sample | None:
    height, width = type_.static_shape[2:]
    return None if height % 2 or width % 2 else Sample((Operand(type_),), {"blocksize": 2})


_COORDINATES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")


def _resize(type_: TensorType, choose: Chooser) -> Sample:
    shape = type_.static_shape
    mode = choose.pick(("nearest", "linear", "cubic") if len(shape) == 4 else ("nearest", "linear"))
    attributes: dict[str, Attribute] = {
        "mode": mode,
        "coordinate_transformation_mode": choose.pick(
            ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
        ),
    }
    if mode == "nearest":
        attributes["nearest_mode"] = choose.pick(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))
    sizes = [*shape[:2], *(choose.integer(1, 2 * extent) for extent in shape[2:])]
    return Sample((Operand(type_), None, None, ints(*sizes)), attributes)


def _pool(type_: TensorType, choose: Chooser) -> Sample:
    spatial = type_.static_shape[2:]
    kernel = tuple(choose.integer(1, min(3, extent)) for extent in spatial)
    attributes: dict[str, Attribute] = {
        "kernel_shape": kernel,
        "strides": tuple(choose.integer(1, 3) for _ in spatial),
        "ceil_mode": choose.integer(0, 1),
    }
    if chance(choose, 50):
        attributes["pads"] = tuple(choose.integer(0, k - 1) for k in kernel * 2)
    return Sample((Operand(type_),), attributes)


def _average_pool(type_: TensorType, choose: Chooser) -> Sample:
    sample = _pool(type_, choose)
    return Sample(sample.operands, {**sample.attributes, "count_include_pad": choose.integer(0, 1)})


def _lp_pool(type_: TensorType, choose: Chooser) -> Sample:
    sample = _pool(type_, choose)
    kept = {name: value for name, value in sample.attributes.items() if name != "ceil_mode"}
    return Sample(sample.operands, {**kept, "p": choose.integer(1, 2)})


def _global_lp_pool(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),), {"p": choose.integer(1, 3)})


def _conv(type_: TensorType, choose: Chooser) -> Sample:
    _, channels, *spatial = type_.static_shape
    groups = choose.pick([divisor for divisor in range(1, channels + 1) if channels % divisor == 0])
    kernel = [choose.integer(1, 3) for _ in spatial]
    dilations = [choose.integer(1, 2) for _ in spatial]
    weight = type_.with_shape((groups * choose.integer(1, 3), channels // groups, *kernel))
    attributes: dict[str, Attribute] = {"group": groups, "dilations": tuple(dilations)}
    attributes["strides"] = tuple(choose.integer(1, 2) for _ in spatial)
    if chance(choose, 30) and max(dilations) == 1:
        attributes["auto_pad"] = choose.pick(("SAME_UPPER", "SAME_LOWER"))
    else:
        reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        attributes["pads"] = tuple(
            r - r // 2 if extent <= r else choose.integer(0, r)
            for r, extent in zip(reach * 2, spatial * 2, strict=True)
        )
    bias = type_.with_shape(weight.static_shape[:1])
    operands = (
        Operand(type_),
        Operand(weight, values(choose, weight) if chance(choose, 70) else None),
        Operand(bias) if chance(choose, 50) else None,
    )
    return Sample(operands, attributes)


def _instance_norm(type_: TensorType, choose: Chooser) -> Sample:
    vector = type_.with_shape(type_.static_shape[1:2])
    return Sample((Operand(type_), Operand(vector), Operand(vector)), {"epsilon": 1e-2})


def _group_norm(type_: TensorType, choose: Chooser) -> Sample:
    channels = type_.static_shape[1]
    vector = type_.with_shape((channels,))
    groups = choose.pick([divisor for divisor in range(1, channels + 1) if channels % divisor == 0])
    return Sample((Operand(type_), Operand(vector), Operand(vector)), {"num_groups": groups, "epsilon": 1e-2})


def _lp_norm(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),), {"axis": _axis(type_, choose), "p": choose.integer(1, 2)})


def _local_norm(type_: TensorType, choose: Chooser) -> Sample:
    return Sample((Operand(type_),), {"size": choose.pick((1, 3, 5)), "alpha": 0.1, "beta": 0.75, "bias": 1.0})


def _einsum(type_: TensorType, choose: Chooser) -> Sample:
    letters = "abcd"[: len(type_.static_shape)]
    kept = "".join(sorted(permutation(choose, letters)[: choose.integer(0, len(letters))]))
    if chance(choose, 50):
        return Sample((Operand(type_),), {"equation": f"{letters}->{''.join(permutation(choose, kept))}"})
    other = type_.with_shape((type_.static_shape[-1], choose.integer(1, 3)))
    return Sample((Operand(type_), Operand(other)), {"equation": f"{letters},{letters[-1]}z->{letters[:-1]}z"})


def _one_hot(type_: TensorType, choose: Chooser) -> Sample:
    pair = np.array([choose.integer(-1, 0), choose.integer(1, 3)], np.float32)
    depth = Operand(TensorType(dtypes.INT64, ()), np.array(choose.integer(1, 5), np.int64))
    operands = (Operand(type_), depth, Operand(TensorType(dtypes.FLOAT32, (2,)), pair))
    return Sample(operands, {"axis": choose.integer(-1, type_.rank or 0)})


def _split(type_: TensorType, choose: Chooser) -> Sample:
    axis = _axis(type_, choose)
    return Sample((Operand(type_),), {"axis": axis, "num_outputs": choose.integer(1, type_.static_shape[axis])})


def _concat(type_: TensorType, choose: Chooser) -> Sample:
    axis = _axis(type_, choose)
    shapes = [list(type_.static_shape) for _ in range(choose.integer(1, 4))]
    for shape in shapes:
        shape[axis] = choose.integer(1, 3)
    return Sample((Operand(type_), *(Operand(type_.with_shape(shape)) for shape in shapes)), {"axis": axis})


def _where(type_: TensorType, choose: Chooser) -> Sample:
    branch = TensorType(choose.pick(ELEMENTS[:-1]), broadcast_partner(choose, type_.static_shape))
    return Sample((Operand(type_), Operand(branch), Operand(branch)))


def _quantize(type_: TensorType, choose: Chooser) -> Sample:
    zero = TensorType(choose.pick(BYTES), ())
    return Sample((Operand(type_), number(0.03, type_.dtype), Operand(zero, values(choose, zero, low=0, high=3))))


def _dequantize(type_: TensorType, choose: Chooser) -> Sample:
    zero = type_.with_shape(())
    return Sample((Operand(type_), number(0.25, dtypes.FLOAT32), Operand(zero, values(choose, zero, low=0, high=3))))


def _matmul(type_: TensorType, choose: Chooser) -> Sample:
    shape = type_.static_shape
    if len(shape) == 1 or chance(choose, 20):
        return Sample((Operand(type_), Operand(type_.with_shape((shape[-1],)))))
    batch = choose.pick((shape[:-2], (), (1,) * (len(shape) - 2), (2, *shape[:-2])))
    return Sample((Operand(type_), Operand(type_.with_shape((*batch, shape[-1], choose.integer(1, 5))))))


def _gemm(type_: TensorType, choose: Chooser) -> Sample:
    flipped, transposed = choose.integer(0, 1), choose.integer(0, 1)
    rows, depth = type_.static_shape[:: -1 if flipped else 1]
    columns = choose.integer(1, 5)
    weight = type_.with_shape((columns, depth) if transposed else (depth, columns))
    bias = type_.with_shape(choose.pick(((columns,), (rows, 1), (1, columns), (rows, columns), (1,), ())))
    operands = (Operand(type_), Operand(weight), Operand(bias) if chance(choose, 70) else None)
    return Sample(
        operands,
        {"transA": flipped, "transB": transposed, "alpha": choose.pick((1.0, 0.5)), "beta": choose.pick((1.0, 2.0))},
    )


def _outputs(count: int) -> Any:
    return lambda sample: count


def _number_of_outputs(sample: Sample) -> int:
    count = sample.attributes["num_outputs"]
    assert isinstance(count, int)
    return count


def _with(kinds: Any, *names: str) -> dict[str, OperatorSampler]:
    """Operators of the common table on further dtypes."""
    return {
        name: OperatorSampler(kinds, SAMPLERS[name].ranks, SAMPLERS[name].sample, SAMPLERS[name].outputs)
        for name in names
    }


def _table(names: str, *rest: Any) -> dict[str, OperatorSampler]:
    return {name: OperatorSampler(*rest) for name in names.split()}


_ANY, _SOME, _SPATIAL, _IMAGE = (0, 5), (1, 5), (3, 5), (4, 4)
WIDE_SAMPLERS: dict[str, OperatorSampler] = {
    **{name: sampler for name, sampler in SAMPLERS.items() if name not in ("Dropout", "CastLike")},
    **_with(ELEMENTS, "Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Expand", "Tile"),
    **_with((*NUMBERS, dtypes.BOOL), "Equal"),
    **_with(NUMBERS, "Max", "Min"),
    **_table("Asin Acos Tan Sinh Cosh Asinh Acosh Atanh", (dtypes.FLOAT32,), _ANY, _unary),
    **_table("ThresholdedRelu Celu Shrink HardSigmoid Elu", (dtypes.FLOAT32,), _ANY, _unary),
    **_table("IsInf", FLOATS, _ANY, _unary),
    **_table("PRelu", FLOATS, _SOME, _slope),
    **_table("Mod", NUMBERS, _ANY, _divisor),
    **_table("BitwiseAnd BitwiseOr BitwiseXor", (*INTEGERS, *BYTES), _ANY, _binary),
    **_table("BitwiseNot", (*INTEGERS, *BYTES), _ANY, _unary),
    **_table("BitShift", (dtypes.UINT8, dtypes.UINT32, dtypes.UINT64), _ANY, _shift),
    **_table("Cast", ELEMENTS, _ANY, _cast),
    **_table("Where", (dtypes.BOOL,), _ANY, _where),
    **_table("Softmax LogSoftmax Hardmax", FLOATS, _SOME, _along),
    **_table("ArgMax ArgMin", NUMBERS, _SOME, _arg),
    **_table("CumSum", NUMBERS, _SOME, _cumulative),
    **_table("TopK", NUMBERS, _SOME, _top, _outputs(2)),
    **_table("ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd", NUMBERS, _SOME, _reduce),
    **_table("ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp", (dtypes.FLOAT32,), _SOME, _reduce),
    **_table("Trilu", ELEMENTS, (2, 4), _triangle),
    **_table("Pad", NUMBERS, _SOME, _pad),
    **_table("Gather", ELEMENTS, _SOME, _gather),
    **_table("GatherElements", NUMBERS, _SOME, _gather_elements),
    **_table("GatherND", NUMBERS, _SOME, _gather_nd),
    **_table("ScatterElements", NUMBERS, _SOME, _scatter_elements),
    **_table("ScatterND", NUMBERS, _SOME, _scatter_nd),
    **_table("OneHot", INTEGERS, (1, 3), _one_hot),
    **_table("Concat", ELEMENTS, _SOME, _concat),
    **_table("Split", NUMBERS, _SOME, _split, _number_of_outputs),
    **_table("DepthToSpace", (dtypes.FLOAT32,), _IMAGE, _depth_to_space),
    **_table("SpaceToDepth", (dtypes.FLOAT32,), _IMAGE, _space_to_depth),
    **_table("Resize", (dtypes.FLOAT32,), _SPATIAL, _resize),
    **_table("MaxPool", FLOATS, _SPATIAL, _pool),
    **_table("AveragePool", (dtypes.FLOAT32,), _SPATIAL, _average_pool),
    **_table("LpPool", (dtypes.FLOAT32,), _SPATIAL, _lp_pool),
    **_table("Conv", (dtypes.FLOAT32,), _SPATIAL, _conv),
    **_table("GlobalLpPool", FLOATS, _SPATIAL, _global_lp_pool),
    **_table("InstanceNormalization", (dtypes.FLOAT32,), _SPATIAL, _instance_norm),
    **_table("GroupNormalization", (dtypes.FLOAT32,), _SPATIAL, _group_norm),
    **_table("MeanVarianceNormalization", (dtypes.FLOAT32,), _IMAGE, _unary),
    **_table("LpNormalization", FLOATS, _SOME, _lp_norm),
    **_table("LRN", (dtypes.FLOAT32,), _IMAGE, _local_norm),
    **_table("Einsum", FLOATS, (1, 4), _einsum),
    **_table("QuantizeLinear", (dtypes.FLOAT32,), _ANY, _quantize),
    **_table("DequantizeLinear", BYTES, _ANY, _dequantize),
    **_table("MatMul", NUMBERS, (1, 4), _matmul),
    **_table("Gemm", FLOATS, (2, 2), _gemm),
}
"""How random nodes of each operator are made for whole models; ranks go to 5, where kernels must give way."""
