"""The numerics that the interpreter holds kernels to, on a real GPU, with whole models: `pytest -m gpu`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import graphc
from bench.zoo import load as load_entry
from graphc.compiler import CompileOptions
from graphc.compiler.targets import gpus_here
from graphc.frontend import export_model
from graphc.ir import Graph
from graphc.testing import check_backend
from graphc.testing.oracle import compare_arrays
from graphc.testing.tuning import tune

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

Array = np.ndarray[Any, Any]

TOLERANCES = {"fp32": 2e-4, "tf32": 1e-2, "fp16": 5e-2, "bf16": 1.5e-1}


@pytest.fixture(scope="module")
def target() -> str:
    """The architecture of the GPU that is here."""
    if "libcuda.so" in (maps := Path("/proc/self/maps").read_text()) and "pytest-of" in maps:
        pytest.skip("this process has loaded the fake driver; run these tests alone")
    here = gpus_here()
    if not here:
        pytest.skip("no GPU is here")
    return here[0]


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs(target: str, seed: int) -> None:
    def run(graph: Graph, inputs: Sequence[Array]) -> list[Any]:
        names = [value.name for value in graph.inputs]
        with graphc.compile(export_model(graph), target=target) as model:
            # The second call is captured as a graph, the third one replays it.
            answers = [model(dict(zip(names, inputs, strict=True))) for _ in range(3)]
        for answer in answers[1:]:
            for name, array in answers[0].items():
                np.testing.assert_array_equal(answer[name], array)
        return list(answers[0].values())

    check_backend(run, examples=60, max_nodes=12, seed=seed)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(
    "name",
    [
        *("mlp_4x64x64", "decode_step", "lstm_step", "silero_vad_static16k", "ppocr_cls"),
        *("resnet50", "mobilenetv2", "minilm_l6_s128", "bert_base_s128", "gpt2_s128", "gpt2_kv", "vit_b16"),
    ],
)
def test_models(target: str, name: str, precision: str) -> None:
    entry = load_entry(name)
    inputs = entry.inputs()
    shapes: dict[str, Any] = {name: array.shape for name, array in inputs.items()}
    expected = onnxruntime.InferenceSession(entry.path, providers=["CPUExecutionProvider"]).run(None, inputs)
    with graphc.compile(entry.path, target=target, dims=shapes, precision=precision) as model:
        for _ in range(3):
            for wanted, found in zip(expected, model(inputs).values(), strict=True):
                compare_arrays(name, wanted, found, TOLERANCES[precision])


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_what_tuning_keeps_gives_the_same_answers(target: str, precision: str, tmp_path: Path) -> None:
    entry = load_entry("mobilenetv2")
    options = CompileOptions(cache=tmp_path, precision=precision)
    inputs = entry.inputs()
    shapes: dict[str, Any] = {name: array.shape for name, array in inputs.items()}
    result = tune(entry.path, inputs, target=target, dims=shapes, rounds=3, options=options)
    assert len(result.measured) > 10 and result.before > 0 and result.after > 0
    assert set(result.database) <= result.measured
