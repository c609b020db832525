"""ONNX Runtime as a second opinion on what a graph means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import ToolchainError, UnsupportedError
from graphc.frontend.exporter import export_model
from graphc.ir import Graph
from graphc.ops.base import Array


def run_onnxruntime(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of `graph` as ONNX Runtime computes them, its own optimizations off.

    Raises:
        ToolchainError: onnxruntime is not installed.
        UnsupportedError: ONNX Runtime has no kernel for some node.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ToolchainError("onnxruntime is not installed", hint="pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = export_model(graph).SerializeToString()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise UnsupportedError(f"ONNX Runtime cannot run the graph: {error}") from error
    feed = {value.name: array for value, array in zip(graph.inputs, inputs, strict=True)}
    results: Any = session.run(None, feed)
    return [np.asarray(result) for result in results]
