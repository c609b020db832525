"""Bugs of many kinds, planted one at a time: each is found by what looks for bugs, and bisect names it.

What is planted is gone with its test. Passes are judged by the graph behind them, so that most need no kernel; those in
what turns graphs into code are compiled for the model that shows them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from graphc.backends.tvm import gemm
from graphc.backends.tvm.backend import TvmBackend
from graphc.compiler import default_cache, lower_model, lowering
from graphc.compiler.cache import ObjectCache
from graphc.errors import GraphcError, PassError
from graphc.frontend import export_model
from graphc.ir import Builder, Graph, Node, Tensor, TensorType, dtypes
from graphc.ops.inference import infer_node
from graphc.passes import cse, fold, fold_batch_norm, fuse, layout, merge_matmuls, order
from graphc.passes.base import PASSES
from graphc.passes.buffers import BufferPlan, assign_buffers
from graphc.passes.rules.rule import RULE_SETS, Rule
from graphc.testing import Case, DifferenceError, Setup, bisect, check_pass
from graphc.testing.bisection import Blame, Runner
from graphc.testing.fuzzing import ModelTask, chosen_wishes, every_wish, try_task, wishes_of
from graphc.testing.rules import test_rule
from tests.testing.planted.planted_rules import PASSES as PLANTED_PASSES
from tests.testing.planted.planted_rules import PLANTED
from tests.testing.planted.planted_workshop import workshop

Plant: TypeAlias = Callable[[pytest.MonkeyPatch], None]

MOST_NODES = 5
MOST_MODELS = 40
"""Random models until a bug in what makes code is to be found."""


@pytest.fixture(scope="module")
def model() -> tuple[bytes, dict[str, Any]]:
    return workshop()


@pytest.fixture(autouse=True)
def planted_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    # What fuzzing wishes for is found out once for a process, and is no planted rule.
    every_wish()
    monkeypatch.setitem(RULE_SETS, "planted", PLANTED)
    for pass_ in PLANTED_PASSES:
        monkeypatch.setitem(PASSES, pass_.name, pass_)


def _replace_rule(monkeypatch: pytest.MonkeyPatch, group: str, name: str, replacement: Any) -> Rule:
    rule = RULE_SETS[group].rules[name]
    wrong = dataclasses.replace(rule, replacement=replacement)
    monkeypatch.setitem(RULE_SETS[group].rules, name, wrong)
    return wrong


SLOW = pytest.mark.slow

WRONG_RULES = [
    "swapped_operands",
    pytest.param("commuted", marks=SLOW),
    "wrong_constant",
    "wrong_axis",
    pytest.param("lost_attribute", marks=SLOW),
    "dropped_broadcast",
    pytest.param("wrong_padding", marks=SLOW),
    pytest.param("wrong_keepdims", marks=SLOW),
    pytest.param("wrong_accumulator", marks=SLOW),
    pytest.param("wrong_order", marks=SLOW),
    pytest.param("overflow", marks=SLOW),
    pytest.param("mixed_up", marks=SLOW),
]


@pytest.mark.parametrize("name", WRONG_RULES)
def test_a_wrong_rule(name: str, model: tuple[bytes, dict[str, Any]]) -> None:
    assert test_rule(PLANTED.rules[name]).failure
    blame = bisect(Case(*model, Setup(passes=f"fold,planted{{only={name}}},dce")), isolate=False)
    assert (blame.finding.stage, blame.finding.name) == ("pass", f"planted{{only={name}}}")
    _assert_named(blame, name)
    _assert_small(blame)


def _assert_named(blame: Blame, rule: str) -> None:
    if blame.culprit is None:
        # It builds what the driver refuses, before it counts as applied.
        assert blame.finding.status == "error"
        assert repr(rule) in blame.finding.detail
    else:
        assert blame.culprit.rule == rule


def _assert_small(blame: Blame) -> None:
    assert blame.reduced is not None
    assert blame.reduced.nodes <= MOST_NODES
    assert blame.reduced.nodes < blame.reduced.nodes_before


def test_a_rule_that_loses_nan() -> None:
    graph = Graph("nan", [(name, TensorType(dtypes.FLOAT32, (3, 4))) for name in ("a", "b")], opset=23)
    b = Builder(graph, infer=infer_node)
    a, other = graph.inputs
    graph.outputs = [b.op("Tanh", b.op("Max", b.op("Sqrt", a), other))]
    inputs = {"a": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "b": np.ones((3, 4), np.float32)}
    setup = Setup(passes="planted{only=lost_nan}")
    blame = bisect(Case(export_model(graph).SerializeToString(), inputs, setup), isolate=False)
    assert blame.culprit is not None
    assert blame.culprit.rule == "lost_nan"
    _assert_small(blame)
    # On finite numbers it is right, so that nothing but a NaN shows it.
    assert any(np.isnan(array).any() or (array < 0).any() for array in blame.reduced.inputs.values())  # type: ignore[union-attr]


def _wrong_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    def replacement(m: Any, b: Builder) -> Any:
        inner, outer = m.attribute("inner"), m.attribute("outer")
        return b.op("Transpose", m["x"], perm=[outer[axis] for axis in inner])

    _replace_rule(monkeypatch, "simplify", "transpose_of_transpose", replacement)


def _slice_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RULE_SETS["simplify"].rules["slice_of_slice"].replacement

    def replacement(m: Any, b: Builder) -> Any:
        made = right(m, b)
        node = getattr(made, "producer", None)
        if node is not None:
            for place in (1, 2):
                node.set_input(place, b.constant(node.inputs[place].constant.array() - 1))
        return made

    _replace_rule(monkeypatch, "simplify", "slice_of_slice", replacement)


def _lost_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_rule(monkeypatch, "simplify", "add_of_negative", lambda m, b: b.op("Sub", m["y"], m["x"]))


def _wrong_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fold_batch_norm._affine

    def affine(m: Any) -> Any:
        scale, shift = right(m)
        return scale, shift * 1.1

    monkeypatch.setattr(fold_batch_norm, "_affine", affine)


@pytest.mark.parametrize(
    ("group", "rule", "plant"),
    [
        ("simplify", "transpose_of_transpose", _wrong_composition),
        pytest.param("simplify", "slice_of_slice", _slice_off_by_one, marks=SLOW),
        pytest.param("simplify", "add_of_negative", _lost_sign, marks=SLOW),
        pytest.param("fold_batch_norm", "batch_norm_into_weights", _wrong_shift, marks=SLOW),
    ],
)
def test_a_rule_of_graphc_made_wrong(
    group: str, rule: str, plant: Plant, model: tuple[bytes, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert test_rule(RULE_SETS[group].rules[rule]).failure
    blame = bisect(Case(*model), isolate=False)
    assert blame.finding.name == group
    _assert_named(blame, rule)
    _assert_small(blame)


def _joined_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    right = merge_matmuls._joined
    monkeypatch.setattr(merge_matmuls, "_joined", lambda tensors: right(tensors[::-1]))


def _key_without_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cse._key

    def key(node: Node) -> Any:
        found = right(node)
        return None if found is None or node.is_op("Constant") else found[:4]

    monkeypatch.setattr(cse, "_key", key)


def _stale_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fold._tensor

    def tensor(value: Any, datum: Any) -> Tensor:
        return right(value, datum + datum.dtype.type(1) if datum.dtype.kind == "f" else datum)

    monkeypatch.setattr(fold, "_tensor", tensor)


def _missing_relayout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_convert_readers", lambda *_: 0)


def _backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for schedule in ("_least_growth", "_depth_first"):
        monkeypatch.setattr(order, schedule, lambda graph, nodes, sizes: nodes[::-1])
    monkeypatch.setattr(order, "peak", lambda nodes, graph, sizes: -len([*graph.nodes]) * (nodes != [*graph.nodes]))


def _region_inputs_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fuse.fuse.make_region

    def make(graph: Graph, group: Any) -> Node:
        region = right(graph, group)
        first, *others = region.inputs
        for place, other in enumerate(others, 1):
            if first is not None and other is not None and first.type == other.type:
                region.set_input(0, other)
                region.set_input(place, first)
                break
        return region

    monkeypatch.setattr(fuse.fuse, "make_region", make)


@dataclass(frozen=True)
class PassPlant:
    """A bug in a pass.

    Args:
        name: The pass.
        passes: The pipeline in which it shows.
        plant: Puts it there.
        operators: Of random graphs that show it.
    """

    name: str
    passes: str
    plant: Plant = lambda monkeypatch: None
    operators: Sequence[str] = ()


PASS_PLANTS = [
    PassPlant("merge_matmuls{only=without_bias}", "fold,merge_matmuls{only=without_bias},dce", _joined_backwards),
    PassPlant("cse", "cse", _key_without_attributes, ("Softmax", "ReduceSum", "Transpose", "Concat")),
    PassPlant("layout", "fold,layout", _missing_relayout, ("Conv", "Relu")),
    PassPlant("fuse", "fold,fuse", _region_inputs_swapped, ("Sub", "Div", "Relu", "Exp")),
    PassPlant("order", "order", _backwards, ("Relu", "Add", "Softmax")),
    PassPlant("missed_use", "fold,missed_use,dce"),
    PassPlant("stale_type", "stale_type"),
    PassPlant("lost_output", "fold,lost_output,dce"),
]


@pytest.mark.slow
@pytest.mark.parametrize("plant", PASS_PLANTS, ids=lambda plant: plant.name)
def test_a_pass_made_wrong(
    plant: PassPlant, model: tuple[bytes, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.plant(monkeypatch)
    if plant.operators:
        with pytest.raises((DifferenceError, PassError)):
            check_pass(plant.name, operators=plant.operators, examples=300, max_nodes=10)
    blame = bisect(Case(*model, Setup(passes=plant.passes)), isolate=False)
    assert (blame.finding.stage, blame.finding.name) == ("pass", plant.name)
    assert blame.culprit is not None
    _assert_small(blame)


def test_folding_made_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    _stale_constant(monkeypatch)
    graph = Graph("constants", [("x", TensorType(dtypes.FLOAT32, (3,)))], opset=23)
    b = Builder(graph, infer=infer_node)
    known = b.op("Sqrt", b.constant(np.arange(3, dtype=np.float32)))
    graph.outputs = [b.op("Relu", b.op("Mul", b.op("Tanh", graph.inputs[0]), known))]
    case = Case(export_model(graph).SerializeToString(), {"x": np.ones(3, np.float32)}, Setup(passes="fold"))
    blame = bisect(case, isolate=False)
    assert blame.culprit is not None
    assert blame.culprit.rule == "fold"
    assert "Sqrt" in blame.culprit.node
    _assert_small(blame)


def _chain() -> tuple[bytes, dict[str, Any]]:
    """A product whose last panel is narrow, and values that lie side by side while others are read."""
    rng = np.random.default_rng(4)
    graph = Graph("chain", [("x", TensorType(dtypes.FLOAT32, (6, 40)))], opset=23)
    b = Builder(graph, infer=infer_node)
    weights = b.constant(rng.standard_normal((40, 37)).astype(np.float32) / 6)
    summed = b.op("CumSum", graph.inputs[0], b.constant(np.int64(1)))
    product = b.op("MatMul", b.op("Sigmoid", summed), weights)
    total = b.op("CumSum", b.op("Exp", product), b.constant(np.int64(0)))
    soft = b.op("Softmax", b.op("MatMul", summed, weights))
    graph.outputs = [b.op("Add", total, b.op("Mul", soft, product))]
    for number, node in enumerate(graph.nodes):
        node.name = f"{node.op_type.lower()}_{number}"
    inputs = {"x": rng.standard_normal((6, 40)).astype(np.float32)}
    return export_model(graph).SerializeToString(), inputs


def _short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets_readers(graph: Graph) -> BufferPlan:
        buffers = assign_buffers(graph)
        for storage in buffers.arena():
            storage.end = storage.start + 1
        return buffers

    monkeypatch.setattr("graphc.compiler.program.assign_buffers", forgets_readers)


def _aliasing(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lowering.memory.plan

    def plan(buffers: Any, **options: Any) -> Any:
        return right([(start, start + 1, size) for start, _, size in buffers], **options)

    monkeypatch.setattr(lowering.memory, "plan", plan)


def _narrow_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gemm.pack_panels

    def pack(matrix: Any, width: int, lanes: int) -> Any:
        whole = matrix.copy()
        whole[:, -1] = 0
        return right(whole, width, lanes)

    monkeypatch.setattr(gemm, "pack_panels", pack)


def _refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TvmBackend.lower

    def lower(self: TvmBackend, region: Node, target: Any, options: Any) -> Any:
        if region.is_op("Softmax"):
            raise AssertionError("no tile fits")
        return right(self, region, target, options)

    monkeypatch.setattr(TvmBackend, "lower", lower)


@pytest.mark.parametrize(
    ("plant", "stage", "name"),
    [
        pytest.param(_short_lives, "plan", "memory plan", id="lives that end too soon"),
        pytest.param(_aliasing, "plan", "memory plan", id="aliasing", marks=SLOW),
        pytest.param(_narrow_panel, "kernel", "gemm", id="off by one in a tail", marks=SLOW),
        pytest.param(_refusing, "compile", "AssertionError", id="lowering", marks=SLOW),
    ],
)
def test_what_makes_code_made_wrong(
    plant: Plant, stage: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    plant(monkeypatch)
    blame = bisect(Case(*_chain(), Setup(passes="dce")), isolate=False, attempts=60)
    assert blame.finding.stage == stage
    assert name in blame.finding.name
    _assert_small(blame)
    if stage == "kernel":
        assert blame.finding.region


PAST_THE_TAIL = """
import dataclasses
from graphc.backends.tvm.backend import TvmBackend
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops.inference import infer_node

right = TvmBackend.lower

def lower(self, region, target, options):
    kernel = right(self, region, target, options)
    if not region.is_op("Exp"):
        return kernel
    extent = region.output.tensor_type.numel + 64
    longer = Graph("longer", [("x", TensorType(dtypes.FLOAT32, (extent,)))], opset=23)
    longer.outputs = [Builder(longer, infer=infer_node).op("Exp", longer.inputs[0])]
    return dataclasses.replace(right(self, longer.outputs[0].producer, target, options), operands=kernel.operands)

TvmBackend.lower = lower
"""

CRASH = "os.kill(os.getpid(), signal.SIGSEGV)"

PASS = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from graphc.passes.base import register_pass

@register_pass
@dataclass(frozen=True)
class Doomed:
    \"\"\"Does not come back from an Exp.\"\"\"
    name: ClassVar[str] = "doomed"

    def run(self, graph, context):
        for node in graph.nodes:
            if context.permit("doomed", node) and node.is_op("Exp"):
                {deed}
        return 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "passes", "status", "stage", "name"),
    [
        pytest.param(PAST_THE_TAIL, "dce", "wrong", "kernel", "generic", id="past the tail"),
        pytest.param(
            PASS.replace("{deed}", "os.kill(os.getpid(), signal.SIGSEGV)"),
            "doomed",
            "crash",
            "pass",
            "doomed",
            id="crash",
        ),
        pytest.param(PASS.replace("{deed}", "while True: pass"), "doomed", "hang", "pass", "doomed", id="hang"),
    ],
)
def test_what_takes_its_process_along(
    text: str, passes: str, status: str, stage: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    plugin = tmp_path / "plugin.py"
    plugin.write_text(text)
    case = Case(*_chain(), Setup(passes=passes, plugins=(str(plugin),)))
    blame = bisect(case, seconds=3 if status == "hang" else 60, attempts=4, small=stage == "pass")
    assert (blame.finding.status, blame.finding.stage) == (status, stage)
    assert name in blame.finding.name
    if stage == "kernel":
        assert "out of bounds" in blame.finding.detail
        assert "Exp" in blame.finding.region
    else:
        assert blame.culprit is not None
        _assert_small(blame)


@pytest.mark.slow
def test_a_stale_object_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    graph = Graph("pair", [("x", TensorType(dtypes.FLOAT32, (40,)))], opset=23)
    b = Builder(graph, infer=infer_node)
    graph.outputs = [b.op("Exp", graph.inputs[0]), b.op("Tanh", graph.inputs[0])]
    content = export_model(graph).SerializeToString()
    setup = Setup(passes="dce")
    programs = lower_model(content, options=setup.options()).programs
    exp, tanh = (kernel for _, kernel in sorted(programs[0].kernels.items(), key=lambda item: item[0].op_type))
    # The object of the one, under the name of the other.
    stale = tanh.compile().replace(tanh.symbol.encode(), exp.symbol.encode())
    ObjectCache(default_cache()).put(exp.key, stale)
    blame = bisect(Case(content, {"x": np.linspace(0, 1, 40, dtype=np.float32)}, setup), isolate=False, attempts=30)
    assert (blame.finding.stage, blame.finding.status) == ("cache", "wrong")
    assert "Exp" in blame.finding.region
    _assert_small(blame)


def test_an_operator_made_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphc.ops.base import find

    graph = Graph("meaning", [("x", TensorType(dtypes.FLOAT32, (3, 4)))], opset=22)
    b = Builder(graph, infer=infer_node)
    graph.outputs = [b.op("Neg", b.op("Sinh", b.op("Tanh", graph.inputs[0])))]
    for number, node in enumerate(graph.nodes):
        node.name = f"node_{number}"
    operator = find(graph.outputs[0].producer.inputs[0].producer)  # type: ignore[union-attr, arg-type]
    assert operator is not None
    wrong = dataclasses.replace(operator, evaluate=lambda node, data: [np.tanh(data[0])])
    monkeypatch.setattr("graphc.ops.evaluate.find", lambda node: wrong if node.is_op("Sinh") else find(node))
    inputs = {"x": np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)}
    setup = Setup(against="onnxruntime")
    blame = bisect(Case(export_model(graph).SerializeToString(), inputs, setup), isolate=False)
    assert (blame.finding.stage, blame.finding.name) == ("meaning", "Sinh")
    assert blame.finding.origins == ("node_1",)
    assert blame.reduced is not None
    assert blame.reduced.nodes == 1


def test_nothing_planted(model: tuple[bytes, dict[str, Any]]) -> None:
    with Runner(isolate=False) as runner:
        case = dataclasses.replace(Case(*model), stage="passes")
        assert runner.examine(case).status == "right"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "only"),
    [
        pytest.param(_short_lives, (), id="lives that end too soon"),
        pytest.param(_aliasing, (), id="aliasing"),
        pytest.param(_narrow_panel, ("MatMul", "Gemm"), id="off by one in a tail"),
        pytest.param(_refusing, ("Softmax",), id="lowering"),
    ],
)
def test_fuzzing_finds_what_makes_code_made_wrong(
    plant: Plant, only: Sequence[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    monkeypatch.setattr("graphc.testing.fuzzing.pieces.cases_by_operator", dict)  # which take ten seconds to load
    wishes = chosen_wishes(only)
    tasks = [ModelTask(seed, wishes_of(seed, wishes), backends=("cpu",)) for seed in range(MOST_MODELS)]
    with monkeypatch.context() as planted:
        plant(planted)
        task = next((task for task in tasks if _fails(task)), None)
    assert task is not None
    assert not _fails(task), "without the bug, the same model is right"


def _fails(task: ModelTask) -> bool:
    try:
        try_task(task)
    except (DifferenceError, GraphcError, AssertionError):
        return True
    return False
