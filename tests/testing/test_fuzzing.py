"""Fuzzing: models that reach what they are drawn for, judges that see what is wrong, findings that come again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from graphc.errors import ModelError, OptionError
from graphc.ir import dtypes
from graphc.testing.choosing import SeedChooser
from graphc.testing.fuzzing import (
    ModelTask,
    Reached,
    Wish,
    chosen_wishes,
    corpus,
    every_wish,
    fuzz_models,
    random_model,
    replay,
    trial,
    try_model,
    try_task,
    wishes_of,
)
from graphc.testing.fuzzing.wishes import PER_MODEL, rules
from graphc.testing.oracle import DifferenceError, calm_inputs
from graphc.testing.random_graphs import GraphOptions, random_graph
from graphc.testing.wide_samples import WIDE_SAMPLERS

CORPUS = Path(__file__).parent / "corpus"
RELU = Wish("operator", "", "Relu", "float32")
CONV = Wish("operator", "", "Conv", "float32")


def test_wishes_are_every_rule_and_every_operator_on_every_dtype() -> None:
    wishes = every_wish()
    assert {wish.name for wish in wishes if wish.kind == "rule"} == set(rules())
    assert {RELU, CONV, Wish("operator", "", "LSTM", "float16"), Wish("operator", "ai.onnx.ml", "Scaler", "int32")} <= {
        *wishes
    }
    assert len(set(wishes)) == len(wishes) > 1500
    seeds = range(len(wishes) // (PER_MODEL - 1))
    assert {wish for seed in seeds for wish in wishes_of(seed, wishes)} == set(wishes)
    assert all(sum(wish.kind == "rule" for wish in wishes_of(seed, wishes)) == 1 for seed in range(9))


def test_wishes_can_be_chosen_by_name() -> None:
    assert {wish.name for wish in chosen_wishes(["Relu", "gelu"])} == {"Relu", "gelu"}
    with pytest.raises(OptionError, match="no rule and no operator is called Reloo"):
        chosen_wishes(["Reloo"])


def sampled_wishes() -> list[Wish]:
    """Those that need no model of the ONNX backend suite, which takes ten seconds to load."""
    return [
        wish
        for wish in every_wish()
        if wish.kind == "rule"
        or (wish.name in WIDE_SAMPLERS and dtypes.from_name(wish.dtype) in WIDE_SAMPLERS[wish.name].dtypes)
    ]


@pytest.fixture
def no_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.testing.fuzzing.pieces.cases_by_operator", dict)


@pytest.mark.usefixtures("no_suite")
def test_models_are_valid_and_have_what_was_wished_for() -> None:
    operators: Counter[str] = Counter()
    opsets, fulfilled, asked = set(), 0, 0
    among = sampled_wishes()
    for seed in range(60):
        wishes = wishes_of(seed, among)
        made = random_model(ModelTask(seed, wishes))
        asked += len(wishes)
        if made is None:
            continue
        onnx.checker.check_model(made.proto, full_check=True)
        fulfilled += len(made.fulfilled)
        operators.update(node.op_type for node in made.proto.graph.node)
        opsets.update(entry.version for entry in made.proto.opset_import if not entry.domain)
        for wish in made.fulfilled:
            assert wish.kind == "rule" or any(node.op_type == wish.name for node in made.graph.nodes)
    assert fulfilled > 0.85 * asked
    assert len(operators) > 60
    assert len(opsets) > 3


def test_a_seed_is_a_model_with_or_without_other_wishes() -> None:
    for seed in (0, 1, 2, 4, 5):
        first, second = (random_model(ModelTask(seed, (RELU, CONV))) for _ in range(2))
        alone = random_model(ModelTask(seed, (CONV,), max_nodes=0))
        assert first is not None and second is not None and alone is not None
        assert first.proto == second.proto
        assert all(np.array_equal(first.feeds[name], array) for name, array in second.feeds.items())
        filters = [
            [tuple(v.tensor_type.static_shape) for v in n.inputs if v] for n in alone.graph.nodes if n.is_op("Conv")
        ]
        others = [
            [tuple(v.tensor_type.static_shape) for v in n.inputs if v] for n in first.graph.nodes if n.is_op("Conv")
        ]
        assert filters[0] in others


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("no_suite")
def test_some_models_agree_and_tell_what_they_reached() -> None:
    among = sampled_wishes()
    reached = [try_task(ModelTask(seed, wishes_of(seed, among), backends=trial.BACKENDS)) for seed in range(8)]
    assert sum(one.verdict == "agrees" for one in reached) >= 6
    assert sum(len(one.compiled) for one in reached) > 15
    fired = try_task(ModelTask(0, (Wish("rule", "simplify", "transpose_of_transpose"),), max_nodes=0))
    assert fired.rules["transpose_of_transpose"] == 2, "by the passes for CPUs and those for GPUs"
    host = try_task(ModelTask(0, (RELU,), max_nodes=0, backends=("reference",)))
    assert host.compiled == {RELU}
    merged = [Wish("rule", "merge_matmuls", name) for name in ("with_biases", "without_bias")]
    gpus = [try_task(ModelTask(0, (wish,), max_nodes=0, backends=("reference",))) for wish in merged]
    assert all(wish.name in found.rules for wish, found in zip(merged, gpus, strict=True))


def test_extents_are_left_open_and_one_variant_is_for_all_of_them() -> None:
    opened = 0
    for seed in (2, 5, 8, 14):
        made = random_model(ModelTask(seed, (Wish("rule", "simplify", "reshape_to_same"),), max_nodes=0))
        assert made is not None
        opened += any(dim.dim_param for info in made.proto.graph.input for dim in info.type.tensor_type.shape.dim)
        assert try_model(made.proto, made.feeds, ("reference",)).verdict == "agrees"
    assert opened >= 2


@pytest.mark.usefixtures("no_suite")
def test_models_are_of_every_kind() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(40):
        made = random_model(ModelTask(seed, wishes_of(seed, (RELU, CONV))))
        kinds.update(made.kinds if made is not None else ())
    assert min(kinds[kind] for kind in ("control flow", "open extents", "edges")) > 3


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_many_models_agree() -> None:
    report = fuzz_models(seed=10_000, count=700)
    assert not report.failures, report.to_json()["failures"]
    assert report.coverage.tally("rule")[0] > 75
    assert report.coverage.tally("operator")[0] > 1200


def wrong_relu(task: ModelTask) -> Reached:
    """Stands in for the comparison: a model with a Relu fails."""
    made = random_model(task)
    if made is not None and any(node.op_type == "Relu" for node in made.proto.graph.node):
        raise DifferenceError("Relu is wrong")
    return Reached("agrees", compiled=frozenset({CONV}))


def test_a_failure_is_made_small_and_kept(tmp_path: Path) -> None:
    report = fuzz_models(count=3, wishes=[CONV, RELU], trial=wrong_relu, workers=1, keep=tmp_path)
    assert report.outcomes["raised"] == 3
    (failure,) = report.failures
    assert failure.times == 3 and failure.operators == ("Relu",) and "Relu is wrong" in failure.detail
    assert failure.path is not None
    proto, feeds = corpus.load(failure.path)
    assert [node.op_type for node in proto.graph.node] == ["Relu"]
    assert try_model(proto, feeds, ("reference",)).verdict == "agrees"
    assert report.coverage.missed == [RELU, CONV] or CONV not in report.coverage.compiled


def test_a_crash_is_a_finding() -> None:
    report = fuzz_models(count=1, wishes=[RELU], trial=crash, workers=1)
    assert [failure.status for failure in report.failures] == ["crashed"]


def crash(task: ModelTask) -> Reached:
    import os

    os.abort()


@pytest.mark.parametrize("backend", trial.BACKENDS)
def test_a_wrong_result_is_seen_whoever_computes_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = random_model(ModelTask(0, (RELU,), max_nodes=0))
    assert made is not None
    assert try_model(made.proto, made.feeds, (backend,)).verdict == "agrees"
    honest = trial._Judge.hold

    def hold(judge: Any, name: str, found: Mapping[str, Any]) -> None:
        honest(judge, name, {key: array + 1 for key, array in found.items()})

    monkeypatch.setattr(trial._Judge, "hold", hold)
    with pytest.raises(DifferenceError, match=f"{backend}: output .* (NumPy|ONNX Runtime)"):
        try_model(made.proto, made.feeds, (backend,))


def test_inputs_of_every_dtype_come_back_from_a_file(tmp_path: Path) -> None:
    arrays = {
        "half": np.array([1.5, np.nan], ml_dtypes.bfloat16),
        "tiny": np.array([1, -2, 3], ml_dtypes.int4),
        "text": np.array(["a", "größer"], object),
        "plain": np.array([[1.0]]),
    }
    kinds = {"half": 16, "tiny": 22, "text": 8, "plain": 11}
    infos = [onnx.helper.make_tensor_value_info(name, kind, arrays[name].shape) for name, kind in kinds.items()]
    outputs = [onnx.helper.make_tensor_value_info(f"{info.name}_out", kinds[info.name], None) for info in infos]
    nodes = [onnx.helper.make_node("Identity", [info.name], [f"{info.name}_out"]) for info in infos]
    opsets = [onnx.helper.make_opsetid("", 23)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", infos, outputs), opset_imports=opsets)
    path = corpus.keep(tmp_path, "identity", model.SerializeToString(), arrays)
    _, feeds = corpus.load(path)
    for name, array in arrays.items():
        assert feeds[name].dtype == array.dtype
        assert feeds[name].tolist() == array.tolist() or name == "half"
    assert feeds["half"].tobytes() == arrays["half"].tobytes()


def test_what_is_no_kept_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "alone.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="has no inputs beside it"):
        list(replay([tmp_path]))
    with pytest.raises(ModelError, match="there is no model"):
        list(replay([tmp_path / "gone.onnx"]))
    with pytest.raises(OptionError, match="unknown backend gpu"):
        list(replay([tmp_path], backends=["gpu"]))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.onnx")), ids=lambda path: path.stem)
def test_findings_of_the_past_stay_mended(path: Path) -> None:
    proto, feeds = corpus.load(path)
    assert try_model(proto, feeds).verdict == "agrees"


@pytest.mark.parametrize("name", WIDE_SAMPLERS)
def test_every_operator_occurs(name: str) -> None:
    sampler = WIDE_SAMPLERS[name]
    options = GraphOptions(3, [name], samplers=WIDE_SAMPLERS, kinds=sampler.dtypes, ranks=sampler.ranks)
    graphs = (random_graph(SeedChooser(seed), options) for seed in range(60))
    assert any(
        any(node.op_type == name for node in graph.nodes) and calm_inputs(graph, 0) is not None for graph in graphs
    )
