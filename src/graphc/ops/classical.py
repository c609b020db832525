"""Classical machine learning (domain ai.onnx.ml): types are told here, onnx.reference evaluates."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir import Dim, MapType, SequenceType, Tensor, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import product
from graphc.ops.base import InferenceContext, Operator, register

DOMAIN = "ai.onnx.ml"


def _length(ctx: InferenceContext, *names: str) -> int:
    """Length of the first of the attributes `names` that is there; 0 where none is."""
    for name in names:
        found = ctx.node.attributes.get(name)
        if isinstance(found, tuple) and found:
            return len(found)
    return 0


def _rows(ctx: InferenceContext) -> Dim:
    shape = ctx.shape(0)
    return shape[0] if len(shape) > 1 else 1


def _same(ctx: InferenceContext) -> Sequence[Type]:
    return [ctx.tensor(0).with_shape(ctx.tensor(0).shape)]


def _float(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(dtypes.FLOAT32, ctx.tensor(0).shape)]


def _infer_extractor(ctx: InferenceContext) -> Sequence[Type]:
    x, picks = ctx.shape(0), ctx.shape(1)
    if not x:
        ctx.fail("the input has no axes")
    leading = x[:-1] if len(x) > 1 else (1,)
    return [ctx.tensor(0).with_shape((*leading, product(picks)))]


def _infer_cast_map(ctx: InferenceContext) -> Sequence[Type]:
    dtype = {"TO_FLOAT": dtypes.FLOAT32, "TO_STRING": dtypes.STRING, "TO_INT64": dtypes.INT64}
    dense = ctx.node.str_attribute("map_form", "DENSE") == "DENSE"
    count = ctx.fresh("entries") if dense else ctx.node.int_attribute("max_map", 1)
    return [TensorType(dtype[ctx.node.str_attribute("cast_to", "TO_FLOAT")], (1, count))]


def _infer_mapper(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    return [TensorType(dtypes.INT64 if kind.dtype == dtypes.STRING else dtypes.STRING, kind.shape)]


def _infer_dictionary(ctx: InferenceContext) -> Sequence[Type]:
    found = ctx.inputs[0]
    if not isinstance(found, MapType) or not isinstance(found.value, TensorType):
        ctx.fail(f"input 0 must be a map, not {found}")
    return [TensorType(found.value.dtype, (1, _length(ctx, "int64_vocabulary", "string_vocabulary")))]


def _infer_feature_vector(ctx: InferenceContext) -> Sequence[Type]:
    widths = ctx.node.ints_attribute("inputdimensions") or ()
    return [TensorType(dtypes.FLOAT32, (_rows(ctx), sum(widths)))]


def _infer_label_encoder(ctx: InferenceContext) -> Sequence[Type]:
    tables: tuple[tuple[str, DType], ...] = (
        ("values_int64s", dtypes.INT64),
        ("values_strings", dtypes.STRING),
        ("values_floats", dtypes.FLOAT32),
    )
    tensor = ctx.node.attributes.get("values_tensor")
    if isinstance(tensor, Tensor):
        return [TensorType(tensor.dtype, ctx.tensor(0).shape)]
    for name, dtype in tables:
        if _length(ctx, name):
            return [TensorType(dtype, ctx.tensor(0).shape)]
    ctx.fail("has no values")


def _infer_one_hot(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(dtypes.FLOAT32, (*ctx.shape(0), _length(ctx, "cats_int64s", "cats_strings")))]


def _infer_linear_regressor(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(dtypes.FLOAT32, (_rows(ctx), ctx.node.int_attribute("targets", 1)))]


def _infer_regressor(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(dtypes.FLOAT32, (_rows(ctx), ctx.node.int_attribute("n_targets", 1)))]


def _infer_ensemble(ctx: InferenceContext) -> Sequence[Type]:
    return [ctx.tensor(0).with_shape((_rows(ctx), ctx.node.int_attribute("n_targets", 1)))]


def _infer_classifier(ctx: InferenceContext) -> Sequence[Type]:
    strings = _length(ctx, "classlabels_strings")
    count = strings or _length(ctx, "classlabels_int64s", "classlabels_ints")
    label = TensorType(dtypes.STRING if strings else dtypes.INT64, (_rows(ctx),))
    # Scores of a classifier without labels follow from its weights, which only the evaluator reads.
    return [label, TensorType(dtypes.FLOAT32, (_rows(ctx), count if count else ctx.fresh("classes")))]


def _infer_support_vectors(ctx: InferenceContext) -> Sequence[Type]:
    label, _ = _infer_classifier(ctx)
    classes = _length(ctx, "classlabels_strings", "classlabels_ints")
    counts = ctx.node.ints_attribute("vectors_per_class") or ()
    total, pairs = sum(counts), classes * (classes - 1) // 2
    vectors, coefficients = _length(ctx, "support_vectors"), _length(ctx, "coefficients")
    odds = [_length(ctx, name) for name in ("prob_a", "prob_b")]
    if not classes:
        ctx.fail("names no class", "Give it classlabels_ints or classlabels_strings.")
    if _length(ctx, "kernel_params") not in (0, 3):
        ctx.fail("kernel_params are three: gamma, coef0 and degree")
    if total or min(counts, default=0) < 0:
        if classes < 2 or len(counts) != classes or min(counts) < 0 or vectors % total or not vectors:
            ctx.fail(
                f"{vectors} numbers of support vectors are not those of {list(counts)} vectors of {classes} classes"
            )
        if coefficients < (classes - 1) * total:
            ctx.fail(
                f"{classes} classes and {total} vectors take {(classes - 1) * total} coefficients, not {coefficients}"
            )
        if _length(ctx, "rho") < pairs or odds[0] != odds[1] or 0 < odds[0] < pairs:
            ctx.fail(f"{classes} classes take {pairs} each of rho, prob_a and prob_b")
        width = vectors // total
    else:
        if not coefficients or coefficients % classes or not _length(ctx, "rho"):
            ctx.fail(f"{coefficients} coefficients and {_length(ctx, 'rho')} of rho are no planes of {classes} classes")
        width = coefficients // classes
    shape = ctx.shape(0)
    if len(shape) not in (1, 2) or (isinstance(shape[-1], int) and shape[-1] != width):
        ctx.fail(f"the data must have {width} columns, not shape {list(map(str, shape))}")
    columns = pairs if total and not odds[0] and classes > 2 else classes
    return [label, TensorType(dtypes.FLOAT32, (_rows(ctx), columns))]


def _infer_zip_map(ctx: InferenceContext) -> Sequence[Type]:
    key = dtypes.STRING if _length(ctx, "classlabels_strings") else dtypes.INT64
    return [SequenceType(MapType(key, TensorType(dtypes.FLOAT32, ())))]


for _name, _infer in (
    ("ArrayFeatureExtractor", _infer_extractor),
    ("Binarizer", _same),
    ("CastMap", _infer_cast_map),
    ("CategoryMapper", _infer_mapper),
    ("DictVectorizer", _infer_dictionary),
    ("FeatureVectorizer", _infer_feature_vector),
    ("Imputer", _same),
    ("LabelEncoder", _infer_label_encoder),
    ("LinearClassifier", _infer_classifier),
    ("LinearRegressor", _infer_linear_regressor),
    ("Normalizer", _float),
    ("OneHotEncoder", _infer_one_hot),
    ("SVMClassifier", _infer_support_vectors),
    ("SVMRegressor", lambda ctx: [TensorType(dtypes.FLOAT32, (_rows(ctx), 1))]),
    ("Scaler", _float),
    ("TreeEnsemble", _infer_ensemble),
    ("TreeEnsembleClassifier", _infer_classifier),
    ("TreeEnsembleRegressor", _infer_regressor),
    ("ZipMap", _infer_zip_map),
):
    register(Operator(_name, _infer, domain=DOMAIN))
