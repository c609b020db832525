"""What operators of classical models stand for, evaluated: their definitions elsewhere are onnx.reference's."""

from __future__ import annotations

from typing import Any

from graphc.ir import Graph
from graphc.ops.decomposition import standard_form
from graphc.ops.evaluate import evaluate_graph
from tests.ops.differential import Case, compare


def form_of(subject: Case) -> Graph:
    """The graph of standard operators that a case's node stands for."""
    subject.infer()
    return standard_form(subject.node)


def check_expanded(subject: Case, expected: list[Any] | None = None, *, tolerance: float = 1e-4) -> None:
    """Checks the graph that a node stands for against ONNX Runtime, or against what is expected."""
    wanted = subject.onnxruntime() if expected is None else expected
    found = evaluate_graph(form_of(subject), [array for array in subject.arrays if array is not None])
    for value, array, good in zip(subject.node.outputs, found, wanted, strict=True):
        assert array.dtype == good.dtype, f"{value.name}: {array.dtype}, expected {good.dtype}"
        assert array.shape == good.shape, f"{value.name}: {array.shape}, expected {good.shape}"
        compare(array, good, tolerance, tolerance, value.name)
