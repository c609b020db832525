"""Resample: its meaning, its expression, and what it stands for in standard operators."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graphc.frontend.exporter import export_model
from graphc.ir import GRAPHC_DOMAIN
from graphc.ops.decomposition import standard_form
from graphc.ops.evaluate import evaluate_graph
from tests.frontend.models import run_ort
from tests.ops.differential import case, check, compare
from tests.ops.oracles import numbers, seeds


@given(st.integers(0, 2), st.integers(1, 5), st.integers(1, 4), st.sampled_from(["float32", "float64"]), seeds)
def test_it_is_a_product_with_a_sparse_matrix(axis: int, output: int, taps: int, dtype: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = numbers(seed, (3, 4, 5), dtype)
    index = random.integers(0, x.shape[axis], (taps, output)).astype(np.int32)
    weights = random.standard_normal((taps, output)).astype(dtype)
    matrix = np.zeros((output, x.shape[axis]))
    for tap in range(taps):
        np.add.at(matrix, (np.arange(output), index[tap]), weights[tap])
    wanted = np.moveaxis(np.tensordot(matrix, x.astype(np.float64), axes=(1, axis)), 0, axis).astype(dtype)
    subject = case("Resample", [x, index, weights], domain=GRAPHC_DOMAIN, constants=[1, 2], axis=axis)
    check(subject, [wanted])
    compare(evaluate_graph(standard_form(subject.node), subject.arrays)[0], wanted, 1e-5, 1e-5, "standard form")


def test_onnx_runtime_runs_what_it_is_written_out_as() -> None:
    x = numbers(0, (2, 3, 4), "float32")
    index, weights = np.array([[0, 2, 1], [1, 1, 2]], np.int32), numbers(1, (2, 3), "float32")
    subject = case("Resample", [x, index, weights], domain=GRAPHC_DOMAIN, constants=[1, 2], axis=1)
    graph = subject.node.graph
    assert graph is not None
    for value, kind in zip(subject.node.outputs, subject.infer(), strict=True):
        value.type = kind
    graph.outputs = subject.node.outputs
    (found,) = run_ort(export_model(graph), {"x0": x})
    compare(found, subject.evaluate()[0], 1e-5, 1e-5, "ONNX Runtime")
