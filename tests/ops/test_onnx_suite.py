"""Every case of the ONNX backend suite with one operator: types, NumPy meaning and tensor expressions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.frontend import import_model
from graphc.ir import Graph, TensorType, symbol
from graphc.ir.symbolic import substitute
from graphc.ops import infer_graph
from graphc.ops.base import express
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.expr import reduction_axes
from graphc.ops.render_numpy import evaluate_expression
from graphc.testing.conformance import EXCLUDED, Case, difference, load_cases

NOT_RUN = {
    **EXCLUDED,
    "node/test_scan_sum": "Scan of opset 8 scans batches of sequences, which ONNX dropped",
}
"""Cases that are not held against their data, each with its reason."""

CASES = {name: case for name, case in load_cases("node").items() if not case.is_expanded and name not in NOT_RUN}

TOLERANCE = {"float16": 2e-3}
"""One unit in the last place: sums of 16-bit floats are formed in float32 here, in the suite by NumPy's own order."""

LARGEST_GRID = 1 << 22
"""Expressions of more points (outputs times reduced elements) are left to the families' own tests."""


def _tolerances(case: Case, expected: Any) -> tuple[float, float]:
    kind = getattr(expected, "dtype", None)
    least = TOLERANCE.get(str(kind), 0.0)
    # The suite's absolute tolerance is below the rounding error of float32 sums.
    return max(case.rtol, least), max(case.atol, least, 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(CASES))
def test_case(name: str) -> None:
    case = CASES[name]
    graph = import_model(case.model)
    for data, outputs in case.data_sets:
        made: dict[Any, Any] = {}
        found = evaluate_graph(graph, list(data), watch=made.__setitem__)
        for value, array, expected in zip(graph.outputs, found, outputs, strict=True):
            problem = difference(expected, array, *_tolerances(case, expected))
            assert not problem, f"{value.name}: {problem}"
            _check_type(value.type, expected)
        _check_expressions(graph, dict(zip(graph.inputs, data, strict=True)) | made, case)


def _check_type(kind: Any, expected: Any) -> None:
    assert kind is not None, "no type is inferred"
    if isinstance(kind, TensorType) and isinstance(expected, np.ndarray):
        assert kind.dtype.numpy == expected.dtype
        assert kind.shape is not None and len(kind.shape) == expected.ndim, f"{kind} for shape {expected.shape}"
        pairs = zip(kind.shape, expected.shape, strict=True)
        assert all(a == b for a, b in pairs if isinstance(a, int)), f"{kind} for shape {expected.shape}"


def _check_expressions(graph: Graph, data: dict[Any, Any], case: Case) -> None:
    """Each node's tensor expressions, where it has some, give what evaluation gave."""
    for node in graph.nodes:
        if any(
            value.name and not (isinstance(value.type, TensorType) and value.type.is_static) for value in node.outputs
        ):
            continue
        expressions = express(node)
        if expressions is None:
            continue
        arrays = [None if v is None else data[v] if v in data else _constant(v) for v in node.inputs]
        for value, expression in zip(node.outputs, expressions, strict=False):
            expected = data.get(value)
            if not isinstance(expected, np.ndarray) or _points(expression) > LARGEST_GRID:
                continue
            problem = difference(expected, evaluate_expression(expression, arrays), *_tolerances(case, expected))
            assert not problem, f"expression of {node}: {problem}"


def _constant(value: Any) -> Any:
    assert value.constant is not None
    return value.constant.array()


def _points(expression: Any) -> int:
    total = 1
    for axis in (*expression.axes, *reduction_axes(expression.body)):
        total *= axis.extent if isinstance(axis.extent, int) else LARGEST_GRID + 1
    return total


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(CASES))
def test_symbolic_types_agree_with_static_ones(name: str) -> None:
    graph = import_model(CASES[name].model)
    static = [value.type for value in graph.outputs]
    bindings: dict[str, int] = {}
    for inner in graph.all_graphs():
        for node in inner.nodes:
            for value in node.outputs:
                value.type = None
    for value in graph.inputs:
        value.type = _symbolic(value.type, bindings)
    infer_graph(graph)
    for value, wanted in zip(graph.outputs, static, strict=True):
        found = value.type
        if not isinstance(found, TensorType) or not isinstance(wanted, TensorType) or found.shape is None:
            continue
        assert wanted.shape is not None and len(found.shape) == len(wanted.shape)
        for extent, expected in zip(found.shape, wanted.shape, strict=True):
            bound = substitute(extent, bindings)
            assert not (isinstance(bound, int) and isinstance(expected, int)) or bound == expected, f"{found}: {wanted}"


def _symbolic(kind: Any, bindings: dict[str, int]) -> Any:
    """`kind` with a symbol for each extent but 1, the same for equal extents."""
    if not isinstance(kind, TensorType) or kind.shape is None:
        return kind
    shape: list[Any] = []
    for extent in kind.shape:
        if isinstance(extent, int) and extent > 1:
            bindings[f"s{extent}"] = extent
            shape.append(symbol(f"s{extent}"))
        else:
            shape.append(extent)
    return TensorType(kind.dtype, tuple(shape))


def test_every_case_left_out_is_known() -> None:
    assert NOT_RUN.keys() <= load_cases("node").keys()
