"""Small ONNX models made by hand, and ONNX Runtime as the judge of what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]

onnxruntime.set_default_logger_severity(4)


def info(name: str, array: Array | None = None, shape: Sequence[Any] | None = None, elem: int = 1) -> Any:
    """A value's declaration, after an array or by shape."""
    if array is None:
        return helper.make_tensor_value_info(name, elem, shape)
    elem = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, elem, array.shape if shape is None else shape)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[str | Any],
    *,
    opset: int = 17,
    initializers: Mapping[str, Array] | None = None,
    functions: Sequence[Any] = (),
    domains: Mapping[str, int] | None = None,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A model; outputs may be bare names."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        list(inputs),
        [onnx.ValueInfoProto(name=o) if isinstance(o, str) else o for o in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (initializers or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=ir_version)


def chain(**attributes: Any) -> onnx.ModelProto:
    """Two nodes: `y = Relu(x) + w`."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("Add", ["r", "w"], ["y"], name="last"),
    ]
    weights = {"w": np.arange(4, dtype=np.float32)}
    return model(nodes, [info("x", shape=[2, 4])], ["y"], initializers=weights, **attributes)


def run_ort(proto: onnx.ModelProto | str, feeds: Mapping[str, Array]) -> list[Any]:
    """Outputs by ONNX Runtime, without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = proto if isinstance(proto, str) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    return list(session.run(None, {name: array for name, array in feeds.items() if name in wanted}))


def assert_same(expected: Sequence[Any], found: Sequence[Any], rtol: float = 1e-5, atol: float = 1e-6) -> None:
    assert len(expected) == len(found)
    for left, right in zip(expected, found, strict=True):
        if isinstance(left, list):
            assert_same(left, right)
            continue
        assert left.dtype == right.dtype and left.shape == right.shape
        if left.dtype == object:
            assert left.tolist() == right.tolist()
        else:
            np.testing.assert_allclose(np.asarray(right), np.asarray(left), rtol=rtol, atol=atol, equal_nan=True)
