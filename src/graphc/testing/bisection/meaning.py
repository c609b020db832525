"""What a model means: its answers in NumPy, beside what an oracle says they should be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.errors import ExecutionError, GraphcError
from graphc.frontend import export_model
from graphc.ir import Graph, Value
from graphc.ops.evaluate import evaluate_graph
from graphc.testing.bisection.case import Case
from graphc.testing.bisection.finding import Finding, differs, told, worst
from graphc.testing.verification import Difference, Tolerance, compare_array, compare_outputs


def evaluate_model(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs of a graph in NumPy, by name.

    Raises:
        ExecutionError: A node cannot run on its data.
    """
    data = evaluate_graph(graph, [inputs[value.name] for value in graph.inputs])
    return {value.name: datum for value, datum in zip(graph.outputs, data, strict=True)}


def expected_outputs(case: Case, graph: Graph) -> dict[str, Any]:
    """What the oracle answers.

    Raises:
        ExecutionError: It cannot run the model on these inputs.
    """
    key = _key(case)
    if key not in _latest:
        by_numpy = case.setup.against == "reference"
        right = evaluate_model(graph, case.inputs) if by_numpy else _onnxruntime(case.source, case.inputs)
        _latest.clear()
        _latest[key] = right
    return _latest[key]


_latest: dict[str, dict[str, Any]] = {}
"""The answers to the latest case, since one case is looked at again and again."""


def _key(case: Case) -> str:
    digest = hashlib.sha256(case.setup.against.encode())
    if isinstance(case.model, bytes):
        digest.update(case.model)
    else:
        digest.update(f"{case.model} {Path(case.model).stat().st_mtime_ns}".encode())
    for name, array in sorted(case.inputs.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes() if array.dtype.kind != "O" else repr(array.tolist()).encode())
    return digest.hexdigest()


def _onnxruntime(model: bytes | Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Its own optimizer must not stand between the model and its meaning.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # it raises types of its own, and what it does not run it cannot judge
        raise ExecutionError(f"ONNX Runtime does not run the model: {error}") from error


def wrong_meaning(case: Case, graph: Graph, tolerance: Tolerance, difference: Difference) -> Finding:
    """The first node whose NumPy meaning differs from what ONNX Runtime makes of it."""
    every = graph.clone()
    known = {value.name for value in every.outputs}
    values = [v for node in every.nodes for v in node.outputs if v.name and not node.is_op("Constant")]
    every.outputs = [*every.outputs, *(value for value in values if value.name not in known)]
    try:
        theirs = _onnxruntime(export_model(every).SerializeToString(), case.inputs)
    except GraphcError:
        return Finding("wrong", "meaning", "import", differs(difference))
    first: list[tuple[Value, Difference]] = []

    def watch(value: Value, datum: Any) -> None:
        if not first and value.name in theirs:
            found = compare_array(value.name, theirs[value.name], datum, tolerance)
            if not found.ok:
                first.append((value, found))

    evaluate_graph(graph, [case.inputs[value.name] for value in graph.inputs], watch=watch)
    if not first or first[0][0].producer is None:
        # Exported again the model is right: the way in is not.
        return Finding("wrong", "meaning", "import", differs(difference))
    value, found = first[0]
    node = value.producer
    assert node is not None
    return Finding("wrong", "meaning", node.op, differs(found), node.origins)


def judge_graph(graph: Graph, case: Case, expected: Mapping[str, Any], tolerance: Tolerance) -> Finding | None:
    """What is wrong with a graph's answers, None where nothing is."""
    try:
        found = evaluate_model(graph, case.inputs)
    except (GraphcError, KeyError) as error:
        return Finding("wrong", "pass", detail=f"the graph no longer runs: {told(error)}")
    difference = worst(compare_outputs(expected, found, tolerance))
    return None if difference is None else Finding("wrong", "pass", detail=differs(difference))
