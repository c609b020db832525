"""Dimensions left open: one variant for any extent, equal to ONNX Runtime at each, and exact about where it ends."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import graphc
from graphc.errors import InputError, OptionError, ShapeNotCompiledError
from graphc.package import Manifest, Package, instantiate
from graphc.runtime.programs import OPEN_PROGRAMS
from tests.compiler.agreement import assert_close
from tests.compiler.test_driver import normal, perceptron
from tests.frontend.models import info, model, run_ort

RNG = np.random.default_rng(0)
SIZE, HEADS, POSITIONS = 24, 3, 40


def weights(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.standard_normal(shape) * 0.2).astype(np.float32)


def encoder(far: float = -3e38) -> onnx.ModelProto:
    """Embeddings with a table of positions, one layer of attention under a mask, and the mean over the words.

    Args:
        far: Score of hidden words; attention is one kernel only where it is far below all others.
    """
    node = helper.make_node
    shape = ["batch", "seq"]
    split = np.array([0, 0, HEADS, SIZE // HEADS], np.int64)
    nodes = [
        node("Gather", ["words", "ids"], ["w"]),
        node("Shape", ["ids"], ["extents"]),
        node("Gather", ["extents", "one"], ["length"]),
        node("Unsqueeze", ["length", "zero"], ["ends"]),
        node("Slice", ["places", "zero", "ends", "zero"], ["p"]),
        node("Add", ["w", "p"], ["e"]),
        node("LayerNormalization", ["e", "scale", "bias"], ["n"], axis=-1),
        *(node("MatMul", ["n", f"w{x}"], [f"m{x}"]) for x in "qkv"),
        *(node("Reshape", [f"m{x}", "split"], [f"r{x}"]) for x in "qkv"),
        *(node("Transpose", [f"r{x}"], [x], perm=[0, 2, 1, 3]) for x in "qv"),
        node("Transpose", ["rk"], ["k"], perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], ["scores"]),
        node("Unsqueeze", ["mask", "middle"], ["wide"]),
        node("Cast", ["wide"], ["seen"], to=onnx.TensorProto.BOOL),
        node("Where", ["seen", "scores", "far"], ["masked"]),
        node("Softmax", ["masked"], ["weights"], axis=-1),
        node("MatMul", ["weights", "v"], ["heads"]),
        node("Transpose", ["heads"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "join"], ["joined"]),
        node("MatMul", ["joined", "wo"], ["o"]),
        node("Add", ["o", "n"], ["hidden"]),
        node("ReduceMean", ["hidden"], ["pooled"], axes=[1], keepdims=0),
    ]
    constants = {
        "words": weights(50, SIZE),
        "places": weights(POSITIONS, SIZE),
        "scale": np.ones(SIZE, np.float32),
        "bias": np.zeros(SIZE, np.float32),
        **{f"w{x}": weights(SIZE, SIZE) for x in "qkvo"},
        "split": split,
        "join": np.array([0, 0, SIZE], np.int64),
        "one": np.array(1),
        "zero": np.array([0]),
        "middle": np.array([1, 2]),
        "far": np.array(far, np.float32),
    }
    inputs = [info(name, np.zeros((), np.int64), shape) for name in ("ids", "mask")]
    return model(nodes, inputs, ["hidden", "pooled"], initializers=constants)


def words(batch: int, seq: int) -> dict[str, Any]:
    mask = np.ones((batch, seq), np.int64)
    mask[0, (seq + 1) // 2 :] = 0
    return {"ids": RNG.integers(0, 50, (batch, seq)), "mask": mask}


@pytest.fixture(scope="module")
def text() -> tuple[onnx.ModelProto, graphc.Executable]:
    proto = encoder()
    return proto, graphc.compile(proto)


def ranges(manifest: Manifest) -> dict[str, tuple[int, int | None]]:
    (variant,) = manifest.open
    return {name: (found.minimum, found.maximum) for name, found in variant.ranges.items()}


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, POSITIONS))
def test_an_encoder_is_equal_at_every_length(
    text: tuple[onnx.ModelProto, graphc.Executable], batch: int, seq: int
) -> None:
    proto, module = text
    feeds = words(batch, seq)
    found = module(feeds)
    for name, want in zip(("hidden", "pooled"), run_ort(proto, feeds), strict=True):
        assert_close(name, want, found[name])


def test_an_encoder_has_no_step_that_waits_for_shapes(text: tuple[onnx.ModelProto, graphc.Executable]) -> None:
    manifest = text[1].manifest
    assert not manifest.variants
    assert ranges(manifest) == {"batch": (1, None), "seq": (1, POSITIONS)}
    templates = {step.label.partition(":")[0] for step in manifest.open[0].steps}
    assert {"gemm", "attention", "rows"} <= templates


def test_an_encoder_whose_attention_stays_in_pieces() -> None:
    proto = encoder(-1e4)
    module = graphc.compile(proto)
    (variant,) = module.manifest.open
    templates = {step.label.partition(":")[0] for step in variant.steps}
    assert {"batch_matmul", "rows"} <= templates and "attention" not in templates
    for batch, seq in [(1, 1), (2, 3), (1, 16), (3, 31), (1, POSITIONS)]:
        feeds = words(batch, seq)
        assert_close("hidden", run_ort(proto, feeds)[0], module(feeds)["hidden"])


def test_a_length_beyond_the_table_of_positions_is_an_error(text: tuple[onnx.ModelProto, graphc.Executable]) -> None:
    with pytest.raises(ShapeNotCompiledError, match=f"seq in 1..{POSITIONS}"):
        text[1](words(1, POSITIONS + 1))
    with pytest.raises(InputError, match="seq is 3"):
        text[1]({"ids": words(1, 3)["ids"], "mask": words(1, 4)["mask"]})


def test_new_lengths_take_no_memory_but_the_largest_one_s(text: tuple[onnx.ModelProto, graphc.Executable]) -> None:
    module = graphc.compile(text[0])
    (variant,) = module.manifest.open
    for batch in range(1, 2 * OPEN_PROGRAMS // 20):
        for seq in range(1, 21):
            module(words(batch, seq))
    largest = instantiate(variant, {"batch": batch, "seq": 20}).arena_size
    assert module.memory == largest
    assert len(module.variants) == OPEN_PROGRAMS
    module.trim()
    assert module.memory == 0
    assert module(words(2, 5))["pooled"].shape == (2, SIZE)


def test_threads_that_bring_lengths_at_once(text: tuple[onnx.ModelProto, graphc.Executable]) -> None:
    module = graphc.compile(text[0], threads=1)
    feeds = [words(1 + n % 3, 1 + n % 13) for n in range(40)]
    expected = [module(one)["pooled"] for one in feeds]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda one: module(one)["pooled"], feeds * 3))
    for answer, want in zip(answers, expected * 3, strict=True):
        np.testing.assert_array_equal(answer, want)


def test_plans_of_a_binding_overlap_nowhere(text: tuple[onnx.ModelProto, graphc.Executable]) -> None:
    (variant,) = text[1].manifest.open
    for batch, seq in [(1, 1), (3, 17), (7, 40)]:
        buffers = instantiate(variant, {"batch": batch, "seq": seq}).buffers
        for i, one in enumerate(buffers):
            for other in buffers[:i]:
                alive = one.start < other.end and other.start < one.end
                apart = one.offset + one.size <= other.offset or other.offset + other.size <= one.offset
                assert apart or not alive


def test_ranges_beside_bound_variants(tmp_path: Path) -> None:
    proto = perceptron("batch")
    module = graphc.compile(proto, dims={"batch": [range(1, 65), 8]}, output=tmp_path / "m.graphc")
    assert ranges(module.manifest) == {"batch": (1, 64)}
    assert [variant.bindings for variant in Package(tmp_path / "m.graphc").manifest.variants] == [{"batch": 8}]
    for rows in (1, 8, 64):
        x = normal(rows, 19)
        assert_close("y", run_ort(proto, {"x": x})[0], module({"x": x})["y"])
    # The bound variant is the one that runs where there is one.
    assert module.variant_for({"x": normal(8, 19)}) is module.manifest.variants[0]
    with pytest.raises(ShapeNotCompiledError, match=r"batch in 1\.\.64; batch=8"):
        module({"x": normal(65, 19)})


def test_one_dimension_bound_and_one_open() -> None:
    proto = encoder()
    module = graphc.compile(proto, dims={"batch": 2})
    assert ranges(module.manifest) == {"batch": (2, 2), "seq": (1, POSITIONS)}
    feeds = words(2, 9)
    assert_close("pooled", run_ort(proto, feeds)[1], module(feeds)["pooled"])
    with pytest.raises(ShapeNotCompiledError, match="batch=2, seq in"):
        module(words(3, 9))


@pytest.mark.parametrize("given", [range(4, 1), range(1, 9, 2), range(-2, 4), [range(1, 9), "x"]])
def test_ranges_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(OptionError, match="batch"):
        graphc.compile(perceptron("batch"), dims={"batch": given})


def closed(nodes: Sequence[onnx.NodeProto], inputs: Sequence[Any], constants: Mapping[str, Any] | None = None) -> str:
    """Why a model has no open variant; asserts that it has none."""
    module = graphc.compile(model(nodes, inputs, ["y"], initializers=dict(constants or {})))
    assert not module.manifest.open
    return module.manifest.options["closed"]


def test_extents_that_must_be_equal_are_one() -> None:
    """As exporters write a decoder: every cache has a name of its own for its length, and the mask has one more."""
    node = helper.make_node
    nodes = [
        node("Concat", ["a", "x"], ["k"], axis=1),
        node("Concat", ["b", "x"], ["v"], axis=1),
        node("Mul", ["k", "v"], ["kv"]),
        node("Add", ["kv", "mask"], ["y"]),
    ]
    inputs = [
        info("a", shape=[2, "s1"]),
        info("b", shape=[2, "s7"]),
        info("mask", shape=["s3"]),
        info("x", shape=[2, 1]),
    ]
    proto = model(nodes, inputs, ["y"], initializers={})
    module = graphc.compile(proto)
    (variant,) = module.manifest.open
    assert variant.equal == {"s7": "s1", "s3": "s1 + 1"}
    for length in (1, 2, 17, 40):
        feeds = {"a": normal(2, length), "b": normal(2, length), "mask": normal(length + 1), "x": normal(2, 1)}
        assert_close("y", run_ort(proto, feeds)[0], module(feeds)["y"])
    with pytest.raises(ShapeNotCompiledError, match=r"s3=s1 \+ 1"):
        module({**feeds, "mask": normal(length)})


def test_operands_that_are_not_broadcast_demand_no_equal_extents() -> None:
    """Of what a CastLike is to be like, only the dtype matters; scales are laid along one axis, not the last."""
    node = helper.make_node
    nodes = [
        node("CastLike", ["x", "like"], ["floats"]),
        node("QuantizeLinear", ["floats", "scale"], ["bytes"], axis=0, output_dtype=onnx.TensorProto.INT8),
        node("DequantizeLinear", ["bytes", "scale"], ["y"], axis=0),
    ]
    inputs = [
        info("x", shape=["m", "n"], elem=onnx.TensorProto.INT32),
        info("like", shape=[7]),
        info("scale", shape=["k"]),
    ]
    module = graphc.compile(model(nodes, inputs, ["y"], opset=21))
    (variant,) = module.manifest.open
    assert variant.equal in ({"m": "k"}, {"k": "m"})
    for rows, columns in ((2, 3), (5, 5), (1, 9)):
        scale = np.linspace(0.5, 1.5, rows, dtype=np.float32)
        x = RNG.integers(-40, 40, (rows, columns)).astype(np.int32)
        found = module({"x": x, "like": normal(7), "scale": scale})["y"]
        assert_close("y", (np.round(x / scale[:, None]) * scale[:, None]).astype(np.float32), found)


def test_extents_that_must_be_multiples_go_in_steps() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], name="fold")]
    four = {"s": np.array([-1, 4], np.int64)}
    proto = model(nodes, [info("x", shape=["n"])], ["y"], initializers=four)
    for dims, most in [({}, None), ({"n": range(4, 99)}, 96)]:
        module = graphc.compile(proto, dims=dims)
        (variant,) = module.manifest.open
        assert ranges(module.manifest)["n"] == (4, most)
        assert variant.takes({"n": 12}) and not variant.takes({"n": 14})
        assert str(variant) == ("n in 4..96 that 4 divides" if dims else "any n that 4 divides")
        assert module({"x": normal(8)})["y"].shape == (2, 4)
        with pytest.raises(ShapeNotCompiledError if dims else InputError):
            module({"x": normal(9)})


def pyramid(pixels: int, widened: str) -> onnx.ModelProto:
    """A picture halved twice, widened again, and joined to what it was: its sizes are multiples of four."""
    node = helper.make_node
    kinds = {"Resize": node("Resize", ["c2", "", "twice"], ["u"], mode=widened)}
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c0"], ["c1"]),
        node("MaxPool", ["c1"], ["m"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["m", "w1", "b0"], ["c2"], pads=[1, 1, 1, 1]),
        node("ConvTranspose", ["c2", "wt"], ["u"], strides=[2, 2]) if widened == "convolved" else kinds["Resize"],
        node("Concat", ["u", "c1"], ["j"], axis=1),
        node("Conv", ["j", "w2"], ["d"]),
        node("HardSwish", ["d"], ["e"]),
        node("Conv", ["e", "w3"], ["f"], group=24, pads=[2, 2, 2, 2]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Mul", ["f", "g"], ["y"]),
    ]
    constants = {
        "w0": weights(20, 3, 3, 3),
        "b0": weights(20),
        "w1": weights(20, 20, 3, 3),
        "wt": weights(20, 20, 2, 2),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "w2": weights(24, 40, 1, 1),
        "w3": weights(24, 1, 5, 5),
    }
    return model(nodes, [info("x", shape=["n", 3, pixels or "h", "w"])], ["y"], initializers=constants)


@pytest.mark.parametrize("widened", ["convolved", "nearest"])
def test_images_of_any_size_that_halves_twice(widened: str) -> None:
    proto = pyramid(0, widened)
    module = graphc.compile(proto)
    assert not module.manifest.variants and module.manifest.open
    for n, h, w in [(1, 8, 8), (2, 12, 64), (1, 100, 36), (3, 4, 4)]:
        x = normal(n, 3, h, w)
        assert_close("y", run_ort(proto, {"x": x})[0], module({"x": x})["y"])


def test_images_of_one_height_and_any_width() -> None:
    proto = pyramid(16, "nearest")
    module = graphc.compile(proto, dims={"n": 1})
    assert module.manifest.open
    for w in (4, 20, 332):
        x = normal(1, 3, 16, w)
        assert_close("y", run_ort(proto, {"x": x})[0], module({"x": x})["y"])


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_recurrent_layers_over_any_number_of_steps_and_sequences(cell: str) -> None:
    hidden, gates = 9, {"LSTM": 4, "GRU": 3}[cell]
    constants = {
        "w": weights(2, gates * hidden, 6),
        "r": weights(2, gates * hidden, hidden),
        "b": weights(2, 2 * gates * hidden),
    }
    outputs = ["y", "h", "c"][: 3 if cell == "LSTM" else 2]
    layer = helper.make_node(cell, ["x", "w", "r", "b"], outputs, hidden_size=hidden, direction="bidirectional")
    proto = model([layer], [info("x", shape=["steps", "n", 6])], outputs, initializers=constants)
    module = graphc.compile(proto)
    assert ranges(module.manifest) == {"steps": (1, None), "n": (1, None)}
    for steps, n in [(1, 1), (5, 1), (3, 7), (40, 2)]:
        x = normal(steps, n, 6)
        found = module({"x": x})
        for name, want in zip(outputs, run_ort(proto, {"x": x}), strict=True):
            assert_close(name, want, found[name])


def test_what_has_kernels_for_bound_extents_only_says_so_and_runs() -> None:
    nodes = [helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[3, 3], name="window")]
    inputs = [info("x", shape=["n", 3, 8, 8])]
    reason = closed(nodes, inputs, {})
    assert "LpPool" in reason and "window" in reason
    proto = model(nodes, inputs, ["y"])
    x = normal(2, 3, 8, 8)
    assert_close("y", run_ort(proto, {"x": x})[0], graphc.compile(proto)({"x": x})["y"])


def test_symbols_called_as_axes_and_loops_are() -> None:
    """Exporters call dimensions s0 and i1, as kernels call their loops."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]), helper.make_node("Exp", ["t"], ["y"])]
    proto = model(nodes, [info("x", shape=["s1", "i0"])], ["y"])
    module = graphc.compile(proto)
    assert ranges(module.manifest) == {"s1": (1, None), "i0": (1, None)}
    for shape in ((3, 7), (1, 40), (33, 2)):
        x = normal(*shape)
        assert_close("y", np.exp(x.T), module({"x": x})["y"])


def test_outputs_that_are_inputs_or_views_are_copied() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"]), helper.make_node("Identity", ["x"], ["z"])]
    proto = model(nodes, [info("x", shape=["n", 6])], ["y", "z"], initializers={"s": np.array([0, 2, 3], np.int64)})
    module = graphc.compile(proto)
    assert module.manifest.open
    x = normal(5, 6)
    found = module({"x": x})
    np.testing.assert_array_equal(found["y"], x.reshape(5, 2, 3))
    np.testing.assert_array_equal(found["z"], x)
    assert not np.may_share_memory(found["y"], x)


def test_outputs_go_into_the_caller_s_arrays() -> None:
    module = graphc.compile(perceptron("batch"))
    x = normal(7, 19)
    out = np.empty_like(module({"x": x})["y"])
    assert module({"x": x}, out={"y": out})["y"] is out
    with pytest.raises(InputError, match="out 'y'"):
        module({"x": normal(6, 19)}, out={"y": out})


def test_steps_are_walked_and_profiled_at_a_binding() -> None:
    module = graphc.compile(perceptron("batch"))
    feeds = {"x": normal(3, 19)}
    steps = len(module.manifest.open[0].steps)
    assert [index for index, _ in module.walk(feeds)] == list(range(steps))
    assert len(module.profile(feeds, runs=2, warmup=0).steps) == steps
