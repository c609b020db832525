"""String attributes that take one of a few words: what they take, and the error where they hold another."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir import Node

_PADDING = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
_UPDATE = ("none", "add", "mul", "max", "min")
_LOSS = ("none", "mean", "sum")
_WINDOWS = ("Conv", "ConvInteger", "ConvTranspose", "QLinearConv", "AveragePool", "LpPool", "MaxPool")

WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    **{op_type: {"auto_pad": _PADDING} for op_type in _WINDOWS},
    **{op_type: {"reduction": _UPDATE} for op_type in ("ScatterElements", "ScatterND")},
    **{op_type: {"reduction": _LOSS} for op_type in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")},
    "BitShift": {"direction": ("LEFT", "RIGHT")},
    "DepthToSpace": {"mode": ("DCR", "CRD")},
    "Gelu": {"approximate": ("none", "tanh")},
    "ImageDecoder": {"pixel_format": ("RGB", "BGR", "Grayscale")},
    "Pad": {"mode": ("constant", "reflect", "edge", "wrap")},
    "Resize": {
        "mode": ("nearest", "linear", "cubic"),
        "coordinate_transformation_mode": (
            "half_pixel",
            "half_pixel_symmetric",
            "pytorch_half_pixel",
            "align_corners",
            "asymmetric",
            "tf_crop_and_resize",
            "tf_half_pixel_for_nn",
        ),
        "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
        "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    },
    "RoiAlign": {
        "mode": ("avg", "max"),
        "coordinate_transformation_mode": ("half_pixel", "output_half_pixel"),
    },
    "StringNormalizer": {"case_change_action": ("LOWER", "UPPER", "NONE")},
    "TfIdfVectorizer": {"mode": ("TF", "IDF", "TFIDF")},
}
"""By operator of ai.onnx, then by attribute. Those that check their words themselves are not here."""


def wrong_word(node: Node) -> str | None:
    """What is wrong with a word among the node's attributes, or None."""
    if node.domain:
        return None
    for name, known in WORDS.get(node.op_type, {}).items():
        found = node.attributes.get(name)
        if found is not None and found not in known:
            return f"{name} {found!r} is none of {', '.join(known)}"
    return None
