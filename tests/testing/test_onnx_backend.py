"""graphc as a backend of ONNX's own test runner."""

from __future__ import annotations

import unittest

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.backend.test import BackendTest

from graphc.errors import InputError, OptionError
from graphc.testing import onnx_backend

X = np.array([-1.5, 2.5], np.float32)


def model() -> object:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xyz"]
    nodes = [helper.make_node("Abs", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.filterwarnings("ignore")
def test_onnxs_own_runner_drives_it() -> None:
    suite = BackendTest(onnx_backend, __name__).include("test_relu_|test_sum_two_inputs").test_suite
    result = unittest.TestResult()
    suite.run(result)
    assert result.wasSuccessful(), [*result.failures, *result.errors]
    reasons = {reason for _, reason in result.skipped}
    assert "Backend doesn't support device CUDA" in reasons
    assert result.testsRun - len(result.skipped) >= 2


@pytest.mark.parametrize("backend", [onnx_backend.GraphcBackend, onnx_backend.ReferenceBackend])
def test_models_and_nodes(backend: type[onnx_backend.GraphcBackend]) -> None:
    found = backend.run_model(model(), [X])
    assert np.array_equal(found[0], np.abs(X)) and np.array_equal(found.z, -X)
    prepared = backend.prepare(model(), "CPU:0")
    assert np.array_equal(prepared.run({"x": X})["y"], np.abs(X))
    assert bool(prepared.host_steps([X])) == (backend is onnx_backend.ReferenceBackend)
    node = helper.make_node("Sub", ["a", "b"], ["c"])
    assert np.array_equal(backend.run_node(node, [X, X + 1])[0], np.full(2, -1, np.float32))
    square = helper.make_node("Mul", ["a", "a"], ["c"])
    assert np.array_equal(backend.run_node(square, {"a": X}, opset_version=13)[0], X * X)


def test_what_it_refuses() -> None:
    assert not onnx_backend.supports_device("CUDA")
    with pytest.raises(OptionError, match="no CPU"):
        onnx_backend.prepare(model(), "CUDA:0")
    with pytest.raises(InputError, match="reads 2 inputs"):
        onnx_backend.run_node(helper.make_node("Sub", ["a", "b"], ["c"]), [X])
    with pytest.raises(OptionError, match="unknown option"):
        onnx_backend.prepare(model()).run([X], seed=1)
