"""Programs that are more than one run of kernels: host steps, branches, loops, copies; and launches of every kind."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import ExecutionError
from graphc.package import (
    Body,
    BranchStep,
    Carried,
    Copy,
    CopyStep,
    HostStep,
    HostTensor,
    KernelStep,
    Lane,
    Location,
    LoopStep,
    RaiseStep,
    TensorSpec,
    WeightsBuilder,
)
from graphc.runtime import load
from tests.runtime.cuda.conftest import Build, Fake

F32 = "float32"
X, Y = TensorSpec("x", F32, (4,)), TensorSpec("y", F32, (4,))
DATA = np.arange(4, dtype=np.float32)
IN, OUT = Location("input"), Location("output")


def evaluate(payload: bytes, arrays: Sequence[Any]) -> list[Any]:
    match payload:
        case b"square":
            return [arrays[0] ** 2]
        case b"same":
            return [arrays[0]]
        case b"positive":
            return [arrays[0][arrays[0] > 0]]
        case b"join":
            return [np.array(["".join(arrays[0])], object)]
        case b"pair":
            return [[arrays[0], arrays[1]]]
        case b"second":
            return [arrays[0][1]]
    raise ZeroDivisionError("boom")


@pytest.fixture(autouse=True)
def ops(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("graphc.ops.host")
    module.evaluate = evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "graphc.ops.host", module)


def at(number: int, *, shape: tuple[int, ...] = (4,), dtype: str = F32) -> HostTensor:
    return HostTensor(Location("arena", 0, 256 * number), dtype, shape)


def arena(number: int) -> Location:
    return Location("arena", 0, 256 * number)


def slot(number: int) -> HostTensor:
    return HostTensor(Location("object", number), F32)


def host(payload: bytes, inputs: Sequence[HostTensor | None], outputs: Sequence[HostTensor], **more: Any) -> HostStep:
    return HostStep(payload.decode().title(), "", 13, payload, tuple(inputs), tuple(outputs), **more)


def scale(source: Location, target: Location, count: int = 4) -> KernelStep:
    return KernelStep("scale", (source, target), (count,), "scale", (f"Mul_{target.offset}",))


def run(path: Path, inputs: list[Any], expected: Any, calls: int = 4) -> None:
    """The first call is eager, the second captures, the others replay."""
    with load(path) as model:
        for _ in range(calls):
            np.testing.assert_array_equal(model(inputs)["y"], expected)


@pytest.fixture
def mixed(build: Build) -> Path:
    """y = 2 (2 x)², the square on the host."""
    steps = [scale(IN, arena(0)), host(b"square", [at(0)], [at(1)], origins=("Pow_1",)), scale(arena(1), OUT)]
    return build([X], [Y], steps, arena_size=512)


def test_kernels_and_host_steps_take_turns(mixed: Path, fake: Fake) -> None:
    with load(mixed) as model:
        for number in range(5):
            np.testing.assert_array_equal(model([DATA * number])["y"], 2 * (2 * DATA * number) ** 2)
        assert fake.calls("cuStreamBeginCapture") == 2, "a graph before the host step, and one after it"
        assert fake.calls("cuGraphLaunch") == 8


def test_host_steps_at_both_ends_and_in_a_row(build: Build, fake: Fake) -> None:
    x, y = (HostTensor(place, F32, (4,)) for place in (IN, OUT))
    steps = [host(b"square", [x], [at(0)]), host(b"square", [at(0)], [at(1)]), scale(arena(1), arena(2))]
    steps.append(host(b"square", [at(2)], [y]))
    path = build([X], [Y], steps, arena_size=1024)
    run(path, [DATA], (2 * DATA**4) ** 2)
    with load(path) as model:
        for _ in range(3):
            found = model([fake.array(DATA)], device_outputs=True)["y"]
            np.testing.assert_array_equal(found.numpy(), (2 * DATA**4) ** 2)


def test_graphs_of_many_runs_are_all_kept(build: Build, fake: Fake) -> None:
    """y = x 2^60, every doubling followed by a host step."""
    steps: list[KernelStep | HostStep] = []
    for number in range(60):
        steps += [scale(arena(0) if number else IN, arena(1)), host(b"same", [at(1)], [at(0)])]
    steps.append(KernelStep("through", (arena(0), OUT), (4,)))
    run(build([X], [Y], steps, arena_size=512), [DATA], DATA * 2.0**60)
    assert fake.calls("cuStreamBeginCapture") == 61


def test_host_steps_alone(build: Build, fake: Fake) -> None:
    x, y = (HostTensor(place, F32, (4,)) for place in (IN, OUT))
    run(build([X], [Y], [host(b"square", [x], [y])]), [DATA], DATA**2)


def test_what_a_host_step_keeps_is_not_overwritten_by_the_next(build: Build, fake: Fake) -> None:
    """It answers its operand, which was copied to memory that the next host step's operands are copied to."""
    steps = [
        scale(IN, arena(0)),
        host(b"same", [at(0)], [slot(0)]),
        scale(arena(0), arena(1)),
        host(b"same", [at(1)], [slot(1)]),
        host(b"pair", [slot(0), slot(1)], [slot(2)]),
        host(b"second", [slot(2)], [slot(3)]),
    ]
    specs = [TensorSpec("y", F32, (4,)), TensorSpec("z", F32, (4,))]
    copies = (Copy(0, slot(0)), Copy(1, slot(3)))
    path = build([X], specs, steps, arena_size=512, variant={"objects": 4, "copies": copies})
    with load(path) as model:
        for _ in range(3):
            found = model([DATA])
            np.testing.assert_array_equal(found["y"], 2 * DATA)
            np.testing.assert_array_equal(found["z"], 4 * DATA)
            np.testing.assert_array_equal(model([DATA], device_outputs=True)["z"].numpy(), 4 * DATA)


def test_kernels_read_what_host_steps_leave_in_slots(build: Build, fake: Fake) -> None:
    steps = [scale(IN, arena(0)), host(b"positive", [at(0)], [slot(0)])]
    steps.append(KernelStep("sum", (Location("object"), OUT), (3,), "sum"))
    path = build([X], [TensorSpec("y", F32, (1,))], steps, arena_size=256, variant={"objects": 1})
    with load(path) as model:
        for number in range(1, 5):
            np.testing.assert_array_equal(model([DATA * number])["y"], [12 * number])


def test_outputs_whose_shapes_only_the_call_tells_and_strings(build: Build, fake: Fake) -> None:
    steps = [
        scale(IN, arena(0)),
        host(b"positive", [at(0)], [HostTensor(OUT, F32)]),
        host(
            b"join",
            [HostTensor(Location("input", 1), "string", (2,))],
            [HostTensor(Location("output", 1), "string", (1,))],
        ),
    ]
    specs = [X, TensorSpec("s", "string", (2,))], [TensorSpec("y", F32, ("n",)), TensorSpec("t", "string", (1,))]
    path = build(*specs, steps, arena_size=256, variant={"outputs": (None, (1,))})
    with load(path) as model:
        for _ in range(3):
            found = model([DATA, np.array(["a", "b"], object)], device_outputs=True)
            np.testing.assert_array_equal(found["y"], [2, 4, 6])
            assert found["t"].tolist() == ["ab"]


def test_a_host_step_that_fails(build: Build, fake: Fake) -> None:
    path = build([X], [Y], [scale(IN, arena(0)), host(b"boom", [at(0)], [at(1)], origins=("N_3",))], arena_size=512)
    with load(path) as model:
        for _ in range(3):
            with pytest.raises(ExecutionError, match=r"step 1 \(Boom\) failed: ZeroDivisionError: boom") as caught:
                model([DATA])
            assert caught.value.nodes == ("N_3",)
        del caught


def test_outputs_that_no_step_writes_are_copied(build: Build, fake: Fake) -> None:
    weights = WeightsBuilder(256)
    place = weights.add(DATA + 7)
    specs = [TensorSpec(name, F32, (4,)) for name in "yzwv"]
    sources = [HostTensor(Location("arena"), F32, (4,)), HostTensor(IN, F32, (4,)), HostTensor(place, F32, (4,))]
    sources.append(HostTensor(OUT, F32, (4,)))
    copies = tuple(Copy(number, source) for number, source in enumerate(sources[1:], 1))
    path = build([X], specs, [scale(IN, OUT)], arena_size=256, weights=weights, variant={"copies": copies})
    with load(path) as model:
        for number in range(4):
            x = DATA * number
            found = model([fake.array(x) if number % 2 else x], device_outputs=["w"])
            for name, expected in {"y": 2 * x, "z": x, "w": DATA + 7, "v": 2 * x}.items():
                np.testing.assert_array_equal(np.asarray(found[name]), expected)


def test_launches_of_every_kind(build: Build, fake: Fake) -> None:
    """Scratch memory, much shared memory, clusters, and grids over a step's dimensions, which may be empty."""
    for symbol in ("through", "shared", "cluster", "grid"):
        path = build([X], [Y], [KernelStep(symbol, (IN, OUT), (4,))], name=symbol)
        run(path, [DATA], DATA if symbol == "through" else 2 * DATA)
    empty = build([TensorSpec("x", F32, (0,))], [TensorSpec("y", F32, (0,))], [KernelStep("grid", (IN, OUT), (0,))])
    before = fake.launches
    run(empty, [np.zeros(0, np.float32)], np.zeros(0, np.float32))
    assert fake.launches == before
    assert fake.calls("cuLaunchKernelEx") > 0 and fake.calls("cuFuncSetAttribute") == 1


@pytest.mark.parametrize("x", [1.0, 9.0])
def test_branches(build: Build, fake: Fake, x: float) -> None:
    """y = 2 x where x < 5, else x + x + x."""
    bodies = (Body((scale(IN, OUT, 1),)), Body((scale(IN, arena(1), 1), KernelStep("add", (arena(1), IN, OUT), (1,)))))
    steps = [
        KernelStep("below", (IN, arena(0)), (5,)),
        BranchStep(arena(0), 0, 1, (HostTensor(OUT, F32, (1,)),), "if", ("If_0",)),
    ]
    one = [TensorSpec("x", F32, (1,))], [TensorSpec("y", F32, (1,))]
    path = build(*one, steps, arena_size=512, variant={"bodies": bodies})
    run(path, [np.array([x], np.float32)], [2 * x if x < 5 else 3 * x])


def test_a_branch_that_fits_no_shape(build: Build, fake: Fake) -> None:
    bodies = (Body((RaiseStep("x is small", origins=("If_0",)),)), Body((scale(IN, OUT, 1),)))
    steps = [KernelStep("below", (IN, arena(0)), (5,)), BranchStep(arena(0), 0, 1)]
    one = [TensorSpec("x", F32, (1,))], [TensorSpec("y", F32, (1,))]
    with load(build(*one, steps, arena_size=512, variant={"bodies": bodies})) as model:
        for _ in range(3):
            with pytest.raises(ExecutionError, match="x is small"):
                model([np.array([1], np.float32)])
            np.testing.assert_array_equal(model([np.array([7], np.float32)])["y"], [14])


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 9])
def test_loops_carry_scan_and_stop(build: Build, fake: Fake, limit: int) -> None:
    """s = 1; up to `limit` times (7 at most): s += x[i], z[i] = 2 s, for as long as s < 20."""
    inputs = [TensorSpec("x", F32, (7, 4)), TensorSpec("n", "int64", ())]
    outputs = [TensorSpec("y", F32, (1,)), TensorSpec("z", F32, (7, 4))]
    weights = WeightsBuilder(256)
    one = weights.add(np.ones(1, np.float32))
    slots = [Location("slot", number) for number in range(4)]
    body = Body(
        (
            KernelStep("add", (slots[0], slots[2], slots[1]), (1,)),
            KernelStep("scale", (slots[1], slots[3]), (1,)),
            CopyStep(slots[1], arena(3), 4),
            KernelStep("below", (arena(3), arena(2)), (20,)),
        )
    )
    loop = LoopStep(
        0,
        7,
        limit=Location("input", 1),
        counter=arena(4),
        going_on=arena(5),
        kept=arena(2),
        carried=(Carried(one, OUT, arena(1), 0, 1, 4),),
        lanes=(Lane(IN, 2, 0, 16), Lane(Location("output", 1), 3, 0, 16)),
    )
    extents = {"bodies": (body,), "slots": (4, 4, 4, 4)}
    path = build(inputs, outputs, [loop], arena_size=2048, weights=weights, variant=extents)
    x = np.repeat(np.arange(7, dtype=np.float32)[:, None], 4, 1)
    s, z = 1.0, []
    for i in range(min(limit, 7)):
        s += float(x[i, 0])
        z.append(2 * s)
        if s >= 20:
            break
    with load(path) as model:
        for _ in range(3):
            found = model([x, np.array(limit)])
            np.testing.assert_array_equal(found["y"], [s])
            np.testing.assert_array_equal(found["z"][: len(z), 0], z)


def test_profiles_time_kernels_by_events_and_host_steps_by_the_clock(mixed: Path, fake: Fake) -> None:
    with load(mixed) as model:
        profile = model.profile([DATA], runs=5)
        assert [step.kind for step in profile.steps] == ["kernel", "host", "kernel"]
        # The fake driver's kernels take 5 µs each.
        assert [profile.steps[index].nanoseconds for index in (0, 2)] == [5000, 5000]
        assert profile.steps[1].nanoseconds > 0
        assert str(profile).startswith(f"{profile.nanoseconds / 1e3:.1f} µs a run (median of 5), 3 steps, cuda:0\n")
        assert profile.to_json()["device"] == "cuda:0"
        starts = [start for start, _ in profile.timeline]
        assert starts == sorted(starts)
        np.testing.assert_array_equal(model([DATA])["y"], 2 * (2 * DATA) ** 2)


def test_walking_shows_what_each_step_left(mixed: Path, fake: Fake) -> None:
    with load(mixed) as model:
        for _ in range(2):
            seen = [(index, read(at(0)), read(HostTensor(OUT, F32, (4,)))) for index, read in model.walk([DATA])]
            assert [index for index, _, _ in seen] == [0, 1, 2]
            np.testing.assert_array_equal(seen[0][1], 2 * DATA)
            np.testing.assert_array_equal(seen[2][2], 2 * (2 * DATA) ** 2)
            next(iter(model.walk([DATA])))  # left half way
            np.testing.assert_array_equal(model([DATA])["y"], 2 * (2 * DATA) ** 2)
