"""Support vector machines (SVMRegressor and SVMClassifier of ai.onnx.ml) as products, votes and a loop.

Where the specification leaves something open, it is done as ONNX Runtime does it. Probabilities of more than one pair
of classes are those of T.-F. Wu, C.-J. Lin, R. C. Weng: Probability Estimates for Multi-class Classification by
Pairwise Coupling (2004), as LIBSVM iterates for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from graphc.ir import Builder, Graph, Node, Value, dtypes
from graphc.ops.base import Array
from graphc.ops.classical import DOMAIN
from graphc.ops.classical_forms import array_like, cast_to, feature_count, floats, label_list, of_one, one_row
from graphc.ops.decomposition import decomposed, scalar_like
from graphc.ops.post_transform import labels_of, post_transformed, with_second_class

MOST_ROUNDS = 100
"""Rounds after which probabilities of several classes are taken as they are."""


def _kernel(b: Builder, node: Node, x: Value, vectors: Array) -> Value:
    """How alike each row of `x` is to each of the vectors."""
    gamma, constant, degree = (*floats(node, "kernel_params"), 0.0, 0.0, 0.0)[:3]
    kind = node.str_attribute("kernel_type", "LINEAR")
    if kind == "RBF":
        apart = b.op("Sub", b.op("Unsqueeze", x, b.constant(np.array([1]))), array_like(b, vectors, x))
        squared = b.op("ReduceSum", b.op("Mul", apart, apart), b.constant(np.array([-1])), keepdims=0)
        return b.op("Exp", b.op("Mul", squared, scalar_like(b, -gamma, x)))
    product = b.op("MatMul", x, array_like(b, vectors.T, x))
    if kind == "LINEAR":
        return product
    moved = b.op("Add", b.op("Mul", product, scalar_like(b, gamma, x)), scalar_like(b, constant, x))
    return b.op("Tanh", moved) if kind == "SIGMOID" else b.op("Pow", moved, scalar_like(b, degree, x))


def _regressor(b: Builder, node: Node, x: Value) -> Sequence[Value] | None:
    coefficients, vectors = floats(node, "coefficients"), floats(node, "support_vectors")
    supports = node.int_attribute("n_supports", 0)
    size, rows = (coefficients.size, 1) if supports == 0 else (vectors.size, supports)
    if size % rows or feature_count(x) != size // rows or (supports and coefficients.size != supports):
        return None
    x = cast_to(b, one_row(b, x), dtypes.FLOAT32)
    if supports == 0:
        score = _kernel(b, node, x, coefficients.reshape(1, -1))
    else:
        alike = _kernel(b, node, x, vectors.reshape(supports, -1))
        score = b.op("MatMul", alike, array_like(b, coefficients.reshape(-1, 1), x))
    rho = floats(node, "rho")
    if rho.size:
        score = b.op("Add", score, array_like(b, rho[:1], x))
    if node.int_attribute("one_class", 0):
        inside = b.op("Greater", score, scalar_like(b, 0, score))
        return [b.op("Where", inside, scalar_like(b, 1, score), scalar_like(b, -1, score))]
    transform = node.str_attribute("post_transform", "NONE")
    return [post_transformed(b, score, transform) if transform == "PROBIT" else score]


def _classifier(b: Builder, node: Node, x: Value) -> Sequence[Value] | None:
    labels = label_list(node)
    counts = node.ints_attribute("vectors_per_class") or ()
    width = floats(node, "support_vectors").size // sum(counts) if sum(counts) else 0
    if feature_count(x) != (width or floats(node, "coefficients").size // len(labels)):
        return None
    x = cast_to(b, one_row(b, x), dtypes.FLOAT32)
    if not width:
        return _of_planes(b, node, x, labels)
    pairs = _pairs(b, node, x, counts)
    number = _most_voted(b, pairs, len(counts))
    return [labels_of(b, number, labels), _scores(b, node, pairs, len(counts))]


def _of_planes(b: Builder, node: Node, x: Value, labels: list[Any]) -> Sequence[Value]:
    """Labels and scores of a machine without vectors: a plane for each class, all shifted by the first `rho`."""
    planes = floats(node, "coefficients").reshape(len(labels), -1)
    scores = b.op("Add", b.op("MatMul", x, array_like(b, planes.T, x)), array_like(b, floats(node, "rho")[:1], x))
    number = b.op("ArgMax", scores, axis=1, keepdims=0)
    if len(labels) == 2 and not floats(node, "prob_a").size:
        # Of two classes the second is chosen as soon as either score is large.
        peak = b.op("ReduceMax", scores, b.constant(np.array([1])), keepdims=0)
        limit = scalar_like(b, 0.5 if (planes >= 0).all() else 0.0, peak)
        large = b.op("GreaterOrEqual" if (planes >= 0).all() else "Greater", peak, limit)
        number = b.op("Where", large, b.constant(np.int64(1)), number)
    transform = node.str_attribute("post_transform", "NONE")
    single = len(labels) == 1 and transform != "PROBIT"
    return [labels_of(b, number, labels), scores if single else post_transformed(b, scores, transform)]


def _pairs(b: Builder, node: Node, x: Value, counts: Sequence[int]) -> Value:
    """The score of each pair of classes, (rows, pairs): above 0 where it is for the former."""
    total = sum(counts)
    alike = _kernel(b, node, x, floats(node, "support_vectors").reshape(total, -1))
    coefficients = floats(node, "coefficients")[: (len(counts) - 1) * total].reshape(-1, total)
    spans = [slice(*span) for span in pairwise((0, *np.cumsum(counts).tolist()))]
    pairs = list(combinations(range(len(counts)), 2))
    weights = np.zeros((total, len(pairs)))
    for column, (i, j) in enumerate(pairs):
        weights[spans[i], column] = coefficients[j - 1, spans[i]]
        weights[spans[j], column] = coefficients[i, spans[j]]
    return b.op(
        "Add", b.op("MatMul", alike, array_like(b, weights, x)), array_like(b, floats(node, "rho")[: len(pairs)], x)
    )


def _most_voted(b: Builder, pairs: Value, classes: int) -> Value:
    """Number of the class that wins most pairs, the first of several, (rows)."""
    won = b.op("Greater", pairs, scalar_like(b, 0, pairs))
    former, latter = (np.zeros((classes * (classes - 1) // 2, classes), np.float32) for _ in range(2))
    for row, (i, j) in enumerate(combinations(range(classes), 2)):
        former[row, i] = latter[row, j] = 1
    # A pair that is not the former's is the latter's.
    votes = b.op("MatMul", b.op("Cast", won, to=dtypes.FLOAT32.onnx), b.constant(former - latter))
    votes = b.op("Add", votes, b.constant(latter.sum(axis=0)))
    return b.op("ArgMax", votes, axis=1, keepdims=0)


def _scores(b: Builder, node: Node, pairs: Value, classes: int) -> Value:
    transform = node.str_attribute("post_transform", "NONE")
    if floats(node, "prob_a").size:
        return post_transformed(b, _probabilities(b, node, pairs, classes), transform)
    if classes > 2:
        return post_transformed(b, pairs, transform)
    if transform == "PROBIT":
        pairs = post_transformed(b, pairs, transform)
    return with_second_class(b, pairs, transform, probability=transform != "NONE")


def _probabilities(b: Builder, node: Node, pairs: Value, classes: int) -> Value:
    """Probabilities of the classes, (rows, classes), from the scores of all pairs."""
    count = classes * (classes - 1) // 2
    slopes, shifts = (array_like(b, floats(node, name)[:count], pairs) for name in ("prob_a", "prob_b"))
    likely = b.op("Sigmoid", b.op("Neg", b.op("Add", b.op("Mul", pairs, slopes), shifts)))
    likely = b.op("Clip", likely, scalar_like(b, 1e-7, likely), scalar_like(b, 1 - 1e-7, likely))
    # r[i, j], the probability of i against j: the pair's own, 1 less that of the pair turned around, 0 on the diagonal.
    both = b.op("Concat", likely, b.op("Sub", scalar_like(b, 1, likely), likely), axis=1)
    both = b.op("Pad", both, b.constant(np.array([0, 0, 0, 1])))
    places = np.full((classes, classes), 2 * count, np.int64)
    for number, (i, j) in enumerate(combinations(range(classes), 2)):
        places[i, j], places[j, i] = number, number + count
    r = b.op("Gather", both, b.constant(places), axis=1)
    turned = b.op("Transpose", r, perm=[0, 2, 1])
    # Q is -r[j, i] r[i, j] beside its diagonal, and on it the sum of r[j, i]^2 over all j.
    squares = b.op("ReduceSum", b.op("Mul", r, r), b.constant(np.array([1])), keepdims=1)
    diagonal = b.op("Mul", squares, array_like(b, np.eye(classes), r))
    q = b.op("Sub", diagonal, b.op("Mul", r, turned))
    rows = b.op("Shape", pairs, start=0, end=1)
    whole = b.op("Concat", rows, b.constant(np.array([classes])), axis=0)
    start = b.op("Expand", scalar_like(b, 1 / classes, pairs), whole)
    true = b.constant(np.array(True))
    return b.op(
        "Loop", b.constant(np.int64(MOST_ROUNDS)), true, start, body=_round(b.graph.nested("round"), q, classes)
    )


def _round(body: Graph, q: Value, classes: int) -> Graph:
    """A round of the iteration for probabilities: rows that have come to rest stay, and so does all when all have.

    Args:
        body: The empty graph that becomes the loop's body.
        q: The matrix of each row, (rows, classes, classes), in the graph around the loop.
        classes: How many classes there are.
    """
    names = (body.fresh_name(name) for name in ("number", "further", "probabilities"))
    p = start = [body.add_input(name, None) for name in names][-1]
    b = Builder(body)
    last, flat = b.constant(np.array([-1])), b.constant(np.array([1]))
    one = scalar_like(b, 1, q)
    product = b.op("Squeeze", b.op("MatMul", q, b.op("Unsqueeze", p, last)), last)
    total = b.op("ReduceSum", b.op("Mul", p, product), flat)
    error = b.op("ReduceMax", b.op("Abs", b.op("Sub", product, total)), flat)
    moving = b.op("GreaterOrEqual", error, scalar_like(b, 0.005 / classes, q))
    for i in range(classes):
        row = b.op("Gather", q, b.constant(np.int64(i)), axis=1)
        own, at = (b.op("Gather", x, b.constant(np.array([i])), axis=1) for x in (row, product))
        step = b.op("Div", b.op("Sub", total, at), own)
        scale = b.op("Add", one, step)
        twice = b.op("Add", b.op("Mul", step, own), b.op("Add", at, at))
        total = b.op("Div", b.op("Div", b.op("Add", total, b.op("Mul", step, twice)), scale), scale)
        product = b.op("Div", b.op("Add", product, b.op("Mul", step, row)), scale)
        unit = np.eye(classes, dtype=np.float32)[i : i + 1]
        p = b.op("Div", b.op("Add", p, b.op("Mul", step, b.constant(unit))), scale)
    further = b.op("ReduceMax", b.op("Cast", moving, to=dtypes.INT32.onnx), keepdims=0)
    body.outputs = [b.op("Cast", further, to=dtypes.BOOL.onnx), b.op("Where", moving, p, start)]
    return body


decomposed("SVMClassifier", of_one(_classifier), domain=DOMAIN, define=False)
decomposed("SVMRegressor", of_one(_regressor), domain=DOMAIN, define=False)
