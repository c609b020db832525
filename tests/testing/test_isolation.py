"""Workers survive what their tasks do."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import numpy as np
import pytest

from graphc.errors import OptionError
from graphc.testing.isolation import Isolation, Outcome


def behave(how: str) -> Any:
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(7)
    if how == "spin":
        while True:
            pass
    if how == "sleep":
        time.sleep(3600)
    if how == "eat":
        return len(np.ones(1 << 31, np.uint8))
    if how == "raise":
        raise KeyError("gone")
    return os.getpid()


def run(tasks: list[str], **options: Any) -> dict[int, Outcome]:
    with Isolation(behave, **options) as isolation:
        return dict(isolation.run(enumerate(tasks)))


def test_every_task_has_an_outcome_whatever_its_neighbours_do() -> None:
    tasks = ["ok", "segfault", "ok", "exit", "raise", "ok", "spin", "ok", "segfault", "ok"]
    found = run(tasks, workers=2, seconds=0.3)
    wanted = {"segfault": "crashed", "exit": "crashed", "raise": "raised", "spin": "timeout", "ok": "done"}
    assert {key: outcome.status for key, outcome in found.items()} == {i: wanted[t] for i, t in enumerate(tasks)}
    assert "SIGSEGV" in found[1].detail and "string_at" in found[1].detail
    assert found[3].detail == "exit status 7"
    assert "KeyError at test_isolation.py" in found[4].detail


def test_waiting_ends_by_the_clock() -> None:
    found = run(["sleep", "ok"], workers=1, seconds=0.2)
    assert [found[0].status, found[1].status] == ["timeout", "done"]


def test_memory_is_limited_above_what_the_worker_had() -> None:
    found = run(["eat", "ok"], workers=1, memory=1 << 30)
    assert found[0].status == "raised" and "MemoryError" in found[0].detail
    assert found[1].status == "done"


def test_a_worker_is_kept_while_it_lives() -> None:
    found = run(["ok"] * 5, workers=1)
    assert len({outcome.value for outcome in found.values()}) == 1


def test_nothing_is_left_behind_when_the_caller_stops_early() -> None:
    with Isolation(behave, workers=2) as isolation:
        outcomes = isolation.run((i, "ok") for i in range(1000))
        _, first = next(outcomes)
    with pytest.raises(ProcessLookupError):
        os.kill(first.value, 0)


def test_senseless_limits_are_refused() -> None:
    with pytest.raises(OptionError):
        Isolation(behave, workers=0)
