"""What counts as passed, as a host step, as a matter of numbers; and a run that goes on after a crash."""

from __future__ import annotations

import os
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from graphc.errors import OptionError
from graphc.frontend import import_model
from graphc.testing.conformance import Case, Judgement, Task, choose, difference, judge, load_cases, operator_of
from graphc.testing.conformance.judge import special_reason
from graphc.testing.conformance.runner import run_suite


def array(*values: float, dtype: Any = np.float32) -> Any:
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (array(1.0, 2.0), array(1.0009, 2.0)),
        (array(np.nan, np.inf), array(np.nan, np.inf)),
        (array(1.0, dtype=ml_dtypes.bfloat16), array(1.015, dtype=ml_dtypes.bfloat16)),
        (array(1, dtype=ml_dtypes.int4), array(1, dtype=ml_dtypes.int4)),
        (np.array(["a", "b"], object), np.array(["a", "b"], object)),
        ([array(1.0), None], [array(1.0), None]),
        (array(1 + 2j, dtype=np.complex64), array(1 + 2j, dtype=np.complex64)),
    ],
)
def test_alike(expected: Any, found: Any) -> None:
    assert difference(expected, found, 1e-3, 1e-7) == ""


@pytest.mark.parametrize(
    ("expected", "found", "why"),
    [
        (array(1.0, 2.0), array(1.0, 2.01), r"1 of 2 places, first at \[1\]"),
        (array(np.inf), array(-np.inf), "differs"),
        (array(1000, dtype=np.int64), array(1001, dtype=np.int64), "differs"),
        (array(1.0), array(1.0, dtype=np.float64), r"float64\[1\] instead of float32\[1\]"),
        (array(1.0), np.ones((1, 1), np.float32), r"\[1, 1\] instead of"),
        ([array(1.0)], [], "a list of 0 instead of a list of 1"),
        (None, array(1.0), "instead of None"),
        (np.array(["a"], object), np.array(["b"], object), "'b' instead of 'a'"),
    ],
)
def test_different(expected: Any, found: Any, why: str) -> None:
    assert re.search(why, difference(expected, found, 1e-3, 1e-7))


def test_every_kind_of_case_has_data() -> None:
    cases = load_cases()
    assert len(cases) > 2000
    assert all(case.data_sets and all(outputs for _, outputs in case.data_sets) for case in cases.values())


@pytest.mark.parametrize(
    ("name", "special"),
    [
        ("node/test_abs", ""),
        ("node/test_reshape_reordered_all_dims", ""),
        ("node/test_nonzero_example", "only the data tells"),
        ("node/test_strnormalizer_nostopwords_nochangecase", "strings"),
        ("node/test_sequence_insert_at_back", "no tensor"),
        ("node/test_bernoulli", "random numbers"),
    ],
)
def test_what_is_a_matter_of_numbers(name: str, special: str) -> None:
    found = special_reason(import_model(load_cases()[name].model))
    assert special in found and bool(special) == bool(found)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("node/test_abs", "Abs"),
        ("node/test_gelu_default_1_expanded", "Gelu"),
        ("node/test_ai_onnx_ml_binarizer", "ai.onnx.ml::Binarizer"),
        ("real/test_resnet50", "(real)"),
        ("pytorch-operator/test_operator_conv", "Conv"),
    ],
)
def test_a_case_is_about_an_operator(name: str, operator: str) -> None:
    assert operator_of(load_cases()[name]) == operator


def test_cases_are_chosen_by_part_pattern_and_kind() -> None:
    assert {"node/test_abs"} <= choose(["abs"]).keys() and len(choose(["abs"])) < 20
    assert list(choose(["node/test_ab?"])) == ["node/test_abs"]
    assert all(case.kind == "simple" for case in choose((), ["simple"]).values())
    with pytest.raises(OptionError, match="no case"):
        choose(["nothing like it"])


def model(op_type: str, dtype: int, **attributes: Any) -> bytes:
    info = [helper.make_tensor_value_info(name, dtype, [3]) for name in "xy"]
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return made.SerializeToString()  # type: ignore[attr-defined,no-any-return]


def case(op_type: str, given: Any, expected: Any, dtype: int = TensorProto.FLOAT) -> Case:
    return Case(f"node/{op_type}", model(op_type, dtype), (([given], [expected]),), 1e-3, 1e-7)


@pytest.mark.parametrize("engine", ["tvm", "reference", "onnxruntime"])
def test_engines_judge(engine: str) -> None:
    right = case("Abs", array(-1, 2, -3), array(1, 2, 3))
    assert judge(Task(right, engine)) == Judgement(host=("Abs",) if engine == "reference" else ())
    wrong = judge(Task(case("Abs", array(-1, 2, -3), array(1, 2, 4)), engine))
    assert "output 0: differs at 1 of 3 places" in wrong.problem
    assert judge(Task(Case("node/none", b"no model", (), 0, 0), engine)).problem


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(OptionError, match="unknown engine"):
        judge(Task(case("Abs", array(1), array(1)), "abacus"))
    with pytest.raises(OptionError, match="abacus"):
        run_suite({}, against=("abacus",))


def test_onnx_runtime_is_given_dtypes_that_numpy_lacks() -> None:
    for dtype, kind in (
        (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
        (ml_dtypes.float8_e4m3fn, TensorProto.FLOAT8E4M3FN),
    ):
        x = array(1, -2, 3, dtype=dtype)
        assert judge(Task(case("Identity", x, x, kind), "onnxruntime")).passed
    for narrow, kind in ((ml_dtypes.int4, TensorProto.INT4), (ml_dtypes.uint4, TensorProto.UINT4)):
        x = array(1, 7, 3, dtype=narrow) if narrow is ml_dtypes.uint4 else array(1, -8, -3, dtype=narrow)
        assert judge(Task(case("Transpose", x, x, kind), "onnxruntime")).passed


def fall(task: Task) -> Judgement:
    """Stands in for `judge`: crashes on one case."""
    if task.case.name.endswith("Neg"):
        os.abort()
    return Judgement()


def test_a_crash_is_one_failure_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.testing.conformance.runner.judge", fall)
    cases = {f"node/{op}": case(op, array(1), array(1)) for op in ("Abs", "Neg", "Exp", "Log")}
    summary = run_suite(cases, workers=1)
    assert summary.totals() == {"cases": 4, "compiled": 3, "host": 0, "excluded": 0, "failed": 1} | {
        "crashed": 1,
        "timeout": 0,
    }
    assert "SIGABRT" in summary.failed[0].problem
