"""Every step of the opset table, against ONNX Runtime on the model as it was, or NumPy where that is too old."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from graphc.errors import ModelError, UnsupportedError
from graphc.frontend import CANONICAL_OPSET, export_model, import_model
from graphc.frontend.opset import STEPS
from graphc.frontend.schema import NEWEST_OPSET, signature
from graphc.ops import evaluate_graph
from tests.frontend.models import Array, assert_same, info, model, run_ort

GENERATOR = np.random.default_rng(7)


def data(*shape: int) -> Array:
    return GENERATOR.uniform(-2, 2, shape).astype(np.float32)


X = data(2, 6, 4, 3)
IDS = np.array([[2, 0, 1]], np.int64)


@dataclass
class Case:
    """One node of an old opset; `expected` computes it in NumPy where ONNX Runtime does not run that opset."""

    op: str
    opset: int
    inputs: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    expected: Callable[..., Any] | None = None
    constants: tuple[int, ...] = ()
    hide_shapes: bool = False
    by_ort: bool = True

    def proto(self) -> onnx.ModelProto:
        names = ["" if array is None else f"i{index}" for index, array in enumerate(self.inputs)]
        node = helper.make_node(self.op, names, list(self.outputs), name="node", **self.attributes)
        given = [(name, array) for name, array in zip(names, self.inputs, strict=True) if array is not None]
        return model(
            [node],
            [
                info(name, array, [f"{name}_{axis}" for axis in range(array.ndim)] if self.hide_shapes else None)
                for name, array in given
                if int(name[1:]) not in self.constants
            ],
            [name for name in self.outputs if name],
            opset=self.opset,
            initializers={name: array for name, array in given if int(name[1:]) in self.constants},
        )

    @property
    def feeds(self) -> dict[str, Array]:
        return {f"i{index}": array for index, array in enumerate(self.inputs) if array is not None}


def softmax(x: Array, axis: int) -> Array:
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1)
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).reshape(x.shape)


def per_channel(values: Array, rank: int) -> Array:
    return values.reshape(-1, *[1] * (rank - 2))


STATISTICS = [data(6), data(6), data(6), np.abs(data(6)) + 0.5]
REDUCTIONS = [name for name in STEPS if name.startswith("Reduce") and name != "ReduceSum"]


def scan_body() -> onnx.GraphProto:
    """`state = state + x; collect state * z`"""
    names = ("state", "x", "z")
    return helper.make_graph(
        [helper.make_node("Add", ["state", "x"], ["new"]), helper.make_node("Mul", ["new", "z"], ["part"])],
        "body",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in names],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("new", "part")],
    )


SCANNED: list[Array | None] = [data(3, 2), data(3, 4, 2), data(3, 4, 2)]
LENGTHS = np.array([4, 1, 3])

CASES = [
    *(
        Case("Scan", 8, [lengths, *SCANNED], {"body": scan_body(), "num_scan_inputs": 2, **directions}, ("s", "y"))
        for lengths in (None, LENGTHS)
        for directions in ({}, {"directions": [1, 0]})
    ),
    Case("Squeeze", 11, [data(1, 3, 1, 2)], {"axes": [0, -2]}),
    Case("Squeeze", 8, [data(1, 3, 1, 2)]),
    Case("Unsqueeze", 11, [data(3, 2)], {"axes": [0, -1]}),
    Case("ReduceSum", 11, [X], {"axes": [1, -1], "keepdims": 0}),
    *(Case(name, opset, [np.abs(X) + 1], {"axes": [-2]}) for name in REDUCTIONS for opset in (11, 13)),
    *(Case(name, 13, [np.abs(X) + 1]) for name in REDUCTIONS),
    Case("Split", 11, [X], {"axis": 1, "split": [1, 3, 2]}, ("a", "b", "c")),
    Case("Split", 11, [X], {"axis": 0}, ("a", "b")),
    Case("Split", 13, [X], {"axis": 1}, ("a", "b", "c")),
    Case("Split", 13, [X, np.array([4, 2])], {"axis": 1}, ("a", "b")),
    Case("TopK", 9, [X], {"k": 2, "axis": 1}, ("v", "i")),
    Case("Slice", 9, [X], {"starts": [1, -3], "ends": [5, 1000], "axes": [1, 2]}),
    Case("Slice", 9, [X], {"starts": [0, 1], "ends": [2, 3]}),
    *(Case("Clip", 10, [X], attributes) for attributes in ({"min": 0.0, "max": 1.5}, {"max": 1.0}, {"min": -1.0}, {})),
    Case("Pad", 10, [X], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}),
    Case("Pad", 10, [X], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "mode": "reflect"}),
    Case("Dropout", 7, [X], {"ratio": 0.3}),
    # What the mask holds at inference was left open before 12; ONNX Runtime wrote zeros, newer versions say ones.
    Case("Dropout", 9, [X], {"ratio": 0.3}, ("y", "mask"), expected=lambda x: [x, np.ones_like(x)]),
    Case("Dropout", 10, [X], {"ratio": 0.3}, ("y", "mask"), expected=lambda x: [x, np.ones_like(x, bool)]),
    Case("BatchNormalization", 7, [X, *STATISTICS], {"epsilon": 0.1}),
    Case("BatchNormalization", 8, [X, *(np.abs(data(6, 4, 3)) + 0.5 for _ in range(4))], {"spatial": 0}),
    Case("BatchNormalization", 9, [X, *STATISTICS]),
    *(
        Case(name, 11, [X], {"axis": axis})
        for name in ("Softmax", "LogSoftmax", "Hardmax")
        for axis in (0, 1, 2, 3, -1)
    ),
    *(Case("Softmax", 11, [X], {"axis": axis}, hide_shapes=True) for axis in (1, -2)),
    Case("Softmax", 7, [data(3, 5)]),
    Case("Upsample", 7, [X], {"scales": [1.0, 1.0, 2.0, 3.0]}),
    Case("Upsample", 8, [X], {"scales": [1.0, 1.0, 2.0, 1.5], "mode": "linear"}),
    Case("Upsample", 9, [X, np.array([1, 1, 2, 1.5], np.float32)], {"mode": "nearest"}, constants=(1,)),
    Case("Resize", 10, [X, np.array([1, 1, 0.5, 2], np.float32)], {"mode": "nearest"}, constants=(1,)),
    Case("Resize", 10, [X, np.array([1, 1, 1.5, 2], np.float32)], {"mode": "linear"}, constants=(1,)),
    Case(
        "Resize",
        11,
        [X, np.zeros(0, np.float32), np.zeros(0, np.float32), np.array([2, 6, 5, 7])],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        constants=(1, 2, 3),
    ),
    Case("Scatter", 9, [data(1, 4), IDS, data(1, 3)], {"axis": 1}),
    Case("Scatter", 12, [data(1, 4), IDS, data(1, 3)], {"axis": 1}, expected=lambda x, i, u: scatter(x, i, u)),
    Case(
        "RoiAlign",
        10,
        [X, np.array([[0, 0, 2, 3], [1, 1, 3, 3]], np.float32), np.array([0, 1])],
        {"output_height": 2, "output_width": 2, "sampling_ratio": 2},
        by_ort=False,
    ),
    *(Case("GridSample", 16, [X, data(2, 3, 3, 2) / 2], {"mode": mode}) for mode in ("bilinear", "nearest", "bicubic")),
    Case("GridSample", 16, [X, data(2, 3, 3, 2) / 2]),
    Case("DFT", 17, [data(1, 8, 4, 1)], {"axis": 1}),
    Case("DFT", 17, [data(1, 8, 4, 2)], {"axis": 2, "inverse": 1}),
    Case("DFT", 17, [data(1, 8, 4, 1), np.array(6)], constants=(1,)),
    *(
        Case("GroupNormalization", 18, [X, data(3), data(3)], {"num_groups": 3, "epsilon": 0.1}, hide_shapes=hidden)
        for hidden in (False, True)
    ),
    # Versions that ONNX Runtime does not run.
    Case("Add", 6, [X, data(6)], {"broadcast": 1, "axis": 1}, expected=lambda x, b: x + b[:, None, None]),
    Case("Mul", 6, [X, data(4, 3)], {"broadcast": 1}, expected=lambda x, b: x * b),
    Case("Sub", 1, [X, X], {"consumed_inputs": [0, 0]}, expected=lambda x, b: x - b),
    Case("Div", 6, [X, data(6, 4)], {"broadcast": 1, "axis": -3}, expected=lambda x, b: x / b[..., None]),
    Case("Pow", 1, [X**2, data(2)], {"broadcast": 1, "axis": 0}, expected=lambda x, b: x ** b[:, None, None, None]),
    *(
        Case(
            name,
            1,
            [X > 0, data(6) > 0],
            {"broadcast": 1, "axis": 1},
            expected=lambda x, b, f=f: f(x, b[:, None, None]),
        )
        for name, f in (("And", np.logical_and), ("Or", np.logical_or), ("Xor", np.logical_xor))
    ),
    *(
        Case(name, 1, [X, data(6)], {"broadcast": 1, "axis": 1}, expected=lambda x, b, f=f: f(x, b[:, None, None]))
        for name, f in (("Greater", np.greater), ("Less", np.less))
    ),
    Case(
        "Equal",
        1,
        [(X > 0).astype(np.int32), np.ones(6, np.int32)],
        {"broadcast": 1, "axis": 1},
        expected=lambda x, b: x == b[:, None, None],
    ),
    Case("PRelu", 6, [X, data(6)], expected=lambda x, s: np.where(x < 0, x * per_channel(s, 4), x)),
    Case("PRelu", 6, [data(2, 6), data(6)], expected=lambda x, s: np.where(x < 0, x * s, x)),
    Case(
        "BatchNormalization",
        6,
        [X, *STATISTICS],
        {"is_test": 1},
        expected=lambda x, *s: (
            (x - per_channel(s[2], 4)) / np.sqrt(per_channel(s[3], 4) + 1e-5) * per_channel(s[0], 4)
            + per_channel(s[1], 4)
        ),
    ),
    Case("Dropout", 6, [X], {"is_test": 1, "ratio": 0.7}, expected=lambda x: x),
    Case("Gemm", 6, [data(2, 3), data(3, 4), data(4)], {"broadcast": 1}, expected=lambda a, b, c: a @ b + c),
    Case(
        "Upsample",
        1,
        [X],
        {"height_scale": 2.0, "width_scale": 2.0, "mode": "nearest"},
        expected=lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    Case("Cast", 1, [X], {"to": "INT32"}, expected=lambda x: x.astype(np.int32)),
    Case("Cast", 1, [X], {"to": "DOUBLE"}, expected=lambda x: x.astype(np.float64)),
    Case("Selu", 1, [X], expected=lambda x: (1.0507 * np.where(x > 0, x, 1.6732 * (np.exp(x) - 1))).astype(np.float32)),
    Case("Reshape", 1, [X], {"shape": [2, -1]}, expected=lambda x: x.reshape(2, -1)),
    Case("Concat", 1, [X, X], expected=lambda a, b: np.concatenate([a, b], 1)),
    Case(
        "Pad",
        1,
        [data(2, 3)],
        {"paddings": [1, 0, 0, 2], "value": 1.5},
        expected=lambda x: np.pad(x, [(1, 0), (0, 2)], constant_values=1.5),
    ),
    Case("GlobalLpPool", 1, [X], expected=lambda x: np.sqrt((x**2).sum((2, 3), keepdims=True)), by_ort=False),
    Case("LpPool", 1, [X], {"kernel_shape": [4, 3], "p": 1.0}, expected=lambda x: np.abs(x).sum((2, 3), keepdims=True)),
    Case("Split", 1, [X], {"split": [1, 1]}, ("a", "b"), expected=lambda x: [x[:1], x[1:]]),
    Case("Softmax", 5, [X], {"axis": 2}, expected=lambda x: softmax(x, 2)),
    *(
        Case(
            name,
            6,
            [data(3, 1, 2), data(1, gates * 4, 2), data(1, gates * 4, 4)],
            {"hidden_size": 4, "output_sequence": 1},
            expected=lambda *inputs, name=name: run_ort(
                Case(name, 14, list(inputs), {"hidden_size": 4}).proto(), named(inputs)
            ),
        )
        for name, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4))
    ),
]
REFUSED = {("Tile", 6)}
"""Steps that only say that nothing newer means the same."""


def named(inputs: tuple[Array, ...]) -> dict[str, Array]:
    return {f"i{index}": array for index, array in enumerate(inputs)}


def scatter(x: Array, indices: Array, updates: Array) -> Array:
    result = x.copy()
    np.put_along_axis(result, indices, updates, 1)
    return result


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.opset}-{list(case.attributes.items())}"[:60])
def test_old_nodes_mean_what_they_meant(case: Case) -> None:
    graph = import_model(case.proto())
    assert all(node.version == CANONICAL_OPSET for node in graph.nodes)
    assert graph.opset == CANONICAL_OPSET
    if case.expected is None:
        expected = run_ort(case.proto(), case.feeds)
    else:
        computed = case.expected(*case.feeds.values())
        expected = computed if isinstance(computed, list) else [computed]
    feeds = case.feeds
    # ONNX Runtime lacks a few operators; our own meaning stands in.
    found = run_ort(export_model(graph), feeds) if case.by_ort else evaluate_graph(graph, list(feeds.values()))
    assert_same(expected, found, 1e-4, 1e-5)


def test_every_step_has_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that no case runs would be a step that nothing checks."""
    ran: set[tuple[str, int]] = set()
    for op_type, steps in STEPS.items():
        wrapped = []
        for version, function in steps:

            def record(draft: Any, function: Any = function, entry: tuple[str, int] = (op_type, version)) -> None:
                ran.add(entry)
                function(draft)

            wrapped.append((version, record))
        monkeypatch.setitem(STEPS, op_type, wrapped)
    for case in CASES:
        import_model(case.proto())
    assert {(op_type, version) for op_type, steps in STEPS.items() for version, _ in steps} - ran == REFUSED


@given(st.sampled_from(sorted(STEPS)), st.integers(1, NEWEST_OPSET))
def test_steps_name_versions_that_exist(op_type: str, version: int) -> None:
    for to, _ in STEPS[op_type]:
        found = signature("", op_type, to)
        assert found is not None and found.since == to


def test_canonical_nodes_are_left_alone() -> None:
    node = helper.make_node("Softmax", ["i0"], ["y"], axis=1)
    graph = import_model(model([node], [info("i0", X)], ["y"], opset=13))
    assert [n.op_type for n in graph.nodes] == ["Softmax"] and next(graph.nodes).attributes == {"axis": 1}


def test_softmax_on_the_last_axis_stays_one_node() -> None:
    graph = import_model(Case("Softmax", 9, [data(3, 5)], {"axis": 1}).proto())
    assert [n.op_type for n in graph.nodes] == ["Softmax"]
    graph = import_model(Case("Softmax", 9, [X], {"axis": 1}).proto())
    assert [n.op_type for n in graph.nodes] == ["Flatten", "Softmax", "Shape", "Reshape"]


def test_newer_operators_keep_their_version() -> None:
    node = helper.make_node("SwiGLU", ["i0", "i0"], ["y"], name="new")
    graph = import_model(model([node], [info("i0", shape=[2, 4])], ["y"], opset=28, ir_version=13))
    assert [n.version for n in graph.nodes] == [28]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("BatchNormalization", 7, [X, *STATISTICS], outputs=("y", "m", "v")), "training mode"),
        (Case("Tile", 1, [data(3), np.array([2.0], np.float32), np.array([0.0], np.float32)]), "tiles one axis"),
    ],
)
def test_what_cannot_be_said_names_the_node(case: Case, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words) as caught:
        import_model(case.proto())
    assert caught.value.nodes == ("node",) and caught.value.hint


CONSTANTS: list[tuple[dict[str, Any], Any]] = [
    ({"value_float": 1.5}, np.float32(1.5)),
    ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
    ({"value_int": 3}, np.int64(3)),
    ({"value_ints": [3, 4]}, np.array([3, 4])),
    ({"value_string": "ab"}, np.array("ab", object)),
    ({"value_strings": ["a", "bc"]}, np.array(["a", "bc"], object)),
]


@pytest.mark.parametrize(("attributes", "expected"), CONSTANTS)
def test_every_form_of_constant_is_one_tensor(attributes: dict[str, Any], expected: Any) -> None:
    graph = import_model(model([helper.make_node("Constant", [], ["c"], **attributes)], [], ["c"], opset=13))
    tensor = graph.outputs[0].constant
    assert tensor is not None and tensor.array().dtype == expected.dtype
    assert tensor.array().tolist() == expected.tolist()


def test_constants_need_one_value() -> None:
    for attributes in ({}, {"value_int": 1, "value_float": 2.0}):
        with pytest.raises(ModelError, match="exactly one value"):
            import_model(model([helper.make_node("Constant", [], ["c"], **attributes)], [], ["c"], opset=13))
