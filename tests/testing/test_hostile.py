"""The tools of the fuzzer: trees of fields, mutations, reduction, a campaign that finds what is wrong."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto, TensorProto, helper

from graphc.testing import hostile
from graphc.testing.hostile import campaign
from graphc.testing.hostile.wiretree import parse, serialize, walk


def model() -> bytes:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Softmax", ["h"], ["y"], axis=-1)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()
    return data


def test_a_tree_says_what_the_parser_says() -> None:
    tree = parse(model())
    assert ModelProto.FromString(serialize(tree)) == ModelProto.FromString(model())
    texts = {field.value for _, field in walk(tree) if field.name == "op_type"}
    assert texts == {b"Relu", b"Softmax"}
    for bad in (b"\x0a", b"\x0a\x7fx", b"\x0f\x00", b"\xff" * 9):
        with pytest.raises(ValueError):
            parse(bad)


def test_every_edit_changes_models_and_most_still_parse() -> None:
    from graphc.testing.hostile.mutation import _EDITS

    for edit in dict.fromkeys(_EDITS):
        changed = 0
        for seed in range(20):
            tree = parse(model())
            edit(tree, [model()], random.Random(seed))
            changed += serialize(tree) != model()
        assert changed or edit.__name__ in ("_external", "_packed"), edit.__name__


def test_minimizing_keeps_what_fails_and_little_else() -> None:
    small = hostile.minimize(model(), lambda data: b"Softmax" in data)
    assert b"Softmax" in small and b"Relu" not in small and len(small) < 25
    assert hostile.minimize(b"no model: abcdefgh", lambda data: b"e" in data) == b"e"


def broken(data: bytes) -> str:
    """Stands in for a trial: an importer with two defects."""
    if b"If" in data:
        os.abort()
    if b"Softmax" not in data:
        raise KeyError("no softmax")
    return "ran"


def test_a_campaign_finds_each_defect_once_and_keeps_it_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def isolation(workers: int = 1) -> Any:
        return hostile.campaign.Isolation(broken, workers=workers)

    monkeypatch.setattr(campaign, "isolation", isolation)
    found = campaign.fuzz_import([model()], count=150, keep=tmp_path)
    assert found.tried == 150
    assert sorted(finding.status for finding in found.findings) == ["crashed", "raised"]
    assert {path.name for path in tmp_path.iterdir()} == {finding.file_name for finding in found.findings}
    crash = next(finding for finding in found.findings if finding.status == "crashed")
    assert b"If" in crash.model and len(crash.model) < 40
    assert found.to_json()["tried"] == 150


def test_a_trial_answers_how_far_a_model_got() -> None:
    assert hostile.trial(model()) == "ran"
    assert hostile.trial(b"\x00") == "import: ModelError"
    assert hostile.trial(model().replace(b"Softmax", b"Softmux")) == "compile: UnsupportedError"


def test_a_number_below_zero_is_written_whatever_its_wire_type() -> None:
    tree = parse(model())
    for _, field in list(walk(tree)):
        if isinstance(field.value, int):
            field.value, field.wire = -1, 2
    assert b"\xff" * 9 + b"\x01" in serialize(tree)
