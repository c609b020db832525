"""How each operator's definition changed between operator-set versions, as steps that undo the difference.

Versions whose definition only took more types, or whose new attribute defaults to the old meaning, need no step.
Source: https://github.com/onnx/onnx/blob/main/docs/Changelog.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.errors import ModelError
from graphc.frontend.opset.draft import Draft, Step, step
from graphc.ir import Tensor, TensorType, dtypes

REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
)


def _to_input(name: str, index: int) -> Step:
    """The integer attribute `name` becomes input `index`."""

    def move(draft: Draft) -> None:
        value = draft.take(name)
        if value is not None:
            draft.set_input(index, draft.integers(value))

    return move


for _version, _name, _index, _op_types in (
    (13, "axes", 1, ("Squeeze", "Unsqueeze", "ReduceSum")),
    (18, "axes", 1, REDUCTIONS),
    (13, "split", 1, ("Split",)),
):
    step(_version, *_op_types)(_to_input(_name, _index))


@step(10, "TopK")
def _top_k_count(draft: Draft) -> None:
    draft.set_input(1, draft.integers([draft.take("k")]))


@step(18, "Split")
def _split_count(draft: Draft) -> None:
    if draft.input(1) is None:
        draft.attributes["num_outputs"] = len(draft.outputs)


@step(10, "Slice")
def _slice_ranges(draft: Draft) -> None:
    starts, ends, axes = (draft.take(name) for name in ("starts", "ends", "axes"))
    draft.inputs[1:] = [draft.integers(starts), draft.integers(ends)]
    if axes is not None:
        draft.set_input(3, draft.integers(axes))


@step(11, "Clip")
def _clip_limits(draft: Draft) -> None:
    for index, name in ((1, "min"), (2, "max")):
        limit = draft.take(name)
        if limit is not None and abs(limit) < np.finfo(np.float32).max:
            draft.set_input(index, draft.like(limit, draft.input(0)))


@step(11, "Pad")
def _pad_amounts(draft: Draft) -> None:
    draft.set_input(1, draft.integers(draft.take("pads")))
    value = draft.take("value", 0.0)
    if value != 0.0:
        draft.set_input(2, draft.like(value, draft.input(0)))


@step(10, "Dropout")
def _dropout_mask(draft: Draft) -> None:
    """Before 10 the mask had the data's type; at inference it is all ones."""
    if not draft.has_output(1):
        return
    mask = draft.outputs[1]
    data = draft.input(0)
    draft.outputs = draft.outputs[:1]
    shape = draft.op("Shape", data)
    ones = draft.op("ConstantOfShape", shape, value=Tensor.of(np.ones(1, np.float32)))
    draft.op("CastLike", ones, data, outputs=[mask])


@step(12, "Dropout")
def _dropout_ratio(draft: Draft) -> None:
    ratio = draft.take("ratio", 0.5)
    draft.set_input(1, draft.constant(ratio, dtypes.FLOAT32))


@step(9, "BatchNormalization")
def _batch_norm_spatial(draft: Draft) -> None:
    """`spatial=0` has statistics per element of a sample: plain arithmetic."""
    _batch_norm_outputs(draft)
    if draft.take("spatial", 1):
        return
    x, scale, shift, mean, variance = (draft.input(index) for index in range(5))
    epsilon = draft.like(float(draft.take("epsilon", 1e-5)), x)
    draft.take("momentum")
    deviation = draft.op("Sqrt", draft.op("Add", variance, epsilon))
    normalized = draft.op("Div", draft.op("Sub", x, mean), deviation)
    draft.op_type = "Add"
    draft.inputs = [draft.op("Mul", normalized, scale), shift]


@step(14, "BatchNormalization")
def _batch_norm_outputs(draft: Draft) -> None:
    """Before 14 the further outputs meant training."""
    if any(draft.has_output(index) for index in range(1, len(draft.outputs))):
        draft.unsupported("has the outputs of training mode", "export the model in evaluation mode")
    draft.outputs = draft.outputs[:1]


@step(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax_rows(draft: Draft) -> None:
    """Before 13 the input was flattened to two axes at `axis`, and rows were normalized."""
    axis = draft.take("axis", 1)
    x = draft.input(0)
    rank = draft.rank(x)
    draft.attributes["axis"] = -1
    if axis == -1 or (rank is not None and axis == rank - 1):
        return
    rows = draft.op("Flatten", x, axis=axis)
    normalized = draft.op(draft.op_type, rows, axis=-1)
    draft.op_type = "Reshape"
    draft.attributes = {"allowzero": 0}
    draft.inputs = [normalized, draft.op("Shape", x)]


@step(9, "Upsample")
def _upsample_scales(draft: Draft) -> None:
    draft.set_input(1, draft.constant(draft.take("scales"), dtypes.FLOAT32))


@step(10, "Upsample")
def _upsample_to_resize(draft: Draft) -> None:
    draft.op_type = "Resize"
    if draft.attributes.get("mode") == "bilinear":
        draft.attributes["mode"] = "linear"


@step(11, "Resize")
def _resize_coordinates(draft: Draft) -> None:
    """Version 10 knew only scales, and coordinates that start at 0."""
    draft.inputs = [draft.input(0), None, draft.input(1)]
    draft.attributes["coordinate_transformation_mode"] = "asymmetric"
    draft.attributes["nearest_mode"] = "floor"


@step(13, "Resize")
def _resize_absent_inputs(draft: Draft) -> None:
    """Before 13 an absent `roi` or `scales` could be written as an empty tensor."""
    for index in (1, 2):
        value = draft.input(index)
        if value is not None and isinstance(value.type, TensorType) and value.type.shape == (0,):
            draft.set_input(index, None)
    if draft.attributes.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        draft.unsupported("uses the coordinates tf_half_pixel_for_nn, which ONNX dropped")


@step(11, "Scatter")
def _scatter_elements(draft: Draft) -> None:
    draft.op_type = "ScatterElements"


@step(16, "RoiAlign")
def _roi_align_pixels(draft: Draft) -> None:
    draft.attributes.setdefault("coordinate_transformation_mode", "output_half_pixel")


@step(20, "GridSample")
def _grid_sample_modes(draft: Draft) -> None:
    mode = draft.take("mode", "bilinear")
    draft.attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


@step(20, "DFT")
def _dft_axis(draft: Draft) -> None:
    draft.set_input(2, draft.integers(draft.take("axis", 1)))


@step(21, "GroupNormalization")
def _group_norm_channels(draft: Draft) -> None:
    """Before 21 scale and bias had one element a group, now one a channel."""
    groups = draft.attributes.get("num_groups")
    if not isinstance(groups, int) or groups < 1:
        raise ModelError(f"GroupNormalization has num_groups {groups!r}", nodes=draft.origins)
    draft.attributes.pop("stash_type", None)
    x = draft.input(0)
    kind = None if x is None else x.type
    shape = kind.shape if isinstance(kind, TensorType) else None
    if shape is not None and len(shape) > 1 and isinstance(shape[1], int):
        repeats = draft.integers([1, shape[1] // groups])
    else:
        channels = draft.op("Shape", x, start=1, end=2)
        per_group = draft.op("Div", channels, draft.integers([groups]))
        repeats = draft.op("Concat", draft.integers([1]), per_group, axis=0)
    for index in (1, 2):
        column = draft.op("Reshape", draft.input(index), draft.integers([groups, 1]))
        spread = draft.op("Tile", column, repeats)
        draft.set_input(index, draft.op("Reshape", spread, draft.integers([-1])))


_CONSTANT_FORMS: dict[str, Callable[[Any], Tensor]] = {
    "value_float": lambda value: Tensor.of(np.asarray(value, np.float32)),
    "value_floats": lambda value: Tensor.of(np.asarray(value, np.float32)),
    "value_int": lambda value: Tensor.of(np.asarray(value, np.int64)),
    "value_ints": lambda value: Tensor.of(np.asarray(value, np.int64)),
    "value_string": lambda value: Tensor.of(_strings(value), dtypes.STRING),
    "value_strings": lambda value: Tensor.of(_strings(list(value)), dtypes.STRING),
    "sparse_value": lambda value: value,
}


def _strings(value: Any) -> Any:
    array = np.empty(np.shape(value), object)
    array[...] = value
    return array


def constant_tensor(draft: Draft) -> Tensor:
    """The tensor of a Constant node in whatever form it is given.

    Raises:
        ModelError: The node has no value, or more than one.
    """
    forms = [name for name in draft.attributes if name == "value" or name in _CONSTANT_FORMS]
    if len(forms) != 1:
        raise ModelError(f"Constant needs exactly one value and has {len(forms)}", nodes=draft.origins)
    value: Any = draft.attributes[forms[0]]
    return value if forms[0] == "value" else _CONSTANT_FORMS[forms[0]](value)
