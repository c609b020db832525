"""Waiting for what should come soon, for many at once: a timer for all of them, since nearly none is ever late."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Awaitable
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")


class Patience:
    """Waits for as long as it has patience, and up to half as long again. Belongs to one event loop.

    `asyncio.timeout` has a timer for each wait, which costs more than all else that is done for most messages.

    Args:
        seconds: Of a wait.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # In order of time, since all may take as long.
        self._waiting: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: TimerHandle | None = None

    async def wait_for(self, what: Awaitable[T]) -> T:
        """What is waited for; once at a time in one task.

        Raises:
            TimeoutError: It did not come.
        """
        task = asyncio.current_task()
        assert task is not None
        self._waiting[task] = perf_counter()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)
        try:
            return await what
        except asyncio.CancelledError:
            if task in self._late and not task.uncancel():
                raise TimeoutError from None
            raise
        finally:
            self._waiting.pop(task, None)
            self._late.discard(task)

    def _look(self) -> None:
        """Ends the waits that are late, and looks again when the next may be."""
        now = perf_counter()
        for task, since in list(self._waiting.items()):
            if now - since < self._seconds:
                break
            del self._waiting[task]
            self._late.add(task)
            task.cancel()
        self._timer = None
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(self._seconds / 2, self._look)
