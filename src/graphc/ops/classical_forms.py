"""What the operators of classical machine learning (ai.onnx.ml) stand for, where they work on numbers.

Where the specification leaves something open, it is done as ONNX Runtime does it. Operators on text stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.ir import Builder, Node, Tensor, Value, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import Array
from graphc.ops.classical import DOMAIN
from graphc.ops.decomposition import Decompose, decomposed, rank_of, scalar_like
from graphc.ops.post_transform import labels_of, post_transformed, with_second_class

Form = Callable[[Builder, Node, Value], "Sequence[Value] | None"]
"""What a node stands for, given its data."""


def floats(node: Node, name: str) -> Array:
    """An attribute's numbers, none where it is not there."""
    found = node.attributes.get(name)
    return np.array(found if isinstance(found, tuple) else (), np.float64)


def _is_text(value: Value) -> bool:
    return value.tensor_type.dtype == dtypes.STRING


def cast_to(b: Builder, value: Value, dtype: DType) -> Value:
    """The value in a dtype."""
    return value if value.tensor_type.dtype == dtype else b.op("Cast", value, to=dtype.onnx)


def computed(b: Builder, value: Value) -> Value:
    """Data in float64 if it is, else in float32."""
    return value if value.tensor_type.dtype == dtypes.FLOAT64 else cast_to(b, value, dtypes.FLOAT32)


def one_row(b: Builder, x: Value) -> Value:
    """A vector as one row."""
    return b.op("Unsqueeze", x, b.constant(np.array([0]))) if rank_of(x) == 1 else x


def feature_count(x: Value) -> int | None:
    """How many columns the data has, if that is known."""
    last = x.tensor_type.dims[-1] if x.tensor_type.shape else None
    return last if isinstance(last, int) else None


def array_like(b: Builder, values: Any, like: Value) -> Value:
    """A constant in the dtype of `like`."""
    return b.constant(np.asarray(values).astype(like.tensor_type.dtype.numpy))


# --- columns by themselves --------------------------------------------------------------------------------------------


def _binarizer(b: Builder, node: Node, x: Value) -> Sequence[Value]:
    wide = cast_to(b, x, dtypes.FLOAT64) if x.tensor_type.dtype.is_integer else x
    above = b.op("Greater", wide, scalar_like(b, node.float_attribute("threshold", 0.0), wide))
    return [b.op("Cast", above, to=x.tensor_type.dtype.onnx)]


def _scaler(b: Builder, node: Node, x: Value) -> Sequence[Value]:
    result = computed(b, x)
    offset, scale = floats(node, "offset"), floats(node, "scale")
    if offset.size:
        result = b.op("Sub", result, array_like(b, offset, result))
    if scale.size:
        result = b.op("Mul", result, array_like(b, scale, result))
    return [cast_to(b, result, dtypes.FLOAT32)]


def _imputer(b: Builder, node: Node, x: Value) -> Sequence[Value] | None:
    integral = x.tensor_type.dtype.is_integer
    name, missing = (
        ("imputed_value_int64s", "replaced_value_int64")
        if integral
        else (
            "imputed_value_floats",
            "replaced_value_float",
        )
    )
    values = node.attributes.get(name)
    if not isinstance(values, tuple) or not values:
        return None
    replaced = node.attributes.get(missing, 0)
    if isinstance(replaced, float) and np.isnan(replaced):
        found = b.op("IsNaN", x)
    else:
        found = b.op("Equal", x, array_like(b, replaced, x))
    return [b.op("Where", found, array_like(b, values, x), x)]


def _normalizer(b: Builder, node: Node, x: Value) -> Sequence[Value]:
    x = cast_to(b, x, dtypes.FLOAT32)
    norm, axis = node.str_attribute("norm", "MAX"), b.constant(np.array([-1]))
    size = b.op({"MAX": "ReduceMax", "L1": "ReduceL1"}.get(norm, "ReduceL2"), x, axis)
    # A row of zeros stays one.
    zero = b.op("Equal", size, scalar_like(b, 0, size))
    return [b.op("Div", x, b.op("Where", zero, scalar_like(b, 1, size), size))]


def _one_hot(b: Builder, node: Node, x: Value) -> Sequence[Value] | None:
    categories = node.ints_attribute("cats_int64s")
    # Without `zeros` a category that is not there is an error.
    if _is_text(x) or not categories or not node.int_attribute("zeros", 1):
        return None
    last = b.op("Unsqueeze", cast_to(b, x, dtypes.INT64), b.constant(np.array([-1])))
    return [cast_to(b, b.op("Equal", last, b.constant(np.array(categories, np.int64))), dtypes.FLOAT32)]


def _extractor(b: Builder, node: Node, x: Value, picks: Value) -> Sequence[Value]:
    flat = b.op("Reshape", picks, b.constant(np.array([-1])))
    return [b.op("Gather", one_row(b, x), flat, axis=-1)]


def _feature_vector(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
    widths = node.ints_attribute("inputdimensions") or ()
    parts: list[Value] = []
    given = [value for value in inputs if value is not None and feature_count(value) is not None]
    if len(given) != len(inputs) or any(_is_text(value) or rank_of(value) > 2 for value in given):
        return None
    for value, width in zip(given, widths, strict=False):
        part = cast_to(b, one_row(b, value), dtypes.FLOAT32)
        extent = feature_count(value) or 0
        if extent > width:
            part = b.op("Slice", part, *(b.constant(np.array([n])) for n in (0, width, 1)))
        elif extent < width:
            part = b.op("Pad", part, b.constant(np.array([0, 0, 0, width - extent])))
        parts.append(part)
    return [b.op("Concat", *parts, axis=1)] if parts else None


# --- labels -----------------------------------------------------------------------------------------------------------

MOST_COMPARED = 16
"""Keys up to which each element is compared with all of them; more are searched for by halving."""


def _table(node: Node, what: str) -> tuple[str, Array | None]:
    """The keys or values of a LabelEncoder, and the name of their kind."""
    tensor = node.attributes.get(f"{what}_tensor")
    if isinstance(tensor, Tensor):
        return "tensor", None if tensor.dtype == dtypes.STRING else tensor.array()
    for kind, dtype in (("int64", np.int64), ("float", np.float32)):
        found = node.attributes.get(f"{what}_{kind}s")
        if isinstance(found, tuple) and found:
            return kind, np.array(found, dtype)
    return "string", None


def _label_encoder(b: Builder, node: Node, x: Value) -> Sequence[Value] | None:
    kind, values = _table(node, "values")
    keys = _table(node, "keys")[1]
    if _is_text(x) or keys is None or values is None or len(keys) != len(values):
        return None
    default: Any = {
        "int64": node.int_attribute("default_int64", -1),
        "float": node.float_attribute("default_float", -0.0),
    }
    if kind == "tensor":
        given = node.attributes.get("default_tensor")
        if isinstance(given, Tensor):
            default[kind] = given.array().reshape(())
        else:
            default[kind] = -1 if values.dtype.kind in "iu" else -0.0
    other = np.asarray(default[kind], values.dtype)
    keys = keys.astype(x.tensor_type.dtype.numpy)
    # Of equal keys the first counts; NaN is a key like any other.
    numbers = ~np.isnan(keys) if keys.dtype.kind == "f" else np.ones(len(keys), bool)
    sorted_keys, first = np.unique(keys[numbers], return_index=True)
    result = looked_up(b, x, sorted_keys, values[numbers][first], other)
    if not numbers.all():
        result = b.op("Where", b.op("IsNaN", x), b.constant(values[~numbers][0]), result)
    return [result]


def looked_up(b: Builder, x: Value, keys: Array, values: Array, other: Array) -> Value:
    """The value of each element's key, `other` where it is none.

    Args:
        b: Where nodes go.
        x: Elements, of the keys' type.
        keys: Rising, without NaN.
        values: One for each key.
        other: Of the values' type.
    """
    if len(keys) <= MOST_COMPARED:
        result = b.op("Expand", b.constant(other), b.op("Shape", x))
        for key, value in zip(keys, values, strict=True):
            result = b.op("Where", b.op("Equal", x, b.constant(key)), b.constant(value), result)
        return result
    # The last key that is at most x, by steps of falling powers of two; what lies past the end is never reached.
    zero = b.constant(np.int64(0))
    at = b.op("Expand", zero, b.op("Shape", x))
    step = 1 << (len(keys).bit_length() - 1)
    table = b.constant(keys)
    while step:
        next_place = b.op("Add", at, b.constant(np.int64(step)))
        inside = b.op("Less", next_place, b.constant(np.int64(len(keys))))
        safe = b.op("Where", inside, next_place, zero)
        further = b.op("And", inside, b.op("LessOrEqual", b.op("Gather", table, safe), x))
        at = b.op("Where", further, next_place, at)
        step //= 2
    known = b.op("Equal", b.op("Gather", table, at), x)
    return b.op("Where", known, b.op("Gather", b.constant(values), at), b.constant(other))


# --- linear models ---------------------------------------------------------------------------------------------------


def _product(b: Builder, x: Value, rows: Array, added: Array) -> Value:
    """`x rows^T + added`."""
    found = b.op("MatMul", x, array_like(b, rows.T, x))
    return b.op("Add", found, array_like(b, added, x)) if added.size else found


def _linear_regressor(b: Builder, node: Node, x: Value) -> Sequence[Value] | None:
    targets = node.int_attribute("targets", 1)
    coefficients, transform = floats(node, "coefficients"), node.str_attribute("post_transform", "NONE")
    if coefficients.size % targets or feature_count(x) != coefficients.size // targets:
        return None
    x = computed(b, one_row(b, x))
    scores = _product(b, x, coefficients.reshape(targets, -1), floats(node, "intercepts"))
    scores = cast_to(b, scores, dtypes.FLOAT32)
    # One target knows no transform but PROBIT.
    return [post_transformed(b, scores, transform) if targets > 1 or transform == "PROBIT" else scores]


def label_list(node: Node) -> list[Any]:
    """A classifier's labels: words or integers."""
    names = node.attributes.get("classlabels_strings")
    if isinstance(names, tuple) and names:
        return [name.decode() if isinstance(name, bytes) else name for name in names]
    return list(node.ints_attribute("classlabels_ints") or ())


def _linear_classifier(b: Builder, node: Node, x: Value) -> Sequence[Value] | None:
    coefficients, intercepts, labels = floats(node, "coefficients"), floats(node, "intercepts"), label_list(node)
    transform = node.str_attribute("post_transform", "NONE")
    features = feature_count(x)
    if not features or coefficients.size % features:
        return None
    classes = coefficients.size // features
    if (classes == 1 and (transform == "PROBIT" or len(labels) != 2)) or (classes > 1 and len(labels) != classes):
        return None
    x = computed(b, one_row(b, x))
    scores = cast_to(b, _product(b, x, coefficients.reshape(classes, -1), intercepts), dtypes.FLOAT32)
    if classes == 1:
        second = b.op("Squeeze", b.op("Greater", scores, scalar_like(b, 0, scores)), b.constant(np.array([1])))
        chosen = cast_to(b, second, dtypes.INT64)
        return [labels_of(b, chosen, labels), with_second_class(b, scores, transform, probability=True)]
    best = b.op("ArgMax", scores, axis=1, keepdims=0)
    return [labels_of(b, best, labels), post_transformed(b, scores, transform)]


def of_one(form: Form) -> Decompose:
    """A form of the first input, once its rank is known."""

    def decompose(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
        return None if inputs[0] is None or inputs[0].tensor_type.shape is None else form(b, node, inputs[0])

    return decompose


def _of_two(form: Callable[[Builder, Node, Value, Value], Sequence[Value]]) -> Decompose:
    def decompose(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
        return None if inputs[0] is None or inputs[1] is None else form(b, node, inputs[0], inputs[1])

    return decompose


for _name, _decompose in (
    ("ArrayFeatureExtractor", _of_two(_extractor)),
    ("Binarizer", of_one(_binarizer)),
    ("FeatureVectorizer", _feature_vector),
    ("Imputer", of_one(_imputer)),
    ("LabelEncoder", of_one(_label_encoder)),
    ("LinearClassifier", of_one(_linear_classifier)),
    ("LinearRegressor", of_one(_linear_regressor)),
    ("Normalizer", of_one(_normalizer)),
    ("OneHotEncoder", of_one(_one_hot)),
    ("Scaler", of_one(_scaler)),
):
    decomposed(_name, _decompose, domain=DOMAIN, define=False)
