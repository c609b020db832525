from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from graphc.errors import ModelError, OptionError
from graphc.frontend import bind_dims, import_model, read_model
from tests.frontend.models import info, model


def relu(*shapes: list[Any] | None) -> Any:
    names = [f"x{i}" for i in range(len(shapes))]
    nodes = [helper.make_node("Relu", [name], [f"y{i}"]) for i, name in enumerate(names)]
    inputs = [info(name, shape=shape) for name, shape in zip(names, shapes, strict=True)]
    return model(nodes, inputs, [f"y{i}" for i in range(len(shapes))])


def types(graph: Any) -> list[str]:
    return [str(value.type) for value in (*graph.inputs, *graph.outputs)]


def test_names_become_symbols() -> None:
    facts = read_model(relu(["batch", 3], ["batch", "seq len"], [None, "?"], [-1, "for"], ["unk__7", "2"]))
    assert [str(v.type) for v in facts.graph.inputs] == [
        "float32[batch, 3]",
        "float32[batch, seq_len]",
        "float32[x2_d0, x2_d1]",
        "float32[x3_d0, d_for]",
        "float32[d_unk__7, 2]",
    ]
    assert facts.dim_names == {"batch": "batch", "seq_len": "seq len", "d_for": "for", "d_unk__7": "unk__7"}


def test_different_names_never_become_one_symbol() -> None:
    graph = import_model(relu(["a b", "a-b", "a_b", "a b"]))
    assert types(graph)[0] == "float32[a_b, a_b_1, a_b_2, a_b]"


def test_expressions_are_read() -> None:
    graph = import_model(relu(["past", 4], ["past + 1", "2*past"]))
    assert types(graph)[1] == "float32[past + 1, 2*past]"
    bound = import_model(relu(["past", 4], ["past + 1", "2*past"]), dims={"past": 5})
    assert types(bound)[:2] == ["float32[5x4]", "float32[6x10]"]


@given(st.lists(st.sampled_from(["batch", "seq", "n 1", "?", "", "x0", "3", "a+b", "a*b-1", "min(a, b)", "1/0", "éé"])))
def test_any_names_can_be_imported_and_bound(names: list[str]) -> None:
    facts = read_model(relu(names))
    symbols = sorted(facts.graph.inputs[0].tensor_type.symbols())
    bound = import_model(relu(names), dims={symbol: 2 for symbol in symbols})
    assert bound.inputs[0].tensor_type.is_static
    by_original = {facts.dim_names.get(symbol, symbol): 2 for symbol in symbols}
    assert types(import_model(relu(names), dims=by_original)) == types(bound)
    bind_dims(facts.graph, {symbol: 2 for symbol in symbols})
    assert types(facts.graph) == types(bound)


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ({"batch": 2, "seq": 7}, ["float32[2x7]", "float32[7x8]"]),
        ({"x0": [2, 7]}, ["float32[2x7]", "float32[7x8]"]),
        ({"x0": (None, 7)}, ["float32[batch, 7]", "float32[7x8]"]),
        ({"x1": [3, None]}, ["float32[batch, 3]", "float32[3x4]"]),
        ({"x1": [None, 4]}, ["float32[batch, 3]", "float32[3x4]"]),
        ({"batch": 0}, ["float32[0, seq]", "float32[seq, seq + 1]"]),
        ({"x0": ["n", None]}, ["float32[n, seq]", "float32[seq, seq + 1]"]),
    ],
)
def test_bindings(dims: dict[str, Any], expected: list[str]) -> None:
    proto = relu(["batch", "seq"], ["seq", "seq + 1"])
    assert types(import_model(proto, dims=dims))[:2] == expected
    graph = import_model(proto)
    bind_dims(graph, dims)
    assert types(graph)[:2] == expected


def test_bounds_are_kept_for_open_symbols() -> None:
    graph = import_model(relu(["batch", "seq"]), dims={"seq": (1, 512), "batch": 4})
    assert graph.bounds == {"seq": (1, 512)} and types(graph)[0] == "float32[4, seq]"
    with pytest.raises(OptionError, match=r"outside its bounds 1\.\.512"):
        bind_dims(graph, {"seq": 513})
    bind_dims(graph, {"seq": 512})
    assert types(graph)[0] == "float32[4x512]" and graph.bounds == {}


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"bath": 2}, "did you mean 'batch'"),
        ({"zzz": 2}, "dimensions are batch, seq"),
        ({"batch": -1}, "cannot be -1"),
        ({"batch": 1 << 70}, "cannot be"),
        ({"x0": [1]}, "has rank 2"),
        ({"x1": [1, 1]}, "is seq \\+ 1 = 2 by other bindings"),
        ({"x1": [None, 0]}, "cannot be -1"),
        ({"batch": 2, "x0": [3, None]}, "is bound to 2 and to 3|by other bindings"),
        ({"batch": (3, 1)}, "cannot lie between"),
        ({"batch": (1, 2, 3)}, "takes a number"),
        ({"x0": ["not a name", 2]}, "cannot be called"),
    ],
)
def test_bad_bindings_say_what_to_do(dims: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        import_model(relu(["batch", "seq"], ["seq", "seq + 1"]), dims=dims)


def test_static_extents_cannot_be_changed() -> None:
    with pytest.raises(OptionError, match="axis 1 of input 'x0' is 3 in the model"):
        import_model(relu(["batch", 3]), dims={"x0": [1, 4]})
    with pytest.raises(OptionError, match="every dimension of this model is fixed"):
        import_model(relu([2, 3]), dims={"batch": 4})


def test_inputs_without_rank_take_a_shape() -> None:
    assert types(import_model(relu(None), dims={"x0": [2, None, "n"]})) == ["float32[2, x0_d1, n]"] * 2


def test_a_binding_that_does_not_fit_names_the_node() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], name="sum")]
    proto = model(nodes, [info("x", shape=["n"]), info("w", shape=[3])], ["y"])
    with pytest.raises(ModelError, match="Add") as caught:
        import_model(proto, dims={"n": 5})
    assert caught.value.nodes == ("sum",)


def test_a_stale_declared_output_does_not_stop_a_binding() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [info("x", shape=["batch", 3])], [info("y", shape=[1, 3])])
    assert types(import_model(proto, dims={"batch": 8})) == ["float32[8x3]"] * 2
