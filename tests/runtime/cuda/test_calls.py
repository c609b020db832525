"""Calls on a GPU: eager, captured and replayed; from many threads; what they take and give back."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.runtime import load
from graphc.runtime.cuda.launcher import Launcher
from tests.runtime.cuda.conftest import Fake, affine_of, x_of


def test_the_first_call_is_eager_the_second_captured_and_the_others_replayed(affine: Path, fake: Fake) -> None:
    with load(affine) as model:
        assert (model.device, model.isa, model.processor) == ("cuda:0", "sm_80", "Fake GPU 0")
        for number in range(5):
            x = x_of(number)
            np.testing.assert_array_equal(model({"x": x})["y"], affine_of(x))
            assert fake.launches == 4 * (number + 1)
            assert fake.calls("cuLaunchKernel") == (4 if number == 0 else 8)
            assert fake.calls("cuGraphLaunch") == number
        assert fake.calls("cuStreamBeginCapture") == 1


def test_outputs_are_the_callers_own(affine: Path, fake: Fake) -> None:
    with load(affine) as model:
        first = model([x_of(0)])["y"]
        model([x_of(1)])
        np.testing.assert_array_equal(first, affine_of(x_of(0)))
        out = np.full((4, 64), np.nan, np.float32)
        assert model([x_of(2)], out={"y": out})["y"] is out
        np.testing.assert_array_equal(out, affine_of(x_of(2)))


def test_a_thousand_calls_take_no_more_than_a_few(affine: Path, fake: Fake) -> None:
    with load(affine) as model:
        for _ in range(3):
            model([x_of()])
        before, used = fake.live, fake.used()
        for _ in range(1000):
            model([x_of()])
        assert (fake.live, fake.used()) == (before, used)
        assert model.memory == 4096


def test_calls_in_flight_have_contexts_of_their_own(affine: Path, fake: Fake) -> None:
    with load(affine) as model, ThreadPoolExecutor(8) as pool:
        inputs = [x_of(number) for number in range(200)]
        for x, answer in zip(inputs, pool.map(lambda x: model([x])["y"], inputs), strict=True):
            np.testing.assert_array_equal(answer, affine_of(x))
        assert 1 <= model.memory // 4096 <= 8
        model.trim()
        assert model.memory == 0
        np.testing.assert_array_equal(model([inputs[0]])["y"], affine_of(inputs[0]))


def test_what_garbage_collection_frees_ends_no_capture(
    affine: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue, collected = Launcher.__call__, []

    def collecting(launcher: Launcher) -> None:
        enqueue(launcher)
        collected.append(gc.collect())

    with load(affine) as model:
        loop: list[Any] = [model([x_of()], device_outputs=True)["y"]]
        loop.append(loop)
        used = fake.used()
        del loop
        monkeypatch.setattr(Launcher, "__call__", collecting)
        np.testing.assert_array_equal(model([x_of()])["y"], affine_of(x_of()))
        assert fake.calls("cuStreamBeginCapture") == 1 and collected[0] > 0
        assert fake.used() == used - 1024
