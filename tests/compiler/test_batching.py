"""The proof that rows are independent, from a model to the answers of a scheduler on the compiled package."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from graphc.package import BatchAxes
from graphc.runtime import Scheduler


def model(*nodes: onnx.NodeProto, out: tuple[Any, ...] = ("batch", 8), **weights: Any) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(out))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return data


WEIGHTS = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
POOLED = model(
    helper.make_node("MatMul", ["x", "w"], ["h"]),
    helper.make_node("Relu", ["h"], ["r"]),
    helper.make_node("ReduceMean", ["r", "axes"], ["y"], keepdims=0),
    w=WEIGHTS,
    axes=np.array([1]),
)
MIXED = model(
    helper.make_node("MatMul", ["x", "w"], ["h"]),
    helper.make_node("ReduceMean", ["h", "axes"], ["y"], keepdims=0),
    out=("length", 8),
    w=WEIGHTS,
    axes=np.array([0]),
)


def test_the_package_says_that_rows_are_independent() -> None:
    compiled = graphc.compile(POOLED, dims={"batch": [1, 4], "length": [3, 5]})
    assert compiled.manifest.batch == BatchAxes("batch", (0,), (0,))


@pytest.mark.parametrize("dims", [{"batch": [1, 4], "length": 3}, {"batch": 2, "length": [3, 5]}])
def test_and_where_they_are_not_it_does_not(dims: dict[str, Any]) -> None:
    assert graphc.compile(MIXED, dims=dims).manifest.batch is None


def test_a_model_whose_shapes_are_open_is_not_said_to_be() -> None:
    assert graphc.compile(POOLED).manifest.batch is None


@pytest.mark.parametrize("devices", [1, 2])
def test_answers_of_batches_are_those_of_lone_calls(devices: int, tmp_path: Path) -> None:
    if devices > len(os.sched_getaffinity(0)):
        pytest.skip("too few processors")
    compiled = graphc.compile(POOLED, dims={"batch": [1, 2, 4, 8], "length": [3, 5]}, output=tmp_path / "m.graphc")
    rng = np.random.default_rng(1)
    inputs = [
        rng.standard_normal((int(rng.integers(1, 4)), int(rng.choice([3, 5])), 4)).astype(np.float32)
        for _ in range(120)
    ]
    expected = [np.maximum(x @ WEIGHTS, 0).mean(1) for x in inputs]
    found: dict[int, Any] = {}

    def client(first: int, scheduler: Scheduler) -> None:
        for number in range(first, len(inputs), 6):
            if number % 2:
                found[number] = scheduler({"x": inputs[number]})["y"]
            else:
                found[number] = scheduler.submit([inputs[number]]).result(30)["y"]

    with Scheduler(compiled, devices=devices) as scheduler:
        threads = [threading.Thread(target=client, args=(n, scheduler)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        counts = scheduler.statistics()
    assert len(found) == len(inputs)
    for number, array in enumerate(expected):
        np.testing.assert_allclose(found[number], array, rtol=1e-5, atol=1e-6)
    assert counts.answered == 120


def test_a_shape_that_was_not_compiled_is_compiled_and_served() -> None:
    with Scheduler(graphc.compile(POOLED)) as scheduler:
        x = np.ones((2, 3, 4), np.float32)
        np.testing.assert_allclose(scheduler([x])["y"], np.maximum(x @ WEIGHTS, 0).mean(1), rtol=1e-5)
