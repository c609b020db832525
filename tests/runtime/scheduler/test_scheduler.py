"""The scheduler with threads and asyncio: every request gets its own answer, a refusal, a cancellation or an error."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from graphc.errors import (
    CircuitOpenError,
    DeadlineError,
    ExecutionError,
    InputError,
    OptionError,
    QueueFullError,
    RefusedError,
    SchedulerClosedError,
)
from graphc.runtime.scheduler import BatchReport, ModelSettings, Scheduler
from tests.runtime.scheduler.fakes import Fake, row


@contextmanager
def blocked(fake: Fake, scheduler: Scheduler) -> Iterator[Future[dict[str, Any]]]:
    """The model is in a call that lasts for as long as the block."""
    fake.gate.clear()
    first = scheduler.submit([row(-1)])
    assert fake.entered.acquire(timeout=10)
    try:
        yield first
    finally:
        fake.gate.set()


def serve(fake: Fake, **options: Any) -> Scheduler:
    return Scheduler(fake, calibration=fake.calibration, **options)


def test_a_call_answers_as_the_model_does() -> None:
    fake = Fake()
    with serve(fake, slo_ms=1000) as scheduler:
        np.testing.assert_array_equal(scheduler({"x": row(3)})["y"], row(6))
        np.testing.assert_array_equal(scheduler([row(4)])["y"], row(8))
        np.testing.assert_array_equal(scheduler([row(5, rows=4)])["y"], row(10, rows=4))


def test_a_lone_call_runs_in_the_caller_s_thread_and_its_arrays_are_not_copied() -> None:
    fake, seen = Fake(), []
    fake.error = lambda array: seen.append(array)
    x = row(1)
    with serve(fake) as scheduler:
        scheduler([x])
    assert seen[0] is x
    assert fake.callers == [threading.current_thread().name]


@pytest.mark.parametrize("axis", [0, 1])
def test_what_waits_together_runs_together(axis: int) -> None:
    fake = Fake(axis=axis)
    with serve(fake) as scheduler:
        fake.gate.clear()
        first = scheduler.submit([np.ones((1, 3) if axis == 0 else (3, 1), np.float32)])
        assert fake.entered.acquire(timeout=10)
        inputs = [row(n) if axis == 0 else row(n).reshape(3, 1) for n in range(7)]
        futures = [scheduler.submit([x]) for x in inputs]
        fake.gate.set()
        for x, future in zip(inputs, futures, strict=True):
            np.testing.assert_array_equal(future.result(10)["y"], 2 * x)
        first.result(10)
    rows = [shape[axis] for shape in fake.calls]
    assert rows[0] == 1
    assert sum(rows[1:]) >= 7
    assert len(rows) <= 4
    counts = scheduler.statistics()
    assert (counts.accepted, counts.answered, counts.rows) == (8, 8, 8)
    assert counts.padding == sum(rows) - 8


def test_rows_that_are_not_aligned_are_moved_once() -> None:
    """As tensors of a message are: into the batch, which is aligned; one alone is the executable's to see to."""
    fake, seen = Fake(), []
    fake.error = lambda array: seen.append(array)  # type: ignore[func-returns-value]
    inputs = [np.frombuffer(b"?" + row(n).tobytes(), np.float32, offset=1).reshape(1, 3) for n in range(4)]
    assert not any(x.flags.aligned for x in inputs)
    with serve(fake) as scheduler:
        scheduler.submit([inputs[0]]).result(10)
        with blocked(fake, scheduler):
            futures = [scheduler.submit([x]) for x in inputs]
            fake.gate.set()
            for n, future in enumerate(futures):
                np.testing.assert_array_equal(future.result(10)["y"], row(2 * n))
    assert seen[0] is inputs[0]
    assert all(array.flags.aligned for array in seen if len(array) > 1)
    assert any(len(array) > 1 for array in seen)


def test_padding_is_nobody_s() -> None:
    fake = Fake(batches=(1, 8), seconds=lambda rows: 0.002)
    with serve(fake) as scheduler, blocked(fake, scheduler):
        futures = [scheduler.submit([row(n)]) for n in range(5)]
        fake.gate.set()
        for n, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(10)["y"], row(2 * n))
    assert fake.calls == [(1, 3), (8, 3)]
    assert scheduler.statistics().padding == 3


def test_without_padding_batches_fill_their_buckets() -> None:
    fake = Fake(batches=(1, 4), seconds=lambda rows: 0.002)
    with serve(fake, padding=False) as scheduler, blocked(fake, scheduler):
        futures = [scheduler.submit([row(n)]) for n in range(7)]
        fake.gate.set()
        [future.result(10) for future in futures]
    assert sorted(fake.calls) == [(1, 3)] * 4 + [(4, 3)]


def test_rows_that_may_depend_on_each_other_never_share_a_call() -> None:
    fake = Fake(independent=False)
    with serve(fake) as scheduler, blocked(fake, scheduler):
        futures = [scheduler.submit([row(n)]) for n in range(3)]
        pair = scheduler.submit([row(9, rows=2)])
        fake.gate.set()
        [future.result(10) for future in futures]
        np.testing.assert_array_equal(pair.result(10)["y"], row(18, rows=2))
    assert sorted(fake.calls) == [(1, 3)] * 4 + [(2, 3)]


def test_each_shape_has_its_own_batches() -> None:
    fake = Fake(lengths=(3, 5))
    with serve(fake) as scheduler, blocked(fake, scheduler):
        lengths = [3, 5] * 4
        futures = [scheduler.submit([row(n, length)]) for n, length in enumerate(lengths)]
        fake.gate.set()
        for n, (length, future) in enumerate(zip(lengths, futures, strict=True)):
            np.testing.assert_array_equal(future.result(10)["y"], row(2 * n, length))
    assert len(fake.calls) <= 7


def test_large_answers_are_views_and_small_ones_copies() -> None:
    for length, views in ((3, False), (1 << 15, True)):
        fake = Fake(lengths=(3, length) if length != 3 else (3,))
        with serve(fake) as scheduler, blocked(fake, scheduler):
            futures = [scheduler.submit([row(n, length)]) for n in range(4)]
            fake.gate.set()
            answers = [future.result(10)["y"] for future in futures]
        assert {answer.base is not None for answer in answers} == {views}


def test_what_would_be_late_is_refused_with_when_to_come_back() -> None:
    fake = Fake(batches=(1,), seconds=lambda rows: 0.02)
    with serve(fake, slo_ms=50) as scheduler, blocked(fake, scheduler):
        refused = []
        for n in range(10):
            try:
                scheduler.submit([row(n)])
            except RefusedError as error:
                refused.append(error)
        assert len(refused) >= 8
        assert all(0 < error.retry_after < 1 for error in refused)
        assert "within 50 ms" in str(refused[0])
        assert "try again" in str(refused[0])
    assert scheduler.statistics().refused["deadline"] == len(refused)


def test_a_full_queue_refuses() -> None:
    fake = Fake(batches=(1,))
    with serve(fake, max_queue_size=3) as scheduler, blocked(fake, scheduler):
        for n in range(3):
            scheduler.submit([row(n)])
        with pytest.raises(QueueFullError, match="3 requests for fake wait already") as caught:
            scheduler.submit([row(4)])
        assert caught.value.retry_after > 0


def test_a_cancelled_request_never_runs() -> None:
    fake = Fake(batches=(1,))
    with serve(fake) as scheduler, blocked(fake, scheduler) as first:
        futures = [scheduler.submit([row(n)]) for n in range(4)]
        assert futures[1].cancel()
        assert futures[1].cancel()
        assert not first.cancel(), "it runs"
        fake.gate.set()
        for n in (0, 2, 3):
            np.testing.assert_array_equal(futures[n].result(10)["y"], row(2 * n))
        with pytest.raises(CancelledError):
            futures[1].result(10)
    assert len(fake.calls) == 4
    assert scheduler.statistics().cancelled == 1


def test_a_limit_of_its_own_is_kept() -> None:
    fake = Fake(batches=(1,), seconds=lambda rows: 0.001)
    with serve(fake) as scheduler, blocked(fake, scheduler):
        future = scheduler.submit([row(1)], timeout_ms=30)
        time.sleep(0.05)
        fake.gate.set()
        with pytest.raises(DeadlineError, match="timeout_ms"):
            future.result(10)
    assert fake.calls == [(1, 3)]
    with serve(fake) as scheduler, pytest.raises(OptionError, match="timeout_ms is -1"):
        scheduler([row(1)], timeout_ms=-1)


def test_an_error_of_the_model_is_its_caller_s() -> None:
    fake = Fake(batches=(1,))
    fake.error = lambda array: ExecutionError("index out of range", nodes=("Gather_7",))
    with serve(fake) as scheduler:
        with pytest.raises(ExecutionError, match="Gather_7"):
            scheduler([row(1)])
        fake.error = lambda array: ZeroDivisionError("what?")
        with pytest.raises(ExecutionError, match="ZeroDivisionError: what"):
            scheduler([row(1)])
        fake.error = lambda array: None
        np.testing.assert_array_equal(scheduler([row(2)])["y"], row(4))


def test_one_bad_request_does_not_fail_its_neighbours() -> None:
    fake = Fake()
    fake.error = lambda array: ExecutionError("bad row") if (array == 2).any() else None
    with serve(fake) as scheduler, blocked(fake, scheduler):
        futures = [scheduler.submit([row(n)]) for n in range(4)]
        fake.gate.set()
        for n, future in enumerate(futures):
            if n == 2:
                with pytest.raises(ExecutionError, match="bad row"):
                    future.result(10)
            else:
                np.testing.assert_array_equal(future.result(10)["y"], row(2 * n))
    assert scheduler.statistics().failed == 1


def test_a_model_that_keeps_failing_is_left_alone_and_tried_again() -> None:
    fake = Fake(batches=(1,))
    fake.error = lambda array: ExecutionError("broken")
    with serve(fake, failures=2) as scheduler:
        for _ in range(2):
            with pytest.raises(ExecutionError, match="broken"):
                scheduler([row(1)])
        with pytest.raises(CircuitOpenError, match="failed 2 times in a row") as caught:
            scheduler([row(1)])
        assert 0.5 < caught.value.retry_after <= 1
        assert len(fake.calls) == 2
        fake.error = lambda array: None
        time.sleep(caught.value.retry_after + 0.01)
        scheduler([row(1)])
        scheduler([row(1)])
    assert scheduler.statistics().refused == {"circuit_open": 1}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": row(1)}, "unknown input 'z'"),
        ([row(1).astype(np.int32)], "expected dtype float32"),
        ([row(1, rows=9)], "batch is 9; a request to this scheduler has 1 to 8 rows"),
        ([row(1, rows=0)], "batch is 0"),
    ],
)
def test_wrong_inputs_are_refused_before_they_are_queued(inputs: Any, message: str) -> None:
    fake = Fake()
    with serve(fake) as scheduler, pytest.raises(InputError, match=message):
        scheduler.submit(inputs)
    assert scheduler.statistics().accepted == 0


def test_closing_answers_what_waits() -> None:
    fake = Fake(batches=(1,), seconds=lambda rows: 0.005)
    scheduler = serve(fake)
    futures = [scheduler.submit([row(n)]) for n in range(6)]
    scheduler.close()
    for n, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(0)["y"], row(2 * n))
    with pytest.raises(SchedulerClosedError):
        scheduler([row(1)])
    scheduler.close()


def test_closing_at_once_fails_what_waits() -> None:
    fake = Fake(batches=(1,))
    scheduler = serve(fake)
    with blocked(fake, scheduler) as first:
        futures = [scheduler.submit([row(n)]) for n in range(4)]
        closer = threading.Thread(target=lambda: scheduler.close(drain=False))
        closer.start()
        for future in futures:
            with pytest.raises(SchedulerClosedError):
                future.result(10)
    closer.join(10)
    assert not closer.is_alive()
    np.testing.assert_array_equal(first.result(10)["y"], row(-2))


def test_asyncio() -> None:
    fake = Fake(seconds=lambda rows: 0.002)

    async def main() -> list[Any]:
        with serve(fake, slo_ms=2000) as scheduler:
            return await asyncio.gather(*(scheduler.infer([row(n)]) for n in range(30)))

    for n, answer in enumerate(asyncio.run(main())):
        np.testing.assert_array_equal(answer["y"], row(2 * n))
    assert len(fake.calls) < 30


def test_a_cancelled_task_takes_its_request_back() -> None:
    fake = Fake(batches=(1,))

    async def main() -> None:
        with serve(fake) as scheduler:
            with blocked(fake, scheduler):
                task = asyncio.create_task(scheduler.infer([row(1)]))
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert scheduler.statistics().cancelled == 1

    asyncio.run(main())
    assert len(fake.calls) == 1


def test_many_threads_each_get_their_own_answer() -> None:
    fake = Fake(lengths=(3, 4), seconds=lambda rows: 0.0005)
    wrong: list[Any] = []
    ends = {"answered": 0, "refused": 0, "cancelled": 0}
    lock = threading.Lock()

    def client(number: int, scheduler: Scheduler) -> None:
        rng = np.random.default_rng(number)
        for turn in range(40):
            x = row(1000 * number + turn, int(rng.integers(3, 5)), int(rng.integers(1, 4)))
            try:
                if turn % 5 == 4:
                    future = scheduler.submit([x], priority=int(rng.integers(-1, 2)))
                    how = "cancelled" if future.cancel() else "answered"
                    answer = None if how == "cancelled" else future.result(10)["y"]
                else:
                    how, answer = "answered", scheduler([x])["y"]
            except RefusedError:
                how, answer = "refused", None
            if answer is not None and not np.array_equal(answer, 2 * x):
                wrong.append((x, answer))
            with lock:
                ends[how] += 1

    with serve(fake, slo_ms=20) as scheduler:
        threads = [threading.Thread(target=client, args=(n, scheduler)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not wrong
    counts = scheduler.statistics()
    assert sum(ends.values()) == 320
    assert counts.answered == ends["answered"]
    assert counts.cancelled == ends["cancelled"]
    assert sum(counts.refused.values()) == ends["refused"]
    assert counts.accepted == ends["answered"] + ends["cancelled"]


def test_several_devices_run_at_once() -> None:
    fake = Fake(batches=(1,))
    try:
        scheduler = serve(fake, devices=2)
    except OptionError:
        pytest.skip("this machine has one processor")
    with scheduler:
        fake.gate.clear()
        futures = [scheduler.submit([row(n)]) for n in range(2)]
        assert fake.entered.acquire(timeout=10)
        assert fake.entered.acquire(timeout=10), "the second runs while the first does"
        fake.gate.set()
        [future.result(10) for future in futures]
    assert {name[:15] for name in fake.callers} == {"graphc-device-0", "graphc-device-1"}


def test_several_models_by_name() -> None:
    first, second = Fake(), Fake(lengths=(5,))
    models = {"a": first, "b": second}
    with Scheduler(models, {"a": ModelSettings(slo_ms=100)}, calibration={}) as scheduler:
        assert scheduler.models == ("a", "b")
        scheduler([row(1)], model="a")
        scheduler([row(1, 5)], model="b")
        with pytest.raises(OptionError, match="say which"):
            scheduler([row(1)])
        with pytest.raises(OptionError, match="no model 'c'"):
            scheduler([row(1)], model="c")
    assert scheduler.statistics("a").answered == scheduler.statistics("b").answered == 1


def test_latencies_are_learnt() -> None:
    fake = Fake(batches=(1,), seconds=lambda rows: 0.004)
    wrong = {"fake": {shapes: type(cost)(4e-4, 4e-4) for shapes, cost in fake.calibration["fake"].items()}}
    with Scheduler(fake, calibration=wrong) as scheduler:
        for _ in range(20):
            scheduler([row(1)])
        ((_, table),) = scheduler.latencies().items()
    assert table[1] >= 0.004


def test_a_batch_waits_for_others_only_in_company() -> None:
    fake = Fake(batches=(1, 8))
    with serve(fake, batch_timeout_micros=200_000, slo_ms=5000) as scheduler:
        start = time.perf_counter()
        for _ in range(10):
            scheduler([row(1)])
        assert time.perf_counter() - start < 0.2, "a lone caller never waits"
        with blocked(fake, scheduler):
            futures = [scheduler.submit([row(n)]) for n in range(20)]
            fake.gate.set()
            [future.result(10) for future in futures]
        futures = []
        for n in range(8):
            futures.append(scheduler.submit([row(n)]))
            time.sleep(0.005)
        [future.result(10) for future in futures]
    assert fake.calls[-1] == (8, 3)


def test_an_observer_sees_it_all() -> None:
    events: list[Any] = []

    class Watch:
        def accepted(self, model: str) -> None:
            events.append(("accepted", model))

        def refused(self, model: str, reason: str) -> None:
            events.append(("refused", reason))

        def cancelled(self, model: str) -> None:
            events.append("cancelled")

        def finished(self, model: str, report: BatchReport) -> None:
            events.append((report.bucket, report.rows, report.late, report.failed))

    fake = Fake()
    with serve(fake, observer=Watch()) as scheduler:
        scheduler([row(1)])
    assert events == [("accepted", "fake"), (1, 1, 0, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slo_ms": 0}, "slo_ms is 0"),
        ({"slo": 3}, "unknown among slo"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"share": -1.0}, "share is -1"),
        ({"devices": 0}, "devices is 0"),
        ({"devices": 10_000}, "10000 devices"),
        ({"devices": [[0], [0]]}, "processor 0 is in two devices"),
        ({"devices": [[100_000]]}, "processor 100000 is not one"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros is -1"),
        ({"memory_limit": -1}, "memory_limit is -0.0 MB"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        serve(Fake(), **options)


def test_a_shape_that_is_new_is_met_without_blocking_the_event_loop() -> None:
    fake = Fake(lengths=(3, 5))
    known = fake.variants
    fake.variants = known[:4]

    async def main() -> Any:
        with serve(fake) as scheduler:
            fake.variants = known
            return await scheduler.infer([row(1, 5)])

    np.testing.assert_array_equal(asyncio.run(main())["y"], row(2, 5))
    # The last is the request itself, which is quick.
    assert threading.current_thread().name not in fake.callers[:-1]


def test_callers_whose_batch_waits_are_answered_when_it_is_full_or_due() -> None:
    fake = Fake(batches=(1, 4))
    with (
        serve(fake, batch_timeout_micros=30_000, preferred_batch_sizes=(4,)) as scheduler,
        ThreadPoolExecutor(3) as pool,
    ):
        with blocked(fake, scheduler):
            futures = [scheduler.submit([row(n)]) for n in range(40)]
            fake.gate.set()
            [future.result(10) for future in futures]
        answers = [pool.submit(scheduler, [row(n)]) for n in range(3)]
        for n, answer in enumerate(answers):
            np.testing.assert_array_equal(answer.result(10)["y"], row(2 * n))


def test_who_is_told_of_an_answer_may_wait_for_another() -> None:
    def again(_: Future[Any]) -> None:
        told.append(scheduler([row(2)]))

    told: list[Any] = []
    with serve(Fake()) as scheduler:
        first = scheduler.submit([row(1)])
        first.add_done_callback(again)
        first.result(timeout=10)
        deadline = time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            time.sleep(0.001)
    assert len(told) == 1
