"""Calls that repeat take a way of their own in C: it must do what the long way does, and hand over what it does not."""

from __future__ import annotations

import gc
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import ExecutionError, InputError
from graphc.package import KernelStep, Location, TensorSpec
from graphc.runtime import Executable, load
from graphc.runtime.memory import Array
from graphc.runtime.shortcut import Function, _interpreter, _is_brief
from tests.runtime.conftest import Build

X = np.linspace(-3, 3, 256, dtype=np.float32).reshape(4, 64)
Y = 2 * X + np.arange(256, dtype=np.float32).reshape(4, 64) + 1

pytestmark = pytest.mark.skipif(_interpreter() is None, reason="another interpreter lays its objects out differently")


def short_way(model: Executable, x: Array = X) -> Function:
    """The model's, after calls that made it."""
    model([x])
    assert model._shortcut is not None
    return model._shortcut


@pytest.mark.parametrize("inputs", [{"x": X}, [X], (X,)], ids=["dict", "list", "tuple"])
def test_it_answers_usual_calls(affine: Path, inputs: Any) -> None:
    outputs = short_way(load(affine))(inputs)
    assert outputs is not None and list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], Y)


class Mapping(dict[str, Any]):
    """Whose look-up another may have overridden."""


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": X},
        {"x": X, "z": X},
        Mapping(x=X),
        [],
        [X, X],
        [None],
        [X.tolist()],
        [X.astype(np.float64)],
        [X.astype(">f4")],
        [X[:3]],
        [X[0]],
        [X.reshape(4, 64, 1)],
        [np.asfortranarray(X)],
        [X[:, ::-1]],
        [X.view(np.recarray)],
        None,
        "x",
        X,
    ],
)
def test_everything_else_goes_the_long_way(affine: Path, inputs: Any) -> None:
    assert short_way(load(affine))(inputs) is None


def test_nothing_leaks(affine: Path) -> None:
    model = load(affine)
    call, inputs, wrong = short_way(model), {"x": X}, [X, X]
    name = model.outputs[0].name
    call(inputs), call(wrong)
    gc.collect()
    before = [sys.getrefcount(thing) for thing in (X, X.dtype, inputs, name, wrong, call)]
    for _ in range(1000):
        call(inputs)
        call(wrong)
        call([X[:3]])
    assert [sys.getrefcount(thing) for thing in (X, X.dtype, inputs, name, wrong, call)] == before


def test_outputs_are_the_callers_own(affine: Path) -> None:
    call = short_way(load(affine))
    first, second = call([X]), call([X + 1])
    assert first is not None and second is not None
    np.testing.assert_array_equal(first["y"], Y)
    assert not np.shares_memory(first["y"], second["y"])
    assert first["y"].flags.owndata and first["y"].flags.writeable


def test_inputs_live_as_long_as_the_call(build: Build) -> None:
    path = build([TensorSpec("x", "int64", (2,))], [TensorSpec("ids", "int64", (64,))], [sleeping()] * 50)
    model, x = load(path, threads=1), np.zeros(2, np.int64)
    model({"x": x})
    given = {"x": x}
    count = sys.getrefcount(x)
    caller = threading.Thread(target=model, args=(given,))
    caller.start()
    deadline = time.monotonic() + 10
    while sys.getrefcount(x) == count and time.monotonic() < deadline:
        time.sleep(0.0005)
    assert sys.getrefcount(x) > count, "the call holds its input"
    given.clear()
    assert sys.getrefcount(x) >= count
    caller.join()
    assert sys.getrefcount(x) == count - 1


def sleeping() -> KernelStep:
    """A kernel that takes a millisecond."""
    return KernelStep("who", (Location("output"),), ())


def test_a_second_call_in_flight_goes_the_long_way(build: Build) -> None:
    model = load(build([], [TensorSpec("ids", "int64", (64,))], [sleeping()] * 100), threads=1)
    model([])
    call = model._shortcut
    assert call is not None
    answers: list[Any] = []
    callers = [threading.Thread(target=lambda: answers.append(call([]))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sum(answer is None for answer in answers) == 3
    assert call([]) is not None, "it is free again"


@pytest.mark.parametrize("threads", [1, 2])
def test_many_callers(affine: Path, threads: int) -> None:
    model = load(affine, threads=threads)
    wrong: list[float] = []

    def calls(shift: float) -> None:
        x, y = X + np.float32(shift), Y + np.float32(2 * shift)
        for _ in range(500):
            if not np.allclose(model({"x": x})["y"], y, rtol=1e-6, atol=1e-5):
                wrong.append(shift)

    callers = [threading.Thread(target=calls, args=(float(shift),)) for shift in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_failing_kernel_is_told_by_the_long_way(build: Build) -> None:
    steps = [KernelStep("scale", (Location("input"), Location("output")), (0,)), KernelStep("fail", (), (5,))]
    path = build([TensorSpec("x", "float32", (2,))], [TensorSpec("y", "float32", (2,))], steps)
    model = load(path)
    for _ in range(3):
        with pytest.raises(ExecutionError, match=r"step 1 .* status 5"):
            model([np.zeros(2, np.float32)])


def test_closed_and_trimmed_models_have_none(affine: Path) -> None:
    model = load(affine)
    call = short_way(model)
    model.trim()
    assert model.memory == 0 and model._shortcut is None
    np.testing.assert_array_equal(model([X])["y"], Y)
    assert model.memory == 4096
    model.close()
    with pytest.raises((ExecutionError, InputError)):
        model([X])
    outputs = call([X])
    assert outputs is not None, "who still holds the function may call it"
    np.testing.assert_array_equal(outputs["y"], Y)


def test_an_array_of_no_elements(build: Build) -> None:
    step = KernelStep("scale", (Location("input"), Location("output")), (0,))
    path = build([TensorSpec("x", "float32", (0, 3))], [TensorSpec("y", "float32", (0, 3))], [step])
    model, x = load(path), np.zeros((0, 3), np.float32)
    model([x])
    assert model._shortcut is not None
    outputs = model._shortcut([x])
    assert outputs is not None and outputs["y"].shape == (0, 3)


def brief_step(moved: int = 2048) -> KernelStep:
    """y = 2 x of 256 floats, which says what it moves."""
    return KernelStep("scale", (Location("input"), Location("output")), (256,), "scale", ("Mul_0",), 256, moved)


def test_brief_calls_keep_the_interpreter(build: Build) -> None:
    path = build([TensorSpec("x", "float32", (256,))], [TensorSpec("y", "float32", (256,))], [brief_step()])
    model, x = load(path, threads=1), np.arange(256, dtype=np.float32)
    call, wrong = short_way(model, x), []

    def calls() -> None:
        for _ in range(2000):
            outputs = call([x])
            # None of them is ever in another's way: each is over before another thread goes on.
            if outputs is None or not np.array_equal(outputs["y"], 2 * x):
                wrong.append(outputs)

    callers = [threading.Thread(target=calls) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize(
    ("steps", "brief"),
    [
        ([brief_step()], True),
        ([brief_step(), brief_step()], True),
        ([brief_step(0)], False),
        ([brief_step(), sleeping()], False),
        ([brief_step(1 << 18)], False),
        ([brief_step(1 << 16)] * 3, False),
    ],
)
def test_what_is_brief(steps: list[KernelStep], brief: bool) -> None:
    assert _is_brief(steps) is brief
