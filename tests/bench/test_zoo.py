"""The zoo's models are what they are said to be, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from bench.zoo import Entry, Feed, load, names
from bench.zoo.sources import Skeleton, fill, use_trained

SMALL = ["mlp_4x64x64", "pointwise_chain", "lstm_step", "decode_step"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHC_ZOO", str(tmp_path))
    return tmp_path


def run(entry: Entry) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(entry.path, options, providers=["CPUExecutionProvider"])
    return session.run(None, entry.inputs())


def assert_alive(outputs: list[np.ndarray]) -> None:
    assert outputs
    for output in outputs:
        assert np.isfinite(output).all()
    assert any(np.abs(output).max() > 0 for output in outputs)


def test_names_are_unique_and_grouped() -> None:
    assert len(set(names())) == len(names()) >= 30
    assert names("small") == SMALL
    assert sum(len(names(group)) for group in ["language", "vision", "ocr", "audio", "light", "small"]) == len(names())


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(KeyError, match="resnet50"):
        load("resnet51")


def test_inputs_repeat_and_differ_by_seed() -> None:
    entry = load("bert_base_dyn")
    first, again, other = entry.inputs(), entry.inputs(), entry.inputs(seed=1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["input_ids"], other["input_ids"])


def test_inputs_follow_overridden_dims() -> None:
    shapes = {name: value.shape for name, value in load("bert_base_dyn").inputs(dims={"seq": 7}).items()}
    assert set(shapes.values()) == {(1, 7)}


def test_token_ids_stay_in_the_vocabulary() -> None:
    tokens = Feed((64, 64), "integers", "int64", high=5).array(np.random.default_rng(0), {})
    assert tokens.dtype == np.int64
    assert set(np.unique(tokens)) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("name", SMALL)
def test_small_graphs_run(name: str, cache: Path) -> None:
    assert_alive(run(load(name)))
    assert [path.name for path in cache.iterdir()] == [f"{name}.onnx"]


def test_a_rebuilt_export_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    source = Skeleton("mobilenetv2")
    source.write(tmp_path / "a.onnx")
    source.write(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_rebuilt_export_runs_with_scaled_activations(cache: Path) -> None:
    (logits,) = run(load("mobilenetv2"))
    assert 1e-3 < np.abs(logits).max() < 1e3


def test_fill_reaches_initializers_and_attributes_within_their_bounds() -> None:
    empty = onnx.TensorProto(dims=[1000], data_type=onnx.TensorProto.FLOAT, name="w")
    constant = onnx.helper.make_node("Constant", [], ["c"], value=empty)
    graph = onnx.helper.make_graph([constant], "g", [], [], [empty])
    model = onnx.helper.make_model(graph)
    fill(model, [[0, 5.0, 1.0, "float32", 4.0, 6.0], [1, 0.0, 2.0, "float32", -9.0, 9.0]], seed=3)
    first = onnx.numpy_helper.to_array(model.graph.initializer[0])
    second = onnx.numpy_helper.to_array(model.graph.node[0].attribute[0].t)
    assert first.min() >= 4.0 and first.max() <= 6.0 and abs(first.mean() - 5.0) < 0.1
    assert abs(second.std() - 2.0) < 0.2


def test_trained_weight_is_known_by_the_bias_beside_it() -> None:
    def initializer(name: str, shape: list[int]) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)

    nodes = [
        onnx.helper.make_node("MatMul", ["x", "val_7"], ["product"]),
        onnx.helper.make_node("Add", ["product", "m.layer.bias"], ["y"]),
    ]
    weights = [initializer("val_7", [3, 2]), initializer("m.layer.bias", [2]), initializer("other", [2])]
    graph = onnx.helper.make_graph(nodes, "g", [], [], weights)
    trained = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "layer.bias": np.ones(2, np.float32)}
    use_trained(graph, trained)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    np.testing.assert_array_equal(values["val_7"], trained["layer.weight"].T)
    np.testing.assert_array_equal(values["m.layer.bias"], trained["layer.bias"])
    np.testing.assert_array_equal(values["other"], np.zeros(2))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", names())
def test_every_model_runs_and_fits_its_feeds(name: str) -> None:
    entry = load(name)
    graph = onnx.load(entry.path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    declared = {value.name: value.type.tensor_type.shape.dim for value in graph.input if value.name not in weights}
    assert declared.keys() == entry.feeds.keys()
    symbols = {dim.dim_param for dims in declared.values() for dim in dims if dim.dim_param}
    assert set(entry.dims) <= symbols
    del graph
    assert_alive(run(entry))
