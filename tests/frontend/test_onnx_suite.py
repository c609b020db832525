"""ONNX's own suite through import and export: every case that ONNX Runtime runs must give what it gave."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from graphc.frontend import export_model, import_model
from tests.frontend.models import Array, assert_same, run_ort

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")

EXCLUDED = {
    "test_scan_sum": "Scan of opset 8 has no newer form",
    "test_swish": "ONNX Runtime has a kernel at opset 24 alone",
    "test_loop16_seq_none": "the sequence that a Loop gives back is typed as the optional that it took",
}
LOOSE = {
    "test_attention_4d": "ONNX Runtime's kernels of opset 23 and 25 round fp16 and mask differently",
    "test_attention_24_qk_matmul_output_mode3": "the debug output was rounded differently before opset 25",
}
"""Cases whose outputs only need the same shapes, by the beginning of their names."""


def inputs(case: Any, model: onnx.ModelProto) -> list[Any]:
    if case.data_sets is not None:
        return list(case.data_sets[0][0])
    folder = Path(case.model_dir) / "test_data_set_0"
    files = [folder / f"input_{index}.pb" for index in range(len(model.graph.input))]
    return [numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())) for file in files if file.exists()]


def array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_what_onnx_runtime_runs_it_runs_after_the_round_trip(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for case in load_model_tests(kind=kind) if not case.name.endswith("_expanded")]
    ran = 0
    for case in cases:
        model = case.model or onnx.load(str(Path(case.model_dir) / "model.onnx"))
        feeds: dict[str, Array] = {
            info.name: array(value) for info, value in zip(model.graph.input, inputs(case, model), strict=False)
        }
        try:
            expected = run_ort(model, feeds)
        except Exception:
            import_model(model)  # what ONNX Runtime cannot run is read all the same
            continue
        if case.name in EXCLUDED:
            continue
        found = run_ort(export_model(import_model(model)), feeds)
        if any(case.name.startswith(name) for name in LOOSE):
            assert [np.shape(value) for value in found] == [np.shape(value) for value in expected]
        else:
            assert_same(expected, found)
        ran += 1
    assert ran > len(cases) // 2
