"""Outputs bound to inputs of the next call: caches that grow, states that do not."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphc
from graphc.errors import InputError, OptionError, ShapeNotCompiledError
from graphc.runtime import programs

SIZE = 32
WEIGHTS = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32) * 0.1


def value(name: str, shape: list[Any], dtype: int = onnx.TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def decoder(past: str | int = "past") -> onnx.ModelProto:
    """Writes a row into a cache and answers the largest elements of its columns."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["row"]),
        helper.make_node("Concat", ["cache", "row"], ["grown"], axis=1),
        helper.make_node("ReduceMax", ["grown"], ["y"], axes=[1], keepdims=0),
    ]
    inputs = [value("x", [1, 1, SIZE]), value("cache", [1, past, SIZE])]
    outputs = [value("y", [1, SIZE]), value("grown", [1, None, SIZE])]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, [numpy_helper.from_array(WEIGHTS, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def counter(size: int) -> onnx.ModelProto:
    """A running sum of `size` elements, and their total."""
    nodes = [
        helper.make_node("Add", ["total", "x"], ["next"]),
        helper.make_node("ReduceSum", ["next"], ["y"], keepdims=0),
    ]
    inputs = [value("total", [size]), value("x", [size])]
    graph = helper.make_graph(nodes, "counter", inputs, [value("next", [size]), value("y", [])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_a_cache_grows_with_each_call() -> None:
    model = graphc.compile(decoder())
    rng = np.random.default_rng(1)
    cache = rng.standard_normal((1, 1, SIZE)).astype(np.float32)
    first = cache.copy()
    step = model.bind_state({"cache": "grown"}, {"cache": cache})
    # Past what is small, so that blocks are outgrown and replaced.
    for length in range(2, 1100):
        x = rng.standard_normal((1, 1, SIZE)).astype(np.float32)
        found = step({"x": x})
        assert list(found) == ["y"]
        assert step.state["cache"].shape == (1, length, SIZE)
        cache = np.concatenate([cache, x @ WEIGHTS], axis=1)
        if length % 97 == 0 or length < 20:
            np.testing.assert_allclose(step.state["cache"], cache, atol=1e-5)
            np.testing.assert_allclose(found["y"], cache.max(axis=1), atol=1e-5)
    step.reset({"cache": first})
    step({"x": x})
    assert step.state["cache"].shape == (1, 2, SIZE)
    np.testing.assert_array_equal(step.state["cache"][:, :1], first)


@pytest.mark.parametrize("size", [3, 50_000])
def test_a_state_of_fixed_shape_begins_at_zero_and_goes_back_and_forth(size: int) -> None:
    step = graphc.compile(counter(size)).bind_state({"total": "next"})
    x = np.arange(size, dtype=np.float32) % 7
    places = set()
    for count in range(1, 7):
        out = np.empty((), np.float32)
        assert step({"x": x}, out={"y": out})["y"] is out
        np.testing.assert_array_equal(step.state["total"], count * x)
        places.add(step.state["total"].ctypes.data)
    if size > 3:
        assert len(places) == 2
    start = np.ones(size, np.float32)
    step.reset({"total": start})
    for _ in range(3):
        step({"x": x})
    np.testing.assert_array_equal(start, np.ones(size, np.float32))
    np.testing.assert_array_equal(step.state["total"], 1 + 3 * x)


def test_a_step_takes_no_memory_but_the_cache_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "OPEN_PROGRAMS", 20)
    model = graphc.compile(decoder())
    step = model.bind_state({"cache": "grown"}, {"cache": np.zeros((1, 600, SIZE), np.float32)})
    x = np.ones((1, 1, SIZE), np.float32)
    tracemalloc.start()
    for _ in range(40):
        step({"x": x})
    arenas = model.memory
    gc.collect()
    before = tracemalloc.get_traced_memory()[0] - step.memory
    for _ in range(120):
        step({"x": x})
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - step.memory - before
    tracemalloc.stop()
    # Tables of old lengths, some 7 kB each here, go where those of new ones come.
    assert grown < 120 * 1000
    assert model.memory <= 2 * arenas
    assert step.memory <= 4 * step.state["cache"].nbytes


def test_arrays_of_past_calls_are_not_kept() -> None:
    step = graphc.compile(counter(3)).bind_state({"total": "next"})
    x = np.ones(3, np.float32)
    for _ in range(5):
        step({"x": x})
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(50):
        step({"x": x})
    gc.collect()
    assert len(gc.get_objects()) <= before + 5


def test_a_call_that_fails_leaves_the_state() -> None:
    step = graphc.compile(counter(3)).bind_state({"total": "next"})
    step({"x": np.ones(3, np.float32)})
    for bad in ({}, {"x": np.ones(4, np.float32)}, {"x": np.ones(3)}, {"x": np.ones(3, np.float32), "z": 1}):
        with pytest.raises(InputError):
            step(bad)
    np.testing.assert_array_equal(step.state["total"], np.ones(3))
    with pytest.raises(InputError, match="'total' is state"):
        step({"x": np.ones(3, np.float32), "total": np.ones(3, np.float32)})
    with pytest.raises(InputError, match="'next' is state"):
        step({"x": np.ones(3, np.float32)}, out={"next": np.ones(3, np.float32)})


def test_what_cannot_be_state_is_refused() -> None:
    model = graphc.compile(counter(3))
    for pairs, message in (
        ({"sum": "next"}, "no input 'sum'"),
        ({"total": "sum"}, "no output 'sum'"),
        ({"total": "y"}, "cannot become"),
        ({"total": "next", "x": "next"}, "two inputs"),
    ):
        with pytest.raises(OptionError, match=message):
            model.bind_state(pairs)
    with pytest.raises(InputError, match="expected total"):
        model.bind_state({"total": "next"}, {"total": np.zeros(3)})
    with pytest.raises(InputError, match="'x' is no state"):
        model.bind_state({"total": "next"}, {"x": np.zeros(3, np.float32)})
    growing = graphc.compile(decoder())
    with pytest.raises(InputError, match="needs an initial state"):
        growing.bind_state({"cache": "grown"})
    with pytest.raises(ShapeNotCompiledError):
        growing.bind_state({"cache": "grown"}, {"cache": np.zeros((1, 0, SIZE), np.float32)})(
            {"x": np.zeros((1, 1, SIZE), np.float32)}
        )
