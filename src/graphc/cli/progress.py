"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

_WIDTH = 24
_INTERVAL_SECONDS = 0.05


class Progress:
    """Shows how far the work is; wiped away when it ends, so that only results stay on the screen.

    Args:
        stream: Where to draw; standard error if None. Nothing is drawn where it is no terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._on = self._stream.isatty()
        self._start = time.perf_counter()
        self._drawn = float("-inf")
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Shows that `done` of `total` parts of `what` are done."""
        now = time.perf_counter()
        if not self._on or (what == self._what and done < total and now - self._drawn < _INTERVAL_SECONDS):
            return
        self._drawn, self._what = now, what
        filled = _WIDTH * done // total if total else _WIDTH
        bar = "━" * filled + "─" * (_WIDTH - filled)
        counts = f"{done}/{total}" if total > 1 else ""
        self._stream.write(f"\r\033[K{what:<20} {bar} {counts:>9} {now - self._start:6.1f} s")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on:
            self._stream.write("\r\033[K")
            self._stream.flush()
