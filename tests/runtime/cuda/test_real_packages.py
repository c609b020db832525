"""Packages that the compiler made, by a driver that checks every launch against its cubin.

It knows how many parameters a function takes, how wide each is, and how many threads it was compiled for. The kernels
themselves do nothing; what they compute is checked elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from graphc.compiler import CompileOptions, compile_package
from graphc.errors import InputError
from graphc.runtime import load
from tests.runtime.cuda.conftest import Fake

pytest.importorskip("triton")

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
small (int64[4, 16] ids, float[100, 64] table, float[64, 48] w) => (float[4, 16, 48] s, float total) {
  e = Gather(table, ids)
  m = MatMul(e, w)
  s = Softmax <axis = -1> (m)
  total = ReduceSum <keepdims = 0> (s)
}"""
"""An embedding, a product, normalized rows, and the sum of everything."""


def test_every_launch_is_what_its_cubin_takes(tmp_path: Path, fake: Fake) -> None:
    path = tmp_path / "small.graphc"
    options = CompileOptions(cache=tmp_path)
    compile_package(onnx.parser.parse_model(MODEL), path, target="cuda:sm_80", options=options)
    rng = np.random.default_rng(0)
    feed = {
        "ids": rng.integers(0, 100, (4, 16)),
        "table": rng.standard_normal((100, 64)).astype(np.float32),
        "w": rng.standard_normal((64, 48)).astype(np.float32),
    }
    for gpu in (80, 86):
        fake.reset([gpu])
        with load(path) as model:
            steps = len(model.variant_for(feed).kernel_steps)
            for number in range(1, 4):
                outputs = model(feed)
                assert {name: array.shape for name, array in outputs.items()} == {"s": (4, 16, 48), "total": ()}
                assert fake.launches >= number * steps
            resident = model({**feed, "table": fake.array(feed["table"])}, device_outputs=True)
            assert resident["s"].shape == (4, 16, 48)
            assert len(model.profile(feed, runs=2).steps) == len(list(model.walk(feed)))
            with pytest.raises(InputError, match="expected dtype int64"):
                model({**feed, "ids": feed["ids"].astype(np.int32)})
            del resident
        del model
