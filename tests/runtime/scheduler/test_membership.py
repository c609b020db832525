"""Models come and go while others are served."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from graphc.errors import OptionError, SchedulerClosedError
from graphc.runtime.scheduler import ModelSettings, Scheduler
from tests.runtime.scheduler.fakes import Fake, row


def add(scheduler: Scheduler, name: str, fake: Fake, settings: ModelSettings | None = None, **options: Any) -> Any:
    return scheduler.add(name, fake, settings, calibration=fake.calibration["fake"], **options)


def test_a_scheduler_starts_empty_and_serves_what_is_added() -> None:
    a, b = Fake(), Fake()
    with Scheduler({}) as scheduler:
        with pytest.raises(OptionError, match="there is none"):
            scheduler([row(1)], model="a")
        add(scheduler, "a", a)
        np.testing.assert_array_equal(scheduler([row(1)])["y"], row(2))
        add(scheduler, "b", b)
        np.testing.assert_array_equal(scheduler([row(3)], model="b")["y"], row(6))
        assert scheduler.models == ("a", "b")
        assert scheduler.remove("a")
        with pytest.raises(OptionError, match="there is no model 'a'"):
            scheduler([row(1)], model="a")
        np.testing.assert_array_equal(scheduler([row(4)])["y"], row(8))


def test_a_model_that_is_replaced_answers_what_it_has() -> None:
    old, new = Fake(), Fake()
    with Scheduler({}) as scheduler:
        first = add(scheduler, "m", old)
        old.gate.clear()
        waiting = [scheduler.submit([row(n)]) for n in range(5)]
        assert old.entered.acquire(timeout=10)
        second = add(scheduler, "m", new)
        removal = ThreadPoolExecutor(1).submit(scheduler.remove, first)
        while not first.leaving:
            time.sleep(0.001)
        with pytest.raises(SchedulerClosedError, match="served no more"):
            scheduler.submit([row(9)], model=first)
        late = scheduler.submit([row(7)])
        old.gate.set()
        assert removal.result(10) is True
        for n, future in enumerate(waiting):
            np.testing.assert_array_equal(future.result(10)["y"], row(2 * n))
        np.testing.assert_array_equal(late.result(10)["y"], row(14))
        assert new.calls == [(1, 3)]
        assert scheduler.models == ("m",)
        assert scheduler.remove(second)


def test_what_still_waits_when_the_time_is_over_fails() -> None:
    fake = Fake(batches=(1,))
    with Scheduler({}) as scheduler:
        add(scheduler, "m", fake)
        fake.gate.clear()
        running, waiting = scheduler.submit([row(1)]), scheduler.submit([row(2)])
        assert fake.entered.acquire(timeout=10)
        removal = ThreadPoolExecutor(1).submit(scheduler.remove, "m", timeout=0.05)
        with pytest.raises(SchedulerClosedError, match="m was removed before the request was run"):
            waiting.result(10)
        assert not removal.done(), "what runs is waited for"
        fake.gate.set()
        assert removal.result(10) is False
        np.testing.assert_array_equal(running.result(10)["y"], row(2))


def test_no_answer_is_lost_while_a_model_is_replaced_again_and_again() -> None:
    stop = threading.Event()

    def ask(scheduler: Scheduler) -> int:
        answered = 0
        while not stop.is_set():
            np.testing.assert_array_equal(scheduler([row(answered)], model="m")["y"], row(2 * answered))
            answered += 1
        return answered

    with Scheduler({}) as scheduler, ThreadPoolExecutor(4) as pool:
        handle = add(scheduler, "m", Fake())
        asking = [pool.submit(ask, scheduler) for _ in range(4)]
        for _ in range(50):
            old, handle = handle, add(scheduler, "m", Fake())
            assert scheduler.remove(old)
        stop.set()
        assert min(future.result(10) for future in asking) > 0


def test_what_is_removed_is_let_go_of() -> None:
    with Scheduler({}) as scheduler:
        add(scheduler, "stays", Fake())
        gone = []
        for n in range(5):
            fake = Fake()
            add(scheduler, f"m{n}", fake)
            scheduler([row(1)], model=f"m{n}")
            scheduler.remove(f"m{n}")
            gone.append(weakref.ref(fake))
            del fake
        scheduler([row(1)], model="stays")
        gc.collect()
        assert [ref() for ref in gone] == [None] * 5
        assert len(scheduler._dispatcher._policy._queues) == 1


def test_memory_is_for_all_of_them() -> None:
    with Scheduler({}, memory_limit=10_000_000) as scheduler:
        handles = []
        for n in range(3):
            fake = Fake()
            object.__setattr__(fake.manifest, "weights_size", 4_000_000)
            if n < 2:
                handles.append(add(scheduler, f"m{n}", fake))
                continue
            with pytest.raises(OptionError, match=r"m2 would need 4\.0 MB .* of which 8\.0 MB are taken: 2\.0 MB too"):
                add(scheduler, "m2", fake)
            scheduler.remove(handles[0])
            add(scheduler, "m2", fake)


def test_instances_are_dealt_to_the_devices_that_have_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, cores: None)
    with Scheduler({}, devices=3) as scheduler:
        placed = [add(scheduler, f"m{n}", Fake(), instances=1).devices for n in range(3)]
        assert sorted(placed) == [(0,), (1,), (2,)]
        assert add(scheduler, "two", Fake(), instances=2).devices in ((0, 1), (0, 2), (1, 2))
        assert add(scheduler, "all", Fake()).devices is None
        for n in range(3):
            np.testing.assert_array_equal(scheduler([row(n)], model=f"m{n}")["y"], row(2 * n))


def test_a_successor_is_told_what_was_learned() -> None:
    fake = Fake(lengths=(3, 4))
    with Scheduler({}) as scheduler:
        handle = add(scheduler, "m", fake)
        known = handle.calibration
        assert set(known) == {variant.inputs for variant in fake.variants}
        assert {cost.high for cost in known.values()} == {1e-4}


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_a_quick_model_runs_in_the_event_loop_and_a_slow_one_never(seconds: float) -> None:
    fake = Fake(seconds=lambda rows: seconds)

    async def main() -> None:
        with Scheduler(fake, calibration=fake.calibration) as scheduler:
            for n in range(5):
                np.testing.assert_array_equal((await scheduler.infer([row(n)]))["y"], row(2 * n))

    asyncio.run(main())
    assert (set(fake.callers) == {threading.current_thread().name}) is (seconds == 0.0)


def test_quick_answers_leave_the_event_loop_to_others() -> None:
    fake = Fake()

    async def ask(scheduler: Scheduler) -> None:
        while True:
            await scheduler.infer([row(1)])

    async def main() -> None:
        with Scheduler(fake, calibration=fake.calibration) as scheduler, pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(scheduler), 0.05)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_the_event_loop_runs_nobody_else_s_batch() -> None:
    slow, quick = Fake(batches=(1,), seconds=lambda rows: 0.05), Fake(batches=(1,))

    async def main() -> None:
        with Scheduler({}) as scheduler:
            add(scheduler, "slow", slow)
            add(scheduler, "quick", quick)
            for n in range(20):
                heavy = scheduler.submit([row(1)], model="slow")
                np.testing.assert_array_equal((await scheduler.infer([row(n)], model="quick"))["y"], row(2 * n))
                await asyncio.wrap_future(heavy)

    asyncio.run(main())
    assert threading.current_thread().name not in slow.callers
