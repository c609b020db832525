"""Random ONNX models beside ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphc.testing import random_models
from graphc.testing.choosing import SeedChooser
from graphc.testing.oracle import DifferenceError, calm_inputs
from graphc.testing.random_graphs import GraphOptions, random_graph
from graphc.testing.random_models import ModelTask, RandomModel, compare_model, fuzz_models, random_model
from graphc.testing.wide_samples import WIDE_SAMPLERS


def test_models_are_valid_of_many_operators_dtypes_ranks_and_opsets() -> None:
    operators: Counter[str] = Counter()
    dtypes, ranks, opsets = set(), set(), set()
    for seed in range(150):
        made = random_model(ModelTask(seed))
        if made is None:
            continue
        onnx.checker.check_model(made.proto, full_check=True)
        operators.update(node.op_type for node in made.proto.graph.node)
        opsets.update(entry.version for entry in made.proto.opset_import if not entry.domain)
        for node in made.graph.nodes:
            for value in node.outputs:
                dtypes.add(value.tensor_type.dtype.name)
                ranks.add(value.tensor_type.rank)
    assert len(operators) > 70 and operators.keys() - {"Constant"} <= WIDE_SAMPLERS.keys()
    assert {"float32", "float64", "int64", "int32", "bool", "uint8"} <= dtypes
    assert set(range(6)) <= ranks and len(opsets) > 3


def test_a_seed_is_a_model() -> None:
    for seed in range(20):
        first, second = (random_model(ModelTask(seed)) for _ in range(2))
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            assert first.proto == second.proto
            assert all(np.array_equal(a, b) for a, b in zip(first.inputs, second.inputs, strict=True))


@pytest.mark.timeout(300)
def test_some_models_agree() -> None:
    campaign = fuzz_models(count=40)
    assert not campaign.findings, campaign.to_json()["findings"]
    assert campaign.outcomes["agrees"] > 25


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_many_models_agree() -> None:
    campaign = fuzz_models(seed=10_000, count=1500)
    assert not campaign.findings, campaign.to_json()["findings"]


def wrong_relu(task: ModelTask) -> str:
    """Stands in for the comparison: a model with a Relu fails."""
    made = random_model(task)
    if made is not None and any(node.op_type == "Relu" for node in made.proto.graph.node):
        raise DifferenceError("Relu is wrong")
    return "agrees"


def test_a_difference_is_cut_down_to_its_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(random_models, "compare_model", wrong_relu)
    campaign = fuzz_models(count=40, keep=tmp_path)
    assert campaign.findings and campaign.outcomes["agrees"]
    for finding in campaign.findings:
        kept = onnx.load(str(tmp_path / finding.file_name))
        assert sum(node.op_type == "Relu" for node in kept.graph.node) == 1


def test_a_wrong_result_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = next(s for s in range(100) if random_model(ModelTask(s)) and compare_model(ModelTask(s)) == "agrees")
    original = random_models._onnxruntime

    def wrong(made: RandomModel) -> list[Any]:
        return [~array if array.dtype == bool else array + 1 for array in map(np.asarray, original(made))]

    monkeypatch.setattr(random_models, "_onnxruntime", wrong)
    with pytest.raises(DifferenceError, match="NumPy differs from ONNX Runtime too"):
        compare_model(ModelTask(seed))


@pytest.mark.parametrize("name", WIDE_SAMPLERS)
def test_every_operator_occurs(name: str) -> None:
    sampler = WIDE_SAMPLERS[name]
    options = GraphOptions(3, [name], samplers=WIDE_SAMPLERS, kinds=sampler.dtypes, ranks=sampler.ranks)
    graphs = (random_graph(SeedChooser(seed), options) for seed in range(60))
    assert any(
        any(node.op_type == name for node in graph.nodes) and calm_inputs(graph, 0) is not None for graph in graphs
    )
