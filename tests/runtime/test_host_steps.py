"""Host steps between kernels, with an evaluator standing in for `graphc.ops.host`."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import ExecutionError, ToolchainError, UnsupportedError
from graphc.package import Copy, HostStep, HostTensor, KernelStep, Location, TensorSpec
from graphc.runtime import load
from tests.runtime.conftest import Build

F32 = "float32"


def evaluate(payload: bytes, arrays: Sequence[Any]) -> list[Any]:
    match payload:
        case b"square":
            return [arrays[0] ** 2]
        case b"nonzero":
            return [np.stack(np.nonzero(arrays[0])).T]
        case b"join":
            return [np.array(["".join(arrays[0])], object)]
        case b"sequence":
            return [[arrays[0], arrays[0] + 1]]
        case b"at":
            return [arrays[0][1]]
        case b"wrong shape":
            return [np.zeros((2, 2), np.float32)]
        case b"missing":
            assert arrays[1] is None
            return [arrays[0]]
        case b"unsupported":
            raise UnsupportedError("no such thing")
    raise ZeroDivisionError("boom")


@pytest.fixture(autouse=True)
def ops(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("graphc.ops.host")
    module.evaluate = evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "graphc.ops.host", module)


def host(payload: bytes, inputs: Sequence[HostTensor | None], outputs: Sequence[HostTensor], **more: Any) -> HostStep:
    return HostStep(payload.decode().title(), "", 13, payload, tuple(inputs), tuple(outputs), **more)


def arena(offset: int) -> HostTensor:
    return HostTensor(Location("arena", 0, offset), F32, (4,))


X, Y = TensorSpec("x", F32, (4,)), TensorSpec("y", F32, (4,))
DATA = np.arange(4, dtype=np.float32)


@pytest.fixture
def mixed(build: Build) -> Path:
    """y = 2 (2 x)², the square on the host."""
    steps = [
        KernelStep("scale", (Location("input"), Location("arena", 0, 0)), (4,), "scale"),
        host(b"square", [arena(0)], [arena(64)], origins=("Pow_1",)),
        KernelStep("scale", (Location("arena", 0, 64), Location("output")), (4,), "scale"),
    ]
    return build([X], [Y], steps, arena_size=128)


def test_kernels_and_host_steps_take_turns(mixed: Path) -> None:
    model = load(mixed)
    for scale in range(5):
        np.testing.assert_array_equal(model([DATA * scale])["y"], 2 * (2 * DATA * scale) ** 2)


def test_profile_covers_both_kinds(mixed: Path) -> None:
    profile = load(mixed).profile([DATA], runs=3)
    assert [step.kind for step in profile.steps] == ["kernel", "host", "kernel"]
    assert all(step.nanoseconds > 0 for step in profile.steps)
    starts = [start for start, _ in profile.timeline]
    assert starts == sorted(starts)
    assert "Square (host)" in str(profile)


def test_walking_takes_kernels_and_host_steps_in_order(mixed: Path) -> None:
    seen = [read(arena(64)).copy() for _, read in load(mixed).walk([DATA])]
    assert len(seen) == 3
    np.testing.assert_array_equal(seen[1], (2 * DATA) ** 2)


def test_host_steps_read_inputs_and_write_outputs(build: Build) -> None:
    step = host(b"square", [HostTensor(Location("input"), F32, (4,))], [HostTensor(Location("output"), F32, (4,))])
    np.testing.assert_array_equal(load(build([X], [Y], [step]))([DATA])["y"], DATA**2)


def test_an_output_whose_shape_is_known_only_afterwards(build: Build) -> None:
    step = host(b"nonzero", [HostTensor(Location("input"), F32, (4,))], [HostTensor(Location("output"), "int64")])
    model = load(build([X], [TensorSpec("y", "int64", ("n", 1))], [step], variant={"outputs": (None,)}))
    for values in ([0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]):
        result = model([np.array(values, np.float32)])["y"]
        np.testing.assert_array_equal(result, np.flatnonzero(values)[:, None])


def test_slots_pass_sequences_on_and_feed_kernels(build: Build) -> None:
    slots = [HostTensor(Location("object", index), F32) for index in range(2)]
    steps = [
        host(b"sequence", [HostTensor(Location("input"), F32, (4,))], [slots[0]]),
        host(b"at", [slots[0]], [slots[1]]),
        KernelStep("scale", (Location("object", 1), Location("output")), (4,)),
    ]
    np.testing.assert_array_equal(load(build([X], [Y], steps, variant={"objects": 2}))([DATA])["y"], 2 * (DATA + 1))


def test_a_slot_as_an_output(build: Build) -> None:
    slot = HostTensor(Location("object"), F32)
    step = host(b"sequence", [HostTensor(Location("input"), F32, (4,))], [slot])
    path = build([X], [Y], [step], variant={"objects": 1, "outputs": (None,), "copies": (Copy(0, slot),)})
    result = load(path)([DATA])["y"]
    assert isinstance(result, list)
    np.testing.assert_array_equal(result[1], DATA + 1)


def test_strings(build: Build) -> None:
    step = host(
        b"join", [HostTensor(Location("input"), "string", (3,))], [HostTensor(Location("output"), "string", (1,))]
    )
    model = load(build([TensorSpec("x", "string", (3,))], [TensorSpec("y", "string", (1,))], [step]))
    assert model([np.array(["a", "b", "cd"])])["y"].tolist() == ["abcd"]
    assert model([np.array(["ä", "", "x"], object)])["y"].tolist() == ["äx"]


def test_an_optional_input_is_none(build: Build) -> None:
    step = host(
        b"missing", [HostTensor(Location("input"), F32, (4,)), None], [HostTensor(Location("output"), F32, (4,))]
    )
    np.testing.assert_array_equal(load(build([X], [Y], [step]))([DATA])["y"], DATA)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"wrong shape", r"expected float32\[4\], the step made float32\[2, 2\]"),
        (b"unsupported", "no such thing"),
        (b"raises", "ZeroDivisionError: boom"),
    ],
)
def test_what_fails_names_its_node(build: Build, payload: bytes, message: str) -> None:
    step = host(payload, [arena(0)], [arena(64)], origins=("Node_5",))
    model = load(build([X], [Y], [step], arena_size=128))
    with pytest.raises(ExecutionError, match=message) as caught:
        model([DATA])
    assert caught.value.nodes == ("Node_5",)


def test_without_the_operators_the_error_says_what_to_install(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "graphc.ops.host", None)
    with pytest.raises(ToolchainError, match=r"pip install 'graphc\[cpu\]'"):
        load(mixed)
