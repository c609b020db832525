"""Models whose inputs decide shapes and code: a variant for each value, and never a wrong answer when it changes."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import graphc
from graphc.compiler import CompileOptions, compile_package, lower_model
from graphc.errors import (
    BackendError,
    ExecutionError,
    InputError,
    OptionError,
    ShapeNotCompiledError,
    UnsupportedError,
)
from graphc.package import MODEL, Package
from graphc.runtime import Executable, set_compile_hook
from graphc.runtime.hook import compile_hook
from tests.compiler.agreement import assert_close
from tests.frontend.models import Array, info, model, run_ort

I64 = TensorProto.INT64
X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)


def reduction(shape: tuple[Any, ...] = (3, 4, 5), count: int | str = 1) -> onnx.ModelProto:
    """relu(sum of x over axes) + 1."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], name="sum"),
        helper.make_node("Relu", ["s"], ["r"], name="relu"),
        helper.make_node("Add", ["r", "one"], ["y"], name="add"),
    ]
    inputs = [info("x", shape=shape), info("axes", shape=[count], elem=I64)]
    return model(nodes, inputs, ["y"], opset=18, initializers={"one": np.float32([1])})


def summed(axis: int, x: Array = X) -> Array:
    return np.maximum(x.sum(axis, keepdims=True), 0) + 1


def axes(*values: int) -> Array:
    return np.array(values, np.int64)


def host_steps(module: Executable, feeds: Mapping[str, Array]) -> list[str]:
    return [step.op_type for step in module.variant_for(feeds).host_steps]


@pytest.fixture
def hook() -> Iterator[list[dict[str, Array]]]:
    """Values that variants were compiled for."""
    before = compile_hook()
    assert before is not None
    asked = []

    def spy(package: Package, bindings: Mapping[str, int], values: Mapping[str, Array]) -> Path | None:
        asked.append({name: array.copy() for name, array in values.items()})
        return before(package, bindings, values)

    set_compile_hook(spy)
    yield asked
    set_compile_hook(before)


# --- each operator, at values that change -----------------------------------------------------------------------------


def any_axes(draw: st.DrawFn) -> dict[str, Array]:
    chosen = draw(st.sets(st.integers(0, 2), max_size=3))
    return {"axes": axes(*(axis - draw(st.sampled_from([0, 3])) for axis in sorted(chosen)))}


def new_axes(draw: st.DrawFn) -> dict[str, Array]:
    return {"axes": axes(*draw(st.sampled_from([(0,), (3,), (-1,), (0, 2), (5, -6), (4,)])))}


def pads(draw: st.DrawFn) -> dict[str, Array]:
    amounts = draw(st.lists(st.integers(-2, 3), min_size=6, max_size=6))
    return {"pads": axes(*amounts)}


def reflected(draw: st.DrawFn) -> dict[str, Array]:
    return {"pads": axes(*draw(st.lists(st.integers(-1, 1), min_size=6, max_size=6)))}


def slices(draw: st.DrawFn) -> dict[str, Array]:
    bounds = st.integers(-7, 7)
    step = st.sampled_from([1, 2, -1, -3])
    chosen = draw(st.sampled_from([(0, 1), (2, 0), (-1, 1)]))
    return {
        "starts": axes(draw(bounds), draw(bounds)),
        "ends": axes(draw(bounds), draw(bounds)),
        "axes": axes(*chosen),
        "steps": axes(draw(step), draw(step)),
    }


def shapes(draw: st.DrawFn) -> dict[str, Array]:
    return {"shape": axes(*draw(st.sampled_from([(60, 1, 1), (3, 20, -1), (0, -1, 2), (5, 4, 3), (1, 1, 60)])))}


def repeats(draw: st.DrawFn) -> dict[str, Array]:
    return {"repeats": axes(*draw(st.lists(st.integers(0, 3), min_size=3, max_size=3)))}


def one_axis(draw: st.DrawFn) -> dict[str, Array]:
    return {"axes": axes(draw(st.integers(-3, 2)))}


def extents(draw: st.DrawFn) -> dict[str, Array]:
    return {"shape": axes(*draw(st.sampled_from([(3, 4, 5), (2, 1, 3, 4, 5), (1, 1, 1), (4, 1)])))}


def best(draw: st.DrawFn) -> dict[str, Array]:
    return {"k": axes(draw(st.integers(0, 6)))}


def scalar_axis(draw: st.DrawFn) -> dict[str, Array]:
    return {"axis": np.array(draw(st.integers(-4, 3)))}


def parts(draw: st.DrawFn) -> dict[str, Array]:
    return {"split": axes(*draw(st.sampled_from([(1, 2, 2), (5, 0, 0), (0, 4, 1), (2, 2, 2), (6, -1, 0)])))}


FAMILIES: dict[str, tuple[Any, list[str]]] = {
    "ReduceL2": (one_axis, ["axes"]),
    "ReduceMean": (one_axis, ["axes"]),
    "ReduceSum keepdims=0": (any_axes, ["axes"]),
    "ReduceMax noop_with_empty_axes=1": (any_axes, ["axes"]),
    "Unsqueeze": (new_axes, ["axes"]),
    "Pad": (pads, ["pads"]),
    "Pad mode=reflect": (reflected, ["pads"]),
    "Pad mode=edge": (pads, ["pads"]),
    "Pad mode=wrap": (pads, ["pads"]),
    "Slice": (slices, ["starts", "ends", "axes", "steps"]),
    "Reshape": (shapes, ["shape"]),
    "Tile": (repeats, ["repeats"]),
    "Expand": (extents, ["shape"]),
    "TopK axis=2": (best, ["k"]),
    "CumSum exclusive=1": (scalar_axis, ["axis"]),
    "Split axis=2": (parts, ["split"]),
}
"""What is called with which inputs; attributes follow the operator's name. Lists may have any number of elements."""

OUTPUTS = {"TopK": 2, "Split": 3}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, list[dict[str, Array]]]:
    """An operator, and the parameters of calls to come, some of which repeat."""
    op = draw(st.sampled_from(sorted(FAMILIES)))
    make, _ = FAMILIES[op]
    distinct = [make(draw) for _ in range(draw(st.integers(1, 3)))]
    return op, draw(st.lists(st.sampled_from(distinct), min_size=2, max_size=5))


def family(name: str) -> onnx.ModelProto:
    op, *given_attributes = name.split()
    _, names = FAMILIES[name]
    attributes = {
        key: int(value) if value.isdecimal() else value for key, value in (a.split("=") for a in given_attributes)
    }
    inputs = [info("x", shape=[3, 4, 5]), *(info(n, shape=[] if n == "axis" else [f"n_{n}"], elem=I64) for n in names)]
    outputs = [f"a{i}" for i in range(OUTPUTS.get(op, 1))]
    nodes = [
        helper.make_node(op, ["x", *names], outputs, name="op", **attributes),
        helper.make_node("Neg", ["a0"], ["y"], name="neg"),
    ]
    return model(nodes, inputs, ["y", *outputs[1:]], opset=19)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls())
def test_values_that_change_from_call_to_call(case: tuple[str, list[dict[str, Array]]]) -> None:
    name, sequence = case
    proto = family(name)
    module = graphc.compile(proto)
    for values in sequence:
        feeds = {"x": X, **values}
        try:
            expected = run_ort(proto, feeds)
        except Exception:
            # What ONNX Runtime refuses (a crop of more than there is), graphc refuses by name, unless nothing is left.
            try:
                assert module(feeds)["y"].size == 0
            except (InputError, ExecutionError) as error:
                assert "op" in str(error)
            continue
        found = module(feeds)
        for wanted, (output, array) in zip(expected, found.items(), strict=True):
            assert_close(f"{name}: {output}", wanted, array)
        assert host_steps(module, feeds) == []


def test_each_value_runs_without_a_host_step(hook: list[dict[str, Array]]) -> None:
    module = graphc.compile(reduction())
    assert module.manifest.parameters == ("axes",)
    for axis in (1, 0, 1, 1, -1, 0, 1):
        feeds = {"x": X, "axes": axes(axis)}
        assert_close("y", summed(axis), module(feeds)["y"])
        assert host_steps(module, feeds) == []
    assert [int(values["axes"][0]) for values in hook] == [1, 0, -1]


def test_a_value_changed_in_place_is_seen() -> None:
    module, axis = graphc.compile(reduction()), axes(0)
    feeds = {"x": X, "axes": axis}
    for value in (0, 0, 0, 2, 2, 0, 1):
        axis[0] = value
        for _ in range(3):
            assert_close("y", summed(value), module(feeds)["y"])


def test_arithmetic_between_the_parameter_and_what_it_decides() -> None:
    nodes = [
        helper.make_node("Mul", ["half", "two"], ["k"]),
        helper.make_node("Slice", ["x", "zero", "k", "last"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    constants = {"two": axes(2), "zero": axes(0), "last": axes(2)}
    proto = model(nodes, [info("x", shape=[3, 4, 5]), info("half", shape=[1], elem=I64)], ["y"], initializers=constants)
    module = graphc.compile(proto)
    for half in (1, 2, 0):
        feeds = {"x": X, "half": axes(half)}
        assert_close("y", run_ort(proto, feeds)[0], module(feeds)["y"])
        assert host_steps(module, feeds) == []


def test_open_dimensions_and_open_values(hook: list[dict[str, Array]]) -> None:
    module = graphc.compile(reduction(("batch", 4, 5)))
    assert not module.manifest.variants
    for batch, axis in [(2, 0), (2, 1), (3, 0), (2, 0), (3, 0)]:
        x = X[:1].repeat(batch, 0)
        assert_close("y", summed(axis, x), module({"x": x, "axes": axes(axis)})["y"])
    assert len(hook) == 3 and all(values for values in hook)


def test_a_value_compiled_for_is_compiled_for_in_every_shape(hook: list[dict[str, Array]]) -> None:
    module = graphc.compile(reduction(("batch", 4, 5)), specializations=1)
    for batch in (1, 2, 3):
        x = X[:1].repeat(batch, 0)
        assert_close("y", summed(1, x), module({"x": x, "axes": axes(1)})["y"])
        assert host_steps(module, {"x": x, "axes": axes(1)}) == []
    assert_close("y", summed(0), module({"x": X, "axes": axes(0)})["y"])
    assert [len(values) for values in hook] == [1, 1, 1, 0]


def test_an_operator_of_scalars_folds() -> None:
    names = ["bins", "length", "rate", "low", "high"]
    values = {"bins": 8, "length": 16, "rate": 8192, "low": 0.0, "high": 4096.0}
    feeds = {name: np.array(value, np.float32 if name in names[3:] else np.int64) for name, value in values.items()}
    node = helper.make_node("MelWeightMatrix", names, ["y"])
    proto = model([node], [info(name, array) for name, array in feeds.items()], [info("y", shape=[9, 8])])
    module = graphc.compile(proto)
    assert_close("y", run_ort(proto, feeds)[0], module(feeds)["y"])
    assert host_steps(module, feeds) == []


def test_a_parameter_of_open_length() -> None:
    proto = reduction(count="n")
    module = graphc.compile(proto)
    for chosen in [(0,), (0, 2), (), (2, 1, 0)]:
        feeds = {"x": X, "axes": axes(*chosen)}
        assert_close("y", run_ort(proto, feeds)[0], module(feeds)["y"])
        assert host_steps(module, feeds) == []
    fixed = graphc.compile(proto, values={"axes": [[0], [1, 2]]})
    assert sorted(variant.inputs[1] for variant in fixed.variants) == [(1,), (2,)]


def test_a_branch_that_a_value_picks() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Concat", ["x"] * count, [name], axis=0)],
            name,
            [],
            [helper.make_empty_tensor_value_info(name)],
        )
        for name, count in (("then", 2), ("else", 3))
    }
    nodes = [
        helper.make_node("Equal", ["rate", "known"], ["is"]),
        helper.make_node("If", ["is"], ["y"], **branches),
    ]
    inputs = [info("x", shape=[3]), info("rate", shape=[], elem=I64)]
    proto = model(nodes, inputs, ["y"], initializers={"known": np.array(16000)})
    module = graphc.compile(proto)
    for rate in (16000, 8000, 16000):
        feeds = {"x": X[0, 0, :3], "rate": np.array(rate)}
        assert_close("y", run_ort(proto, feeds)[0], module(feeds)["y"])
        assert host_steps(module, feeds) == []


def test_many_threads() -> None:
    module = graphc.compile(reduction())
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for axis in rng.integers(-3, 3, 60):
            try:
                found = module({"x": X, "axes": axes(int(axis))})["y"]
                if found.shape != summed(axis).shape or not np.allclose(found, summed(axis), atol=1e-5):
                    wrong.append(axis)
            except Exception as error:
                wrong.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# --- how many, and where it is not possible ---------------------------------------------------------------------------


def sliced() -> onnx.ModelProto:
    """The first k of 1000."""
    nodes = [helper.make_node("Slice", ["x", "zero", "k"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    return model(
        nodes, [info("x", shape=[1000]), info("k", shape=[1], elem=I64)], ["y"], initializers={"zero": axes(0)}
    )


def test_values_without_end_do_not_compile_without_end(hook: list[dict[str, Array]]) -> None:
    module, x = graphc.compile(sliced(), specializations=6), np.arange(1000, dtype=np.float32)
    for _ in range(2):
        for k in range(1, 30):
            np.testing.assert_array_equal(module([x, axes(k)])["y"], x[:k])
    # Four at first sight, two more when they came again; the variant for any value served the others.
    assert [int(values["k"][0]) for values in hook] == [1, 2, 3, 4, 5, 6]
    assert host_steps(module, {"x": x, "k": axes(29)}) and not host_steps(module, {"x": x, "k": axes(6)})
    assert len(module.variants) == 7


def test_none_are_compiled_where_none_are_wanted(hook: list[dict[str, Array]]) -> None:
    module = graphc.compile(reduction(), specializations=0)
    for axis in (0, 1):
        assert_close("y", summed(axis), module([X, axes(axis)])["y"])
    assert hook == [] and MODEL not in module.manifest.hashes


def test_it_ends_where_it_gains_nothing(hook: list[dict[str, Array]]) -> None:
    """A Dropout that trains draws random numbers, on the host whatever its parameters are."""
    nodes = [helper.make_node("Dropout", ["x", "ratio", "training"], ["y"], seed=3)]
    inputs = [info("x", shape=[3, 4, 5]), info("training", shape=[], elem=TensorProto.BOOL)]
    proto = model(nodes, inputs, ["y"], initializers={"ratio": np.float32(0.5)})
    module = graphc.compile(proto)
    for training in (True, False, True, False):
        found = module([X, np.array(training)])["y"]
        assert np.array_equal(found, X) != training
    assert [bool(values["training"]) for values in hook] == [True]


def test_without_a_compiler_the_variant_for_any_value_serves(hook: list[dict[str, Array]]) -> None:
    module = graphc.compile(reduction())
    set_compile_hook(None)
    for axis in (0, 1, 0):
        assert_close("y", summed(axis), module([X, axes(axis)])["y"])
        assert host_steps(module, {"x": X, "axes": axes(axis)})
    assert hook == []


def test_a_compile_that_fails_is_told_and_not_tried_again() -> None:
    before = compile_hook()
    tried = []

    def broken(package: Package, bindings: Mapping[str, int], values: Mapping[str, Array]) -> Path:
        tried.append(values)
        raise BackendError("the linker is gone")

    module = graphc.compile(reduction())
    set_compile_hook(broken)
    try:
        with pytest.warns(RuntimeWarning, match=r"not compiled for axes=\[1\]: the linker is gone"):
            assert_close("y", summed(1), module([X, axes(1)])["y"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_close("y", summed(0), module([X, axes(0)])["y"])
    finally:
        set_compile_hook(before)
    assert len(tried) == 1


@pytest.mark.parametrize("value", [7, -4, 2**62])
def test_a_value_that_does_not_fit_names_input_and_node(value: int) -> None:
    module = graphc.compile(reduction())
    with pytest.raises(InputError, match=rf"axes=\[{value}\].*axis {value} is out of range for rank 3") as raised:
        module([X, axes(value)])
    assert raised.value.nodes == ("sum",)
    assert_close("y", summed(1), module([X, axes(1)])["y"])


def test_a_value_that_does_not_fit_is_refused_by_the_variant_for_any_value_too() -> None:
    module = graphc.compile(reduction(), specializations=0)
    with pytest.raises(ExecutionError, match="axis 7 is out of range for rank 3"):
        module([X, axes(7)])


def test_sizes_that_no_machine_holds() -> None:
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["y"], name="fill")]
    module = graphc.compile(model(nodes, [info("shape", shape=[2], elem=I64)], ["y"]))
    with pytest.raises(UnsupportedError, match="TB of memory"):
        module([axes(1 << 40, 1 << 40)])
    with pytest.raises(InputError, match=r"shape=\[-1, 2\]"):
        module([axes(-1, 2)])
    assert module([axes(0, 2)])["y"].shape == (0, 2)


# --- values given to the compile --------------------------------------------------------------------------------------


def test_values_given_are_compiled_for_and_no_others() -> None:
    module = graphc.compile(reduction(), values={"axes": [[0], [2]]})
    assert [dict(variant.values) for variant in module.variants] == [
        {"axes": axes(0).tobytes()},
        {"axes": axes(2).tobytes()},
    ]
    assert not any(variant.host_steps for variant in module.variants)
    for axis in (0, 2, 0):
        assert_close("y", summed(axis), module([X, axes(axis)])["y"])
    with pytest.raises(ShapeNotCompiledError, match=r"no variant for axes=\[1\].*axes=\[0\]; axes=\[2\]") as raised:
        module([X, axes(1)])
    assert "--value 'axes=[1]'" in str(raised.value)


def test_values_given_and_the_model_for_others(hook: list[dict[str, Array]]) -> None:
    module = graphc.compile(reduction(), values={"axes": [0]}, embed_model=True)
    for axis in (0, 1, 2):
        assert_close("y", summed(axis), module([X, axes(axis)])["y"])
    assert [int(values["axes"][0]) for values in hook] == [1, 2]


def test_values_given_and_dimensions_left_open(hook: list[dict[str, Array]]) -> None:
    module = graphc.compile(reduction(("batch", 4, 5)), values={"axes": [1]})
    for batch, axis in ((2, 1), (3, 1), (3, 2)):
        x = X[:1].repeat(batch, 0)
        assert_close("y", summed(axis, x), module({"x": x, "axes": axes(axis)})["y"])
        assert host_steps(module, {"x": x, "axes": axes(axis)}) == []
    bound = graphc.compile(reduction(("batch", 4, 5)), values={"axes": [[1], [2]]}, dims={"batch": [2, 3]})
    assert [(v.bindings["batch"], v.values["axes"][0]) for v in bound.variants] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    with pytest.raises(OptionError, match="dimensions batch of the inputs are not bound"):
        graphc.compile(reduction(("batch", "depth", 5)), values={"axes": [[1], [2]]}, dims={"depth": [4, 3]})


def test_some_values_given_some_open() -> None:
    names = ["starts", "ends", "axes"]
    nodes = [helper.make_node("Slice", ["x", *names], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    proto = model(nodes, [info("x", shape=[3, 4, 5]), *(info(n, shape=[1], elem=I64) for n in names)], ["y"])
    module = graphc.compile(proto, values={"axes": [2]})
    for end in (1, 3, 1):
        feeds = {"x": X, "starts": axes(0), "ends": axes(end), "axes": axes(2)}
        assert_close("y", np.maximum(X[..., :end], 0), module(feeds)["y"])
        assert host_steps(module, feeds) == []


def test_an_input_that_is_no_parameter_may_be_given() -> None:
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    proto = model(nodes, [info("x", shape=[3, 4, 5]), info("scale", shape=[])], ["y"])
    module = graphc.compile(proto, values={"scale": 2})
    assert_close("y", 2 * X, module([X, np.float32(2)])["y"])
    with pytest.raises(ShapeNotCompiledError, match=r"scale=3\.0"):
        module([X, np.float32(3)])


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"axis": [1]}, "no input 'axis'"),
        ({"axes": "one"}, "no value of it"),
        ({"axes": []}, "its shape is"),
        ({"axes": [1.5]}, "it is of float64"),
        ({"axes": [[1], [True]]}, "it is of bool"),
        ({"axes": [2**63]}, "hold"),
        ({"axes": [1, 2]}, "its shape is"),
        ({"axes": [[[1]]]}, "no list of values"),
        ({"axes": {"a": 1}}, "no value of it"),
        ([1], "expected a dictionary"),
    ],
)
def test_values_that_an_input_cannot_have(values: Any, why: str, cache: Path) -> None:
    with pytest.raises(OptionError, match=why):
        lower_model(reduction(), values=values, options=CompileOptions(cache=cache))


def test_a_value_that_is_data(cache: Path) -> None:
    with pytest.raises(OptionError, match="at most 64 elements"):
        lower_model(sliced(), values={"x": np.zeros(1000, np.float32)}, options=CompileOptions(cache=cache))


def test_a_value_that_does_not_fit_the_model_is_found_at_compile_time() -> None:
    with pytest.raises(Exception, match="axis 5 is out of range") as raised:
        graphc.compile(reduction(), values={"axes": [5]})
    assert raised.value.nodes == ("sum",)  # type: ignore[attr-defined]


def test_require_compiled_compiles_each_value_when_it_comes(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.graphc"
    manifest, _ = compile_package(reduction(), path, options=CompileOptions(cache=cache, require_compiled=True))
    assert not manifest.variants
    module = graphc.load(path)
    assert_close("y", summed(1), module([X, axes(1)])["y"])
    assert not any(variant.host_steps for variant in module.variants)
    with pytest.raises(UnsupportedError, match="no compiled form"):
        graphc.compile(reduction(), require_compiled=True, specializations=0)


def test_a_model_without_parameters_has_no_account_of_them() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    module = graphc.compile(model(nodes, [info("x", shape=[3, 4, 5])], ["y"]))
    assert module.manifest.parameters == () and module.manifest.specializations == 0
    assert MODEL not in module.manifest.hashes
