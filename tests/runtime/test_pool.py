"""The thread pool through the kernels that use it: every task once, from many callers, across forks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from graphc.backends.tvm.link import link
from graphc.errors import ExecutionError
from graphc.package import KernelStep, Location, TensorSpec
from graphc.runtime import load
from tests.runtime.conftest import KERNELS, SYMBOLS, Build, compile_c

COUNTS = TensorSpec("counts", "int64", (65,))


def counter(build: Build, tasks: int, steps: int = 1) -> Path:
    """Counts how often each task runs, and in [64] how many it was told there are."""
    step = KernelStep("count", (Location("output"),), (tasks,))
    return build([], [COUNTS], [step] * steps, name=f"count{tasks}x{steps}")


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("tasks", [0, 1, 2, 3, 4, 5, 31, 64])
def test_every_task_runs_once(build: Build, tasks: int, threads: int) -> None:
    model = load(counter(build, tasks), threads=threads)
    for _ in range(200):
        counts = np.zeros(65, np.int64)
        model([], out={"counts": counts})
        expected = tasks or threads
        assert counts[64] == expected
        assert counts[:64].tolist() == [1] * expected + [0] * (64 - expected)


def test_threads_are_a_limit_even_where_the_pool_is_larger(build: Build) -> None:
    path = build([], [TensorSpec("ids", "int64", (8,))], [KernelStep("who", (Location("output"),))])
    many, two = load(path, threads=4), load(path, threads=2)
    ids = np.zeros(8, np.int64)
    many([], out={"ids": ids})
    assert np.count_nonzero(ids) == 4
    seen = set()
    for _ in range(20):
        ids = np.zeros(8, np.int64)
        two([], out={"ids": ids})
        assert np.count_nonzero(ids) == 2
        assert ids[0] == threading.get_native_id(), "the caller takes part"
        seen.add(ids[1])
    assert len(seen - {0}) >= 1


def test_loops_inside_of_tasks_run_serially(build: Build) -> None:
    spec = TensorSpec("counts", "int64", (130,))
    model = load(build([], [spec], [KernelStep("nested", (Location("output"),))]), threads=2)
    for _ in range(100):
        counts = np.zeros(130, np.int64)
        model([], out={"counts": counts})
        for row in counts.reshape(2, 65):
            assert row.tolist() == [1] * 4 + [0] * 60 + [4]


@pytest.mark.parametrize("task", range(8))
def test_a_failing_task_fails_the_step(build: Build, task: int) -> None:
    path = build([], [], [KernelStep("fail_task", (), (task,), "gather", ("Gather_7",))])
    model = load(path, threads=3)
    with pytest.raises(ExecutionError, match=r"step 0 \(gather\) failed with status 7 \[node 'Gather_7'\]"):
        model([])


def test_many_callers_share_the_pool(build: Build) -> None:
    """More callers than threads and cores, each with loops of other sizes; none waits for another's work."""
    models = [load(counter(build, tasks, steps=20), threads=threads) for tasks, threads in [(0, 2), (3, 4), (64, 3)]]

    def call(index: int) -> None:
        model = models[index % len(models)]
        for _ in range(100):
            counts = np.zeros(65, np.int64)
            model([], out={"counts": counts})
            tasks = counts[64]
            # How many tasks "as many as threads" is depends on who else is calling; each runs once in each step.
            assert index % len(models) == 0 or (counts[:tasks] == 20).all()
            assert counts[0] == 20

    with ThreadPoolExecutor(12) as executor:
        list(executor.map(call, range(12)))


def test_right_answers_from_many_threads(affine: Path) -> None:
    model = load(affine, threads=2)
    w = np.arange(256, dtype=np.float32).reshape(4, 64)

    def call(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(200):
            x = generator.random((4, 64), np.float32)
            np.testing.assert_array_equal(model({"x": x})["y"], 2 * x + w + 1)

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(call, range(8)))
    assert model.memory <= 8 * 4096


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked child; its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_with_workers_of_its_own(build: Build) -> None:
    path = build([], [TensorSpec("ids", "int64", (8,))], [KernelStep("who", (Location("output"),))])
    model = load(path, threads=3)

    def distinct() -> int:
        ids = np.zeros(8, np.int64)
        model([], out={"ids": ids})
        return len(set(ids[:3].tolist()))

    def check() -> None:
        assert max(distinct() for _ in range(20)) == 3

    check()
    assert in_child(check) == 0
    assert in_child(lambda: None if in_child(check) == 0 else sys.exit(1)) == 0, "a child of a child"
    check()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forking_while_others_call(build: Build) -> None:
    model = load(counter(build, 0, steps=50), threads=2)
    stop = threading.Event()

    def keep_calling() -> None:
        while not stop.is_set():
            model([])

    def check() -> None:
        for _ in range(50):
            counts = np.zeros(65, np.int64)
            model([], out={"counts": counts})
            assert counts[0] == 50

    callers = [threading.Thread(target=keep_calling) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        assert [in_child(check) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def test_packages_of_other_code_share_the_first_ones_pool(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = KERNELS + "int32_t other(const int64_t* dims) { return 0; }"
    (folder / "model.so").write_bytes(link({"kernels": compile_c(other, folder)}, exports=[*SYMBOLS, "other"]))
    step = KernelStep("who", (Location("output"),))
    spec = TensorSpec("ids", "int64", (8,))
    first = build([], [spec], [step], name="first")
    second = build([], [spec], [step], name="second", code=(folder / "model.so").read_bytes())
    script = f"""
import os, numpy as np
from graphc.runtime import load
first, second = load({str(first)!r}, threads=3), load({str(second)!r}, threads=3)
for _ in range(10):
    for model in (first, second):
        ids = np.zeros(8, np.int64)
        model([], out={{"ids": ids}})
        assert np.count_nonzero(ids) == 3
assert first._programs._unit.library is not second._programs._unit.library
assert first._programs._unit.library.workers == second._programs._unit.library.workers == 2
# NumPy's own threads, if any, are there in both counts.
print(len(os.listdir("/proc/self/task")))
"""
    baseline = subprocess.run(
        [sys.executable, "-c", 'import os, graphc.runtime; print(len(os.listdir("/proc/self/task")))'],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) - int(baseline.stdout) == 2


def test_idle_workers_sleep(build: Build) -> None:
    """A process that has stopped calling uses no CPU time."""
    model = load(counter(build, 0), threads=4)
    model([])
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
    counts = np.zeros(65, np.int64)
    model([], out={"counts": counts})
    assert counts[:4].tolist() == [1] * 4, "and they wake up again"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_a_worker_on_its_callers_core_is_sent_to_another(build: Build) -> None:
    """The system's balancer would leave it there for longer than a call of a small model takes."""
    who = build([], [TensorSpec("ids", "int64", (8,))], [KernelStep("who", (Location("output"),))])
    # In a process of its own: where its threads may run is not for other tests to inherit.
    script = f"""
import os, time, numpy as np
from graphc.runtime import load
who, count = load({str(who)!r}, threads=2), load({str(counter(build, 2, steps=50))!r}, threads=2)
ids = np.zeros(8, np.int64)
while len(set(ids[:2].tolist())) < 2:
    who([], out={{"ids": ids}})
worker = ids[1]
everywhere = os.sched_getaffinity(0)
core = min(everywhere)
os.sched_setaffinity(worker, {{core}})
deadline = time.monotonic() + 30
while os.sched_getaffinity(worker) == {{core}} and time.monotonic() < deadline:
    os.sched_setaffinity(0, {{core}})
    os.sched_setaffinity(0, everywhere)
    count([])
assert core not in os.sched_getaffinity(worker), "it waits where its caller works"
assert os.sched_getaffinity(worker) == everywhere - {{core}}
assert os.sched_getaffinity(0) == everywhere
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
