"""Sequences, optionals and maps on their way through files of NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphc.cli import main
from graphc.cli.wrapped import flatten, gather
from graphc.errors import InputError
from graphc.package import TensorSpec

LEAVES = st.integers(0, 3).map(np.arange)


def values(wraps: tuple[str, ...]) -> st.SearchStrategy[Any]:
    if not wraps:
        return LEAVES
    inner = values(wraps[1:])
    if wraps[0] == "sequence":
        return st.lists(inner, max_size=3)
    keys: st.SearchStrategy[Any] = st.sampled_from(["a", "b[", "c.d"]) if "string" in wraps[0] else st.integers(-3, 3)
    return st.dictionaries(keys, inner, max_size=3)


@given(st.lists(st.sampled_from(["sequence", "map(string)", "map(int64)"]), min_size=1, max_size=3), st.data())
def test_what_is_flattened_is_gathered_again(wraps: list[str], data: st.DataObject) -> None:
    spec = TensorSpec("x", "int64", (), tuple(wraps))
    value = data.draw(values(spec.wraps))
    arrays = dict(flatten("x", value))
    assert str(gather([spec], {**arrays, "other": np.arange(2)})) == str({"other": np.arange(2), "x": value})


def test_an_optional_that_is_nothing_has_no_array() -> None:
    spec = TensorSpec("x", "int64", (), ("optional",))
    assert list(flatten("x", None)) == [("x", None)]
    assert gather([spec], {}) == {}
    assert gather([spec], {"x": np.arange(2)})["x"].tolist() == [0, 1]


@pytest.mark.parametrize("names", [["x[1]"], ["x"], ["x[0"], ["x[0]", "x[2]"], ["x[0][1]"], ["x[a]"]])
def test_names_that_make_no_sequence_are_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match="x"):
        gather([TensorSpec("x", "int64", (), ("sequence",))], {name: np.arange(2) for name in names})


def _model(path: Path) -> str:
    """`y = x with its first element once more at the end`"""
    kind = helper.make_tensor_sequence_value_info
    nodes = [
        helper.make_node("Constant", [], ["zero"], value_int=0),
        helper.make_node("SequenceAt", ["x", "zero"], ["first"]),
        helper.make_node("SequenceInsert", ["x", "first"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "model", [kind("x", TensorProto.FLOAT, [None])], [kind("y", TensorProto.FLOAT, [None])]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return str(path)


def test_run_reads_and_writes_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, given_, out = _model(tmp_path / "m.onnx"), tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given_, **{"x[0]": np.float32([1, 2]), "x[1]": np.float32([3])})
    assert main(["run", model, "--input", str(given_), "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "y[0]" in shown and "y[2]" in shown
    with np.load(out) as written:
        assert [written[f"y[{i}]"].tolist() for i in range(3)] == [[1, 2], [3], [1, 2]]
    assert main(["run", model]) == 0, "without inputs, elements are drawn"
    assert "float32[1]" in capsys.readouterr().out
