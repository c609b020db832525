"""Steps for operator-set versions 1 to 6: broadcasting by attributes, shapes as attributes, types by name.

ONNX Runtime does not run these versions; models of 2017 and the pytorch parts of ONNX's own test suite are of them.
Source: https://github.com/onnx/onnx/blob/main/docs/Changelog.md.
"""

from __future__ import annotations

from graphc.errors import ModelError
from graphc.frontend.opset.draft import Draft, step
from graphc.ir import TensorType, dtypes

BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")


@step(7, *BINARY)
def _binary_axis(draft: Draft) -> None:
    """With `broadcast` the second operand's axes started at `axis` of the first; now they end together."""
    axis = draft.take("axis")
    if not draft.take("broadcast", 0) or axis is None:
        return
    left, right = draft.rank(draft.input(0)), draft.rank(draft.input(1))
    if left is None or right is None:
        draft.unsupported("broadcasts along an axis of operands whose ranks are unknown")
    trailing = left - right - (axis if axis >= 0 else axis + left)
    if trailing > 0:
        axes = draft.integers(range(right, right + trailing))
        draft.set_input(1, draft.op("Unsqueeze", draft.input(1), axes))


@step(7, "PRelu")
def _prelu_channels(draft: Draft) -> None:
    """A slope of rank 1 belonged to axis 1."""
    slope, rank = draft.input(1), draft.rank(draft.input(0))
    kind = None if slope is None else slope.type
    if not isinstance(kind, TensorType) or kind.rank != 1 or kind.shape == (1,) or rank == 2:
        return
    if rank is None:
        draft.unsupported("has a slope per channel of an input whose rank is unknown")
    draft.set_input(1, draft.op("Unsqueeze", slope, draft.integers(range(1, rank - 1))))


@step(7, "BatchNormalization", "Dropout")
def _always_inference(draft: Draft) -> None:
    draft.take("is_test")


@step(7, "LSTM", "GRU", "RNN")
def _recurrent_outputs(draft: Draft) -> None:
    draft.take("output_sequence")


@step(7, "Gemm")
def _gemm_broadcast(draft: Draft) -> None:
    draft.take("broadcast")


@step(7, "Upsample")
def _upsample_plane(draft: Draft) -> None:
    if "scales" not in draft.attributes:
        draft.attributes["scales"] = (1.0, 1.0, draft.take("height_scale"), draft.take("width_scale"))


@step(6, "Cast")
def _cast_target(draft: Draft) -> None:
    name = str(draft.attributes.get("to", "")).lower()
    found = {"float": dtypes.FLOAT32, "double": dtypes.FLOAT64}.get(name) or next(
        (dtype for dtype in dtypes.ALL if dtype.name == name), None
    )
    if found is None:
        raise ModelError(f"Cast to the unknown type {name!r}", nodes=draft.origins)
    draft.attributes["to"] = found.onnx


@step(6, "Tile")
def _tile_axis(draft: Draft) -> None:
    draft.unsupported("tiles one axis by tensors, which ONNX dropped")


@step(6, "Selu")
def _selu_constants(draft: Draft) -> None:
    draft.attributes.setdefault("alpha", 1.6732)
    draft.attributes.setdefault("gamma", 1.0507)


@step(5, "Reshape")
def _reshape_target(draft: Draft) -> None:
    draft.set_input(1, draft.integers(draft.take("shape")))


@step(4, "Concat")
def _concat_axis(draft: Draft) -> None:
    draft.attributes.setdefault("axis", 1)


@step(2, "Pad")
def _pad_name(draft: Draft) -> None:
    draft.attributes["pads"] = draft.take("paddings")


@step(2, "GlobalLpPool", "LpPool")
def _lp_order(draft: Draft) -> None:
    draft.attributes["p"] = int(draft.take("p", 2.0))


@step(2, "Split")
def _split_axis(draft: Draft) -> None:
    if draft.input(1) is not None:
        draft.unsupported("has its sizes as an input, which ONNX dropped until opset 13")
    draft.attributes.setdefault("axis", 0)
