"""One node run four ways: NumPy meaning, tensor expressions, host step, and an implementation from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphc.ir import Builder, Graph, Node, TensorType, Type, dtypes
from graphc.ops import host
from graphc.ops.base import express, find
from graphc.ops.evaluate import evaluate_node
from graphc.ops.inference import infer_node
from graphc.ops.protobuf import node_proto
from graphc.ops.render_numpy import evaluate_expression

VERSION = 24
"""Newest ai.onnx that the ONNX Runtime of the tests runs throughout."""


@dataclass
class Case:
    """A node over given arrays; build one with `case`."""

    node: Node
    arrays: tuple[Any, ...]

    def infer(self) -> list[Type | None]:
        """Types that our inference gives the outputs."""
        found = infer_node(self.node)
        for value, kind in zip(self.node.outputs, found, strict=True):
            value.type = kind
        return found

    def evaluate(self) -> list[Any]:
        """Outputs by the operator's NumPy meaning."""
        return evaluate_node(self.node, self.arrays)

    def host(self) -> list[Any]:
        """Outputs by the serialized host step."""
        wanted = host.operands(self.node)
        data = [None if value is None else array for value, array in zip(wanted, self.arrays, strict=True)]
        return host.evaluate(host.serialize(self.node), data)

    def express(self) -> list[Any] | None:
        """Outputs by the tensor expressions, None where there are none; types must be inferred."""
        found = express(self.node)
        return None if found is None else [evaluate_expression(expression, self.arrays) for expression in found]

    def model(self) -> onnx.ModelProto:
        """The node as an ONNX model."""
        inputs = [
            helper.make_tensor_value_info(value.name, dtypes.from_numpy(array.dtype).onnx, array.shape)
            for value, array in zip(self.node.inputs, self.arrays, strict=True)
            if value is not None
        ]
        types = [kind for kind in self.infer()]
        outputs = [
            helper.make_tensor_value_info(value.name, kind.dtype.onnx, None)
            for value, kind in zip(self.node.outputs, types, strict=True)
            if value.name and isinstance(kind, TensorType)
        ]
        graph = helper.make_graph([node_proto(self.node)], "case", inputs, outputs)
        domains = {"": VERSION, self.node.domain: self.node.version}
        imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def feeds(self) -> dict[str, Any]:
        """Input arrays by name."""
        return {v.name: a for v, a in zip(self.node.inputs, self.arrays, strict=True) if v is not None}

    def onnxruntime(self) -> list[Any]:
        """Outputs by ONNX Runtime, without its graph optimizations."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(self.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, self.feeds()))

    def reference(self) -> list[Any]:
        """Outputs by onnx.reference."""
        from onnx.reference import ReferenceEvaluator

        return list(ReferenceEvaluator(self.model()).run(None, self.feeds()))

    def onnx_shapes(self) -> list[tuple[int | str | None, ...] | None]:
        """Output shapes by onnx's own inference."""
        inferred = onnx.shape_inference.infer_shapes(self.model(), strict_mode=True, data_prop=True)
        found = []
        for output in inferred.graph.output:
            shape = output.type.tensor_type
            known = shape.HasField("shape")
            found.append(tuple(_dim(d) for d in shape.shape.dim) if known else None)
        return found


def _dim(dim: Any) -> int | str | None:
    kind = dim.WhichOneof("value")
    return None if kind is None else getattr(dim, kind)


def case(
    op_type: str,
    arrays: Sequence[Any],
    outputs: int | Sequence[str] = 1,
    *,
    domain: str = "",
    version: int | None = None,
    constants: Sequence[int] = (),
    **attributes: Any,
) -> Case:
    """A node of `op_type` over arrays (None for an absent input); inputs numbered in `constants` are constants."""
    graph = Graph("case", opset=VERSION)
    builder = Builder(graph)
    values = []
    arrays = [None if array is None else np.asarray(array) for array in arrays]
    for i, array in enumerate(arrays):
        if array is None:
            values.append(None)
        elif i in constants:
            values.append(builder.constant(array))
        else:
            values.append(graph.add_input(f"x{i}", TensorType(dtypes.from_numpy(array.dtype), array.shape)))
    set_version = version if version is not None else (VERSION if domain == "" else 1)
    made = builder.op(op_type, *values, outputs=outputs, domain=domain, version=set_version, **attributes)
    assert made.producer is not None
    # Absent inputs at the end are no inputs.
    return Case(made.producer, tuple(arrays[: len(made.producer.inputs)]))


def check(
    subject: Case,
    expected: Callable[[Case], list[Any]] | Sequence[Any] = Case.onnxruntime,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    expression: bool = True,
    shapes: bool = True,
) -> None:
    """Checks inference, NumPy meaning, host step and, where one must exist, tensor expressions against `expected`."""
    operator = find(subject.node)
    assert operator is not None, f"{subject.node.op} is not registered"
    wanted = expected(subject) if callable(expected) else list(expected)
    types = [kind for value, kind in zip(subject.node.outputs, subject.infer(), strict=True) if value.name]
    for found, array in zip(types, wanted, strict=True):
        assert isinstance(found, TensorType), f"inferred {found}"
        assert found.dtype == dtypes.from_numpy(array.dtype), f"inferred {found} for {array.dtype}{array.shape}"
        assert found.shape is not None
        if shapes:
            assert found.shape == array.shape, f"inferred {found} for {array.dtype}{array.shape}"
        else:
            assert len(found.shape) == array.ndim
    results = {"evaluate": subject.evaluate(), "host": subject.host()}
    if expression:
        expressed = subject.express()
        assert expressed is not None, f"{subject.node.op} has no tensor expression"
        results["expression"] = expressed
    for name, outputs in results.items():
        outputs = [array for value, array in zip(subject.node.outputs, outputs, strict=False) if value.name]
        for array, good in zip(outputs, wanted, strict=True):
            assert isinstance(array, np.ndarray), f"{name} answers {type(array)}"
            assert array.dtype == good.dtype, f"{name}: {array.dtype}, expected {good.dtype}"
            assert array.shape == good.shape, f"{name}: {array.shape}, expected {good.shape}"
            compare(array, good, rtol, atol, name)


def compare(array: Any, good: Any, rtol: float, atol: float, name: str) -> None:
    """Closeness of one output, NaN equal to NaN; integers, bools and strings exactly."""
    if good.dtype == object or good.dtype.kind in "biuSU":
        np.testing.assert_array_equal(array, good, err_msg=name)
    else:
        kind = good.dtype if good.dtype.kind == "c" else np.float64
        np.testing.assert_allclose(array.astype(kind), good.astype(kind), rtol=rtol, atol=atol, err_msg=name)
