"""What a compile is told: targets, dimensions, passes, levels, options."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphc
from graphc.compiler import CompileOptions, compile_package, lower_model
from graphc.errors import (
    ExecutionError,
    InputError,
    OptionError,
    PackageError,
    ParseError,
    ToolchainError,
    UnsupportedError,
)
from graphc.package import Package
from tests.compiler.agreement import WIDTHS, assert_agrees, assert_close, target_or_skip
from tests.frontend.models import Array, info, model, run_ort

RNG = np.random.default_rng(0)


def perceptron(batch: int | str = 4) -> onnx.ModelProto:
    """Two layers with an activation between, and a softmax; the same weights each time."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], name="layer0"),
        helper.make_node("Relu", ["h"], ["a"], name="act0"),
        helper.make_node("MatMul", ["a", "w1"], ["z"], name="layer1"),
        helper.make_node("Softmax", ["z"], ["y"], name="probabilities", axis=-1),
    ]
    weights = {
        "w0": rng.standard_normal((19, 33)).astype(np.float32),
        "b0": rng.standard_normal(33).astype(np.float32),
        "w1": rng.standard_normal((33, 10)).astype(np.float32),
    }
    return model(nodes, [info("x", shape=[batch, 19])], ["y"], initializers=weights)


def picture(size: int | str = 13) -> onnx.ModelProto:
    """A small convolutional network: grouped, strided, residual, pooled; the same weights each time."""
    rng = np.random.default_rng(2)

    def weight(*shape: int) -> Array:
        scaled: Array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return scaled.astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="stem.act"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="depthwise", pads=[1, 1, 1, 1], group=16),
        helper.make_node("Conv", ["c1", "w2"], ["c2"], name="pointwise"),
        helper.make_node("Add", ["c2", "r0"], ["s"], name="residual"),
        helper.make_node("MaxPool", ["s"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"], name="mean"),
        helper.make_node("Flatten", ["g"], ["y"], name="flat"),
    ]
    weights = {"w0": weight(16, 3, 3, 3), "b0": weight(16), "w1": weight(16, 1, 3, 3), "w2": weight(16, 16, 1, 1)}
    return model(nodes, [info("x", shape=[1, 3, size, size])], ["y"], initializers=weights)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("target", WIDTHS)
@pytest.mark.parametrize("make", [perceptron, picture])
def test_every_vector_width_is_right(make: Any, target: str) -> None:
    proto = make()
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    module = assert_agrees(proto, {"x": normal(*shape)}, target=target_or_skip(target), require_compiled=True)
    assert module.isa == target.removeprefix("cpu:")


def test_one_package_holds_several_targets(tmp_path: Path) -> None:
    targets = [target_or_skip(name) for name in WIDTHS]
    proto, path = picture(), tmp_path / "model.graphc"
    manifest, programs = compile_package(proto, path, target=",".join(targets))
    isas = [name.removeprefix("cpu:") for name in targets]
    assert list(manifest.code) == isas and [program.target.isa for program in programs] == isas
    feeds = {"x": normal(1, 3, 13, 13)}
    (expected,) = run_ort(proto, feeds)
    for isa in isas:
        with graphc.load(path, isa=isa) as module:
            assert module.isa == isa
            assert_close(isa, expected, module(feeds)["y"])
    assert graphc.load(path).isa == isas[-1]


def test_another_machines_code_is_compiled_but_not_run(tmp_path: Path) -> None:
    path = tmp_path / "arm.graphc"
    manifest, _ = compile_package(perceptron(), path, target="cpu:aarch64")
    assert manifest.code["aarch64"].machine == "aarch64"
    code = bytes(Package(path).code("aarch64"))
    assert code[:4] == b"\x7fELF" and code[18] == 0xB7, "an object of machine EM_AARCH64"


@pytest.mark.parametrize(
    ("target", "words"),
    [("cpu:pentium", "unknown target"), ("", "no target"), ("cuda:sm_1", "unknown target"), ("cpu,,x", "x")],
)
def test_bad_targets(target: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        graphc.compile(perceptron(), target=target)


@pytest.mark.parametrize(
    ("dims", "rows"),
    [({"batch": 3}, [3]), ({"batch": [1, 3]}, [1, 3]), ({"x": [2, 19]}, [2]), ({"x": ["batch", 19], "batch": 5}, [5])],
)
def test_dimensions_are_bound(dims: Any, rows: list[int]) -> None:
    proto = perceptron("batch")
    module = graphc.compile(proto, dims=dims, verify=True)
    assert [variant.bindings for variant in module.variants] == [{"batch": count} for count in rows]
    for count in rows:
        feeds = {"x": normal(count, 19)}
        assert_close("y", run_ort(proto, feeds)[0], module(feeds)["y"])
    with pytest.raises(InputError):
        module({"x": normal(7, 19)})


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"bath": 3}, "bath"),
        ({"batch": 0.5}, "expected an integer"),
        ({"batch": True}, "expected an integer"),
        ({"batch": "3"}, "expected an integer"),
        ({"batch": []}, "expected integers"),
        ({"batch": [1, "2"]}, "expected integers"),
        ({"batch": -1}, "batch"),
        ({"x": [3]}, "x"),
        ({"x": [3, 20]}, "x"),
    ],
)
def test_bad_dimensions(dims: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        graphc.compile(perceptron("batch"), dims=dims)


def test_some_dimensions_may_not_stay_open_beside_several_variants() -> None:
    with pytest.raises(OptionError, match="size"):
        graphc.compile(
            model([helper.make_node("Relu", ["x"], ["y"])], [info("x", shape=["batch", "size"])], ["y"]),
            dims={"batch": [1, 2]},
        )


def test_levels_agree_and_later_ones_have_fewer_steps() -> None:
    proto, feeds = picture(), {"x": normal(1, 3, 13, 13)}
    steps = {}
    for level in ("O0", "O1", "O2", "O3"):
        module = assert_agrees(proto, feeds, level=level)
        steps[level] = len(module.variants[0].steps)
    assert steps["O2"] < steps["O0"] and steps["O1"] <= steps["O0"]


def test_a_pipeline_takes_the_place_of_the_levels() -> None:
    module = assert_agrees(perceptron(), {"x": normal(4, 19)}, passes="fold,dce")
    assert len(module.variants[0].steps) == 4
    assert module.manifest.options["passes"] == "fold,dce"


@pytest.mark.parametrize("text", ["nosuchpass", "fold{", "fold{size=1}"])
def test_bad_pipelines_show_the_place(text: str) -> None:
    with pytest.raises((ParseError, OptionError)):
        graphc.compile(perceptron(), passes=text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levle": "O2"}, "levle"),
        ({"level": "O9"}, "O9"),
        ({"level": "2"}, "'2'"),
        ({"jobs": 0}, "jobs"),
        ({"passes": ["fold"]}, "pipeline as text"),
        ({"target": 3}, "target is 3"),
        ({"dims": [1]}, "dims is"),
        ({"threads": 0}, "threads"),
        ({"print_after": ["fuze"]}, "fuze"),
    ],
)
def test_bad_options(options: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        graphc.compile(perceptron(), **options)


def nonzero() -> onnx.ModelProto:
    """An operator whose result's shape only the data tells, between two that compile."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="before"),
        helper.make_node("NonZero", ["r"], ["n"], name="search"),
        helper.make_node("Exp", ["x"], ["e"], name="after"),
    ]
    return model(nodes, [info("x", shape=[3, 4])], ["n", "e"])


def test_require_compiled_names_what_has_no_kernel() -> None:
    with pytest.raises(UnsupportedError, match="search"):
        graphc.compile(nonzero(), require_compiled=True)
    module = assert_agrees(nonzero(), {"x": normal(3, 4)})
    assert [step.op_type for step in module.variants[0].host_steps] == ["NonZero"]


def test_the_output_is_kept_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, temporary = tmp_path / "kept.graphc", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    feeds = {"x": normal(4, 19)}
    first = graphc.compile(perceptron(), output=kept)(feeds)["y"]
    assert kept.is_file()
    module = graphc.compile(perceptron())
    assert list(temporary.iterdir()) == [], "a package without a home is gone once it is loaded"
    np.testing.assert_array_equal(module(feeds)["y"], graphc.load(kept)(feeds)["y"])
    assert first.shape == (4, 10)


@pytest.mark.parametrize(("place", "words"), [("", "is a folder"), ("missing/x", "no folder"), ("file/x", "no folder")])
def test_an_output_that_cannot_be_written_is_found_out_before_any_work(place: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    seen: list[str] = []
    options = CompileOptions(progress=lambda what, done, total: seen.append(what))
    with pytest.raises(PackageError, match=words):
        compile_package(perceptron(), tmp_path / place, options=options)
    assert seen == []


def test_more_memory_than_there_is_is_a_typed_error() -> None:
    nodes = [
        helper.make_node("Expand", ["x", "s"], ["e"], name="grow"),
        helper.make_node("Exp", ["e"], ["f"]),
        helper.make_node("ReduceSum", ["f"], ["y"], keepdims=0),
    ]
    proto = model(nodes, [info("x", shape=[1])], ["y"], initializers={"s": np.array([2**37], np.int64)})
    module = graphc.compile(proto, level="O0")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 38, hard))
    try:
        with pytest.raises(ExecutionError, match="GB"):
            module({"x": normal(1)})
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_every_form_of_model_is_taken(tmp_path: Path) -> None:
    proto, feeds = perceptron(), {"x": normal(4, 19)}
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    answers = [graphc.compile(form)(feeds)["y"] for form in (proto, path, str(path), proto.SerializeToString())]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


def test_lowering_alone_compiles_nothing(tmp_path: Path) -> None:
    lowered = lower_model(perceptron(), options=CompileOptions(cache=tmp_path))
    assert len(lowered.programs) == 1 and lowered.programs[0].kernels
    assert list(tmp_path.iterdir()) == []


def test_no_linker_is_found_out_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ziglang" else found(name))
    seen: list[str] = []
    options = CompileOptions(cache=tmp_path, progress=lambda what, done, total: seen.append(what))
    with pytest.raises(ToolchainError, match="ziglang"):
        compile_package(perceptron(), tmp_path / "model.graphc", options=options)
    assert set(seen) <= {"reading the model"}
    assert list(tmp_path.iterdir()) == []


def test_an_input_without_rank_needs_a_shape() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [info("x", shape=None)], ["y"])
    with pytest.raises(UnsupportedError, match="'x'"):
        graphc.compile(proto)
    assert_agrees(proto, {"x": normal(2, 3)}, dims={"x": [2, 3]})


def test_sequences_are_lists() -> None:
    sequence = helper.make_tensor_sequence_value_info("several", onnx.TensorProto.FLOAT, None)
    nodes = [helper.make_node("ConcatFromSequence", ["several"], ["y"], axis=0)]
    with graphc.compile(model(nodes, [sequence], ["y"])) as module:
        assert str(module.inputs[0]) == "several: seq(float32[...])"
        parts = [normal(2, 3), normal(1, 3)]
        np.testing.assert_array_equal(module({"several": parts})["y"], np.concatenate(parts))
        with pytest.raises(InputError, match="element 1 of input 'several'"):
            module({"several": [parts[0], 1.0]})


def test_dims_of_other_inputs_follow(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    proto = model(nodes, [info("a", shape=["n", 4]), info("b", shape=["n", 1])], ["y"])
    assert_agrees(proto, {"a": normal(6, 4), "b": normal(6, 1)}, dims={"n": 6})
    assert_agrees(proto, {"a": normal(6, 4), "b": normal(6, 1)}, dims={"a": [6, 4]})
