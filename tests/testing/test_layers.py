"""Finding the first wrong step: none in a right model, the right one where a kernel or a weight is wrong."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from graphc.compiler import CompileOptions, build_package, default_cache, lower_model
from graphc.compiler.program import Program
from graphc.frontend import import_model
from graphc.ir import Graph
from graphc.passes.buffers import BufferPlan, assign_buffers
from graphc.runtime import Executable
from graphc.testing.inputs import seeded_inputs
from graphc.testing.layers import Layer, compare_layers
from graphc.testing.verification import error_statistics


def convolutions(poison: float = 0.0) -> onnx.ModelProto:
    """Blocked layouts, a reshape that is no step, a step on the host, two outputs; `poison` is added to one weight."""
    rng = np.random.default_rng(3)
    weights = {
        "w0": rng.standard_normal((20, 3, 3, 3), np.float32) / 5,
        "b0": rng.standard_normal(20, np.float32),
        "w1": rng.standard_normal((18, 20, 1, 1), np.float32) / 5,
        "b1": rng.standard_normal(18, np.float32),
        "flat": np.array([1, -1], np.int64),
        "w2": rng.standard_normal((18 * 36, 5), np.float32) / 20,
    }
    weights["b1"][7] += np.float32(poison)
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], "conv1"),
        helper.make_node("Sigmoid", ["c1"], ["s1"], "sigmoid"),
        helper.make_node("Reshape", ["s1", "flat"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w2"], ["y"], "dense"),
        helper.make_node("NonZero", ["y"], ["n"], "where"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5]),
            helper.make_tensor_value_info("n", TensorProto.INT64, [2, None]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def build(model: onnx.ModelProto, path: Path) -> tuple[Executable, Program]:
    options = CompileOptions(cache=default_cache())
    lowered = lower_model(model, options=options)
    build_package(lowered, path, options)
    return graphc.load(path, threads=1), lowered.programs[0]


def layers(executable: Executable, program: Program, model: onnx.ModelProto) -> list[Layer]:
    specs = executable.inputs
    inputs: dict[str, Any] = seeded_inputs(specs, executable.variants[0].inputs)
    return list(compare_layers(executable, program, inputs, import_model(model)))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


def test_a_right_model_has_no_wrong_step(tmp_path: Path) -> None:
    model = convolutions()
    executable, program = build(model, tmp_path / "m.graphc")
    found = layers(executable, program, model)
    assert [layer.step for layer in found] == list(range(len(program.buffers.steps)))
    assert all(layer.ok for layer in found)
    # Every step's result has a counterpart in the source model, the host's among them.
    compared = {difference.name for layer in found for difference in layer.model}
    assert {"y", "n"} <= compared
    assert any("conv1" in layer.origins for layer in found)


def test_a_wrong_kernel_is_the_first_to_differ(tmp_path: Path) -> None:
    # A package whose second convolution has another bias, walked with the right model's program.
    executable, _ = build(convolutions(poison=0.5), tmp_path / "wrong.graphc")
    _, program = build(convolutions(), tmp_path / "right.graphc")
    found = layers(executable, program, convolutions())
    first = next(layer for layer in found if not layer.ok)
    assert "conv1" in first.origins
    assert not first.kernel_is_right
    # The steps after it do what they mean, on the wrong input that they have.
    assert all(layer.kernel_is_right for layer in found[first.step + 1 :])
    place = max(first.kernel, key=lambda difference: difference.error).place
    assert place[1] == 7


def sequences(poison: float = 0.0) -> onnx.ModelProto:
    """A batch and two lengths left open, one under a name that kernels use themselves; a cache is one longer."""
    rng = np.random.default_rng(4)
    weights = {"w": rng.standard_normal((8, 8), np.float32) / 3, "b": rng.standard_normal(8, np.float32)}
    weights["b"][3] += np.float32(poison)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "dense"),
        helper.make_node("Add", ["m", "b"], ["shifted"], "bias"),
        helper.make_node("Concat", ["shifted", "last"], ["longer"], "grow", axis=1),
        helper.make_node("Softmax", ["longer"], ["soft"], "soft", axis=-1),
        helper.make_node("Mul", ["soft", "mask"], ["y"], "masked"),
    ]
    shapes = {"x": ["batch", "s1", 8], "last": ["batch", 1, 8], "mask": ["t", 1]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, 8])]
    graph = helper.make_graph(
        nodes, "sequences", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("poison", [0.0, 0.5])
def test_extents_that_are_open_are_those_of_the_inputs(poison: float, tmp_path: Path) -> None:
    executable, program = build(sequences(), tmp_path / "m.graphc")
    assert program.is_open and not executable.variants
    for batch, length in ((2, 5), (3, 1)):
        shapes = {"x": (batch, length, 8), "last": (batch, 1, 8), "mask": (length + 1, 1)}
        inputs = seeded_inputs(executable.inputs, [shapes[spec.name] for spec in executable.inputs])
        source = import_model(sequences(poison), dims=shapes)
        found = list(compare_layers(executable, program, inputs, source))
        assert [layer.step for layer in found] == list(range(len(program.buffers.steps)))
        assert all(layer.kernel_is_right for layer in found)
        wrong = [layer for layer in found if not layer.ok]
        assert bool(wrong) == bool(poison)
        assert not wrong or "bias" in wrong[0].origins


def test_a_wrong_weight_is_no_fault_of_a_kernel(tmp_path: Path) -> None:
    # The compiler saw another bias than the source model has: as if a pass had changed it.
    executable, program = build(convolutions(poison=0.5), tmp_path / "m.graphc")
    found = layers(executable, program, convolutions())
    assert all(layer.kernel_is_right for layer in found)
    first = next(layer for layer in found if not layer.ok)
    assert "conv1" in first.origins


def test_no_more_is_held_than_a_run_holds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = ["x", *(f"r{i}" for i in range(5))]
    nodes = [
        helper.make_node("Conv", [values[i], f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]) for i in range(5)
    ] + [helper.make_node("Relu", [f"c{i}"], [values[i + 1]], f"relu{i}") for i in range(5)]
    kind = TensorProto.FLOAT, [1, 32, 64, 64]
    graph = helper.make_graph(
        sorted(nodes, key=lambda node: (node.name[-1], node.name)),
        "chain",
        [helper.make_tensor_value_info("x", *kind)],
        [helper.make_tensor_value_info("r4", *kind)],
        [numpy_helper.from_array(rng.standard_normal((32, 32, 3, 3), np.float32) / 17, f"w{i}") for i in range(5)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    executable, program = build(model, tmp_path / "m.graphc")
    variant = executable.variants[0]
    inputs = seeded_inputs(executable.inputs, variant.inputs)
    source = import_model(model)
    normal = sum(array.nbytes for array in (*inputs.values(), *executable(inputs).values()))
    normal += variant.arena_size + (tmp_path / "m.graphc").stat().st_size
    tracemalloc.start()
    try:
        assert all(layer.ok for layer in compare_layers(executable, program, inputs, source))
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The walk's arena is counted on both sides.
    assert variant.arena_size < held < normal + variant.arena_size


def test_a_plan_that_gives_two_live_values_one_place_is_told_from_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Softmax", ["x"], ["a"], "first"),
        helper.make_node("ReduceSum", ["a", "axes"], ["b"], "second"),
        helper.make_node("CumSum", ["b", "axis"], ["c"], "third"),
        helper.make_node("MatMul", ["a", "w"], ["d"], "fourth"),
        helper.make_node("Mul", ["d", "c"], ["y"], "fifth"),
    ]
    weights = {"axes": np.array([1]), "axis": np.array(1), "w": rng.standard_normal((64, 64), np.float32)}
    graph = helper.make_graph(
        nodes,
        "aliased",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def forgets_readers(graph: Graph) -> BufferPlan:
        buffers = assign_buffers(graph)
        for storage in buffers.arena():
            storage.end = storage.start + 1
        return buffers

    monkeypatch.setattr("graphc.compiler.program.assign_buffers", forgets_readers)
    found = layers(*build(model, tmp_path / "m.graphc"), model)
    first = next(layer for layer in found if not layer.ok)
    assert first.overwritten[0].name == "a"
    assert first.overwritten[0].planned
    assert first.kernel_is_right
    assert not first.plan_is_right


def test_statistics_say_how_two_arrays_differ() -> None:
    expected = np.array([[1.0, 2.0, np.nan], [np.inf, 4.0, 0.0]], np.float32)
    found = expected.copy()
    found[0, 1] = np.nextafter(np.float32(2), np.float32(3))
    found[1, 1] = np.nan
    told = error_statistics(expected, found)
    assert told is not None
    assert (told.elements, told.differing, told.where) == (6, 2, ((0, 1), (1, 1)))
    assert told.max_ulp == 1.0
    assert (told.nan_expected, told.nan_found, told.infinite_expected, told.infinite_found) == (1, 2, 1, 1)
    assert told.histogram == ((-7, 1),)
    assert error_statistics(expected, found[:1]) is None
