"""Control flow compiled: random bodies, nested and capturing, against ONNX Runtime and NumPy; and what stays behind."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import graphc
from graphc.cli import main
from graphc.errors import ExecutionError, UnsupportedError
from graphc.frontend import export_model
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ops import infer_graph
from graphc.ops.evaluate import evaluate_graph
from graphc.package import LoopStep
from graphc.passes import default_pipeline, print_pipeline

F32, I64, BOOL = dtypes.FLOAT32, dtypes.INT64, dtypes.BOOL
SHAPE = (2, 3)
LENGTH = 4
"""Of the sequence that scans go along."""


class Unique(Builder):
    """A builder whose names no other body has: names are unique in a model, bodies included."""

    count = itertools.count()

    def op(self, op_type: str, *inputs: Value | None, outputs: int | Sequence[str] = 1, **options: Any) -> Value:
        names = outputs if not isinstance(outputs, int) else [f"v{next(self.count)}" for _ in range(outputs)]
        return super().op(op_type, *inputs, outputs=names, **options)

    def constant(self, value: Any, dtype: Any = None, *, name: str = "const") -> Value:
        return super().constant(value, dtype, name=f"k{next(self.count)}")


UNROLLED_NOT = print_pipeline([made for made in default_pipeline() if made.name != "unroll"])
"""The passes of every compile without the one that writes short loops out."""


@dataclass
class Writer:
    """Grows a random model; every value is float32[2, 3] and stays between -3 and 3.

    Args:
        data: Draws what is written.
        inputs: What every body may capture: a number of trips, a condition, a sequence.
    """

    data: st.DataObject
    trips: Value
    condition: Value
    sequence: Value
    bodies: int = 0

    def pick(self, values: list[Value]) -> Value:
        return self.data.draw(st.sampled_from(values))

    def flag(self) -> bool:
        return self.data.draw(st.booleans())

    def body(self, *inputs: str) -> tuple[Graph, Unique]:
        self.bodies += 1
        graph = Graph(f"b{self.bodies}", [(f"b{self.bodies}_{name}", None) for name in inputs], opset=21)
        return graph, Unique(graph)

    def values(self, b: Unique, known: list[Value], depth: int, count: int) -> list[Value]:
        """`known` and `count` more values made of them."""
        made = list(known)
        for _ in range(count):
            kinds = ["Tanh", "Mul", "Sub", "matmul", *(["if", "loop", "scan"] if depth else [])]
            kind = self.data.draw(st.sampled_from(kinds))
            match kind:
                case "Tanh":
                    made.append(b.op("Tanh", self.pick(made)))
                case "Mul" | "Sub":
                    mixed = b.op(kind, self.pick(made), self.pick(made))
                    made.append(b.op("Clip", mixed, b.constant(np.float32(-3)), b.constant(np.float32(3))))
                case "matmul":
                    weight = np.random.default_rng(self.bodies).uniform(-0.4, 0.4, (3, 3)).astype(np.float32)
                    made.append(b.op("MatMul", self.pick(made), b.constant(weight)))
                case "if":
                    made += self.branch(b, made, depth - 1)
                case "loop":
                    made += self.loop(b, made, depth - 1)
                case "scan":
                    made += self.scan(b, made, depth - 1)
        return made

    def truth(self, b: Unique, known: list[Value]) -> Value:
        """A condition that depends on data."""
        if self.flag():
            return self.condition
        total = b.op("ReduceSum", self.pick(known), keepdims=0)
        return b.op("Greater", total, b.constant(np.float32(0.5)))

    def branch(self, b: Unique, known: list[Value], depth: int) -> list[Value]:
        count = self.data.draw(st.integers(1, 2))
        graphs = []
        for _ in range(2):
            graph, inner = self.body()
            made = self.values(inner, known, depth, self.data.draw(st.integers(0, 2)))
            # A branch must make what it answers.
            graph.outputs = [inner.op("Identity", self.pick(made)) for _ in range(count)]
            graphs.append(graph)
        node = b.op("If", self.truth(b, known), then_branch=graphs[0], else_branch=graphs[1], outputs=count)
        assert node.producer is not None
        return list(node.producer.outputs)

    def loop(self, b: Unique, known: list[Value], depth: int) -> list[Value]:
        states = self.data.draw(st.integers(1, 2))
        fixed, early = self.flag(), self.flag()
        collect = fixed and not early and self.flag()
        graph, inner = self.body("i", "c", *(f"s{k}" for k in range(states)))
        counter, going, *carried = graph.inputs
        step = inner.op("Cast", counter, to=F32.onnx)
        first = inner.op("Sub", carried[0], step)
        made = self.values(inner, [*known, *carried, first], depth, self.data.draw(st.integers(0, 2)))
        results = [inner.op("Identity", self.pick(made)) for _ in range(states)]
        if early:
            total = inner.op("ReduceMax", results[0], keepdims=0)
            kept = inner.op("Less", total, inner.constant(np.float32(1)))
        else:
            kept = inner.op("Identity", going)
        if collect:
            results.append(inner.op("Identity", self.pick(made)))
        graph.outputs = [kept, *results]
        trips = b.constant(np.int64(self.data.draw(st.integers(0, 3)))) if fixed else self.trips
        start = b.constant(np.array(True)) if collect or self.flag() else self.condition
        initial = [self.pick(known) for _ in range(states)]
        node = b.op("Loop", trips, start, *initial, body=graph, outputs=len(results))
        assert node.producer is not None
        outputs = list(node.producer.outputs)
        return self.joined(b, outputs, states)

    def scan(self, b: Unique, known: list[Value], depth: int) -> list[Value]:
        graph, inner = self.body("state", "item")
        made = self.values(inner, [*known, *graph.inputs], depth, self.data.draw(st.integers(0, 2)))
        graph.outputs = [inner.op("Identity", self.pick(made)) for _ in range(2)]
        axis = self.data.draw(st.integers(0, 2))
        sequence = self.sequence
        if axis:
            sequence = b.op("Transpose", sequence, perm=[1, 0, 2] if axis == 1 else [1, 2, 0])
        node = b.op(
            "Scan",
            self.pick(known),
            sequence,
            outputs=2,
            body=graph,
            num_scan_inputs=1,
            scan_input_axes=[axis],
            scan_input_directions=[int(self.flag())],
            scan_output_directions=[int(self.flag())],
            scan_output_axes=[axis],
        )
        assert node.producer is not None
        state, collected = node.producer.outputs
        axes = b.constant(np.array([axis]))
        return [state, b.op("ReduceMax", collected, axes, keepdims=0)]

    def joined(self, b: Unique, outputs: list[Value], states: int) -> list[Value]:
        """Outputs of a loop; what was collected made one value, of none a zero."""
        found = outputs[:states]
        for value in outputs[states:]:
            total = b.op("ReduceSum", value, b.constant(np.array([0])), keepdims=0)
            found.append(b.op("Clip", total, b.constant(np.float32(-3)), b.constant(np.float32(3))))
        return found


def random_model(data: st.DataObject) -> Graph:
    inputs = {
        "x": TensorType(F32, SHAPE),
        "y": TensorType(F32, SHAPE),
        "m": TensorType(I64, ()),
        "c": TensorType(BOOL, ()),
        "seq": TensorType(F32, (LENGTH, *SHAPE)),
    }
    graph = Graph("model", inputs.items(), opset=21)
    x, y, trips, condition, sequence = graph.inputs
    b = Unique(graph)
    writer = Writer(data, trips, condition, sequence)
    kind = data.draw(st.sampled_from([writer.branch, writer.loop, writer.scan]))
    made = [*kind(b, [x, y], 2), x, y]
    made = writer.values(b, made, 1, data.draw(st.integers(0, 2)))
    graph.outputs = [b.op("Identity", value) for value in made[:2]]
    infer_graph(graph)
    return graph


def feeds(seed: int, trips: int, condition: bool) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.uniform(-2, 2, SHAPE).astype(np.float32),
        "y": rng.uniform(-2, 2, SHAPE).astype(np.float32),
        "m": np.array(trips, np.int64),
        "c": np.array(condition),
        "seq": rng.uniform(-1, 1, (LENGTH, *SHAPE)).astype(np.float32),
    }


def onnxruntime(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def exported(graph: Graph) -> bytes:
    model = export_model(graph)
    model.ir_version = 10
    return bytes(model.SerializeToString())


def hosted(module: graphc.Executable) -> list[str]:
    return [step.op_type for variant in module.variants for step in variant.host_steps]


@given(st.data())
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_random_control_flow_is_compiled_and_right(data: st.DataObject) -> None:
    graph = random_model(data)
    model = exported(graph)
    session = onnxruntime(model)
    how: dict[str, Any] = data.draw(st.sampled_from([{}, {"level": "O0"}, {"passes": UNROLLED_NOT}]))
    with graphc.compile(model, threads=1, specializations=0, verify=True, **how) as module:
        assert hosted(module) == []
        for trips, condition in ((0, True), (1, True), (2, False), (3, True)):
            given_ = feeds(trips, trips, condition)
            expected = session.run(None, given_)
            evaluated = evaluate_graph(graph, list(given_.values()))
            for found, wanted, meant in zip(module(given_).values(), expected, evaluated, strict=True):
                np.testing.assert_allclose(meant, wanted, rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def recurrence(length: int = 12) -> Graph:
    """`h = tanh(x_t W + h U)`, each h collected: a recurrent layer as a loop, its weights inside and outside."""
    rng = np.random.default_rng(3)
    graph = Graph("model", [("x", TensorType(F32, (length, 1, 8))), ("h", TensorType(F32, (1, 16)))], opset=21)
    b = Unique(graph)
    x, h = graph.inputs
    outside = b.constant(rng.standard_normal((16, 16)).astype(np.float32) / 4)
    body = Graph("step", [("state", None), ("item", None)], opset=21)
    inner = Unique(body)
    state, item = body.inputs
    inside = inner.constant(rng.standard_normal((8, 16)).astype(np.float32) / 4)
    new = inner.op("Tanh", inner.op("Add", inner.op("MatMul", item, inside), inner.op("MatMul", state, outside)))
    body.outputs = [new, inner.op("Identity", new)]
    made = b.op("Scan", h, x, outputs=["last", "all"], body=body, num_scan_inputs=1, name="rnn")
    assert made.producer is not None
    graph.outputs = list(made.producer.outputs)
    infer_graph(graph)
    return graph


def sequence(seed: int, length: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((length, 1, 8)).astype(np.float32),
        "h": rng.standard_normal((1, 16)).astype(np.float32),
    }


def test_a_loop_is_one_step_without_python() -> None:
    graph = recurrence()
    with graphc.compile(exported(graph), require_compiled=True, threads=1) as module:
        (variant,) = module.variants
        (step,) = variant.steps
        assert isinstance(step, LoopStep) and step.trips == 12 and step.origins == ("rnn",)
        assert step.flops == 12 * sum(inner.flops for inner in variant.kernel_steps)
        assert len(variant.kernel_steps) <= 3, "the body is fused"
        profile = module.profile(sequence(0), runs=2)
        assert profile.steps[0].label == "loop: rnn" and profile.steps[0].flops == step.flops
        for seed in (0, 1):
            found = module(sequence(seed))
            expected = evaluate_graph(graph, list(sequence(seed).values()))
            for array, wanted in zip(found.values(), expected, strict=True):
                np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5)


def test_callers_at_once_have_loops_of_their_own() -> None:
    graph = recurrence()
    wrong: list[str] = []
    with graphc.compile(exported(graph), threads=2) as module:

        def call(seed: int) -> None:
            given_ = sequence(seed)
            expected = module(given_)["all"]
            for _ in range(200):
                if not np.array_equal(module(given_)["all"], expected):
                    wrong.append(f"caller {seed}")

        callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        reference = evaluate_graph(graph, list(sequence(3).values()))
        np.testing.assert_allclose(module(sequence(3))["all"], reference[1], rtol=1e-5, atol=1e-5)
    assert not wrong


def test_bodies_stay_in_their_workspaces() -> None:
    """Places of a body, in the arena, lie inside of the workspace of the control step, and nowhere else."""
    data = recurrence()
    with graphc.compile(exported(data), threads=1) as module:
        (variant,) = module.variants
        (space,) = [buffer for buffer in variant.buffers if buffer.name == "workspace of Scan"]
        (step,) = variant.steps
        assert isinstance(step, LoopStep)
        places = [place for kernel in variant.kernel_steps for place in kernel.arguments]
        places += [value.spare for value in step.carried]
        inside = [place.offset for place in places if place.kind == "arena"]
        assert inside and all(space.offset <= offset < space.offset + space.size for offset in inside)


def squeezing(rows: int) -> Graph:
    """A branch that fits one row only, with work before it."""
    graph = Graph("model", [("c", TensorType(BOOL, ())), ("x", TensorType(F32, (rows, 3)))], opset=21)
    condition, x = graph.inputs
    b = Unique(graph)
    then = Graph("then", opset=21)
    inner = Unique(then)
    axis = inner.constant(np.array([0]))
    then.outputs = [inner.op("Unsqueeze", inner.op("Squeeze", inner.op("Neg", x), axis), axis)]
    other = Graph("else", opset=21)
    inner = Unique(other)
    first = [inner.constant(np.array([k])) for k in (0, 1)]
    other.outputs = [inner.op("Slice", x, *first)]
    graph.outputs = [b.op("If", condition, then_branch=then, else_branch=other, outputs=["y"], name="fork")]
    infer_graph(graph)
    return graph


def test_a_branch_that_does_not_fit_raises_when_it_is_taken() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    options: dict[str, Any] = {"specializations": 0, "require_compiled": True, "threads": 1}
    with graphc.compile(exported(squeezing(2)), **options) as module:
        assert module({"c": np.array(False), "x": x})["y"].tolist() == [[0, 1, 2]]
        with pytest.raises(ExecutionError, match="does not fit the shapes"):
            module({"c": np.array(True), "x": x})
        assert module({"c": np.array(False), "x": x})["y"].tolist() == [[0, 1, 2]]
    with graphc.compile(exported(squeezing(1)), **options) as module:
        assert module({"c": np.array(True), "x": x[:1]})["y"].tolist() == [[0, -1, -2]]


def growing() -> Graph:
    """`repeat m times: x = concat(x, x0)`, whose shapes only the data tells."""
    graph = Graph("model", [("m", TensorType(I64, ())), ("x", TensorType(F32, (1, 2)))], opset=21)
    trips, x = graph.inputs
    body = Graph("step", [("i", None), ("c", None), ("v", None)], opset=21)
    inner = Unique(body)
    body.outputs = [inner.op("Identity", body.inputs[1]), inner.op("Concat", body.inputs[2], x, axis=0)]
    b = Unique(graph)
    graph.outputs = [b.op("Loop", trips, b.constant(np.array(True)), x, body=body, outputs=["y"], name="grow")]
    infer_graph(graph)
    return graph


def test_a_body_of_open_shapes_runs_on_the_host_and_inspect_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported(growing())
    with graphc.compile(model, specializations=0) as module:
        assert hosted(module) == ["Loop"]
        assert module({"m": np.array(2), "x": np.ones((1, 2), np.float32)})["y"].shape == (3, 2)
    with pytest.raises(UnsupportedError, match="only the data tells the shape"):
        graphc.compile(model, specializations=0, require_compiled=True)
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    assert main(["inspect", str(path)]) == 0
    assert "only the data tells the shape" in capsys.readouterr().out


def test_layers_of_a_model_with_a_loop_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported(recurrence()))
    assert main(["verify", str(path), "--layers", "--against", "reference"]) == 0
    assert "2 values agree with the source model's" in capsys.readouterr().out


def test_a_kernel_that_fails_in_a_body_names_its_node() -> None:
    graph = Graph("model", [("x", TensorType(F32, (3,))), ("i", TensorType(I64, (4, 1)))], opset=21)
    x, indices = graph.inputs
    body = Graph("step", [("item", None)], opset=21)
    inner = Unique(body)
    body.outputs = [inner.op("Gather", x, body.inputs[0], name="pick")]
    b = Unique(graph)
    graph.outputs = [b.op("Scan", indices, outputs=["y"], body=body, num_scan_inputs=1)]
    infer_graph(graph)
    with graphc.compile(exported(graph), require_compiled=True, threads=1, passes=UNROLLED_NOT) as module:
        data = {"x": np.arange(3, dtype=np.float32), "i": np.array([[0], [2], [-1], [1]])}
        assert module(data)["y"].reshape(-1).tolist() == [0, 2, 2, 1]
        with pytest.raises(ExecutionError, match="a step of a body") as caught:
            module({**data, "i": np.array([[0], [7], [0], [0]])})
        assert caught.value.nodes == ("pick",)


@pytest.mark.parametrize("op_type", ["Concat", "Sum", "Max"])
def test_more_operands_than_a_kernel_takes(op_type: str) -> None:
    graph = Graph("model", [(f"x{i}", TensorType(F32, (2,))) for i in range(50)], opset=21)
    axis = {"axis": 0} if op_type == "Concat" else {}
    graph.outputs = [Unique(graph).op(op_type, *graph.inputs, outputs=["y"], **axis)]
    infer_graph(graph)
    data = [np.arange(2, dtype=np.float32) + i for i in range(50)]
    (expected,) = evaluate_graph(graph, data)
    for level in ("O0", "O2"):
        with graphc.compile(exported(graph), threads=1, level=level) as module:
            np.testing.assert_array_equal(module(data)["y"], expected)
