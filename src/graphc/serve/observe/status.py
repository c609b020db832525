"""What the status page shows: models, versions and their states, the load and the latencies of the last minute."""

from __future__ import annotations

import os
import time
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import graphc
from graphc.serve.core import ModelServer
from graphc.serve.facts import IndexEntry
from graphc.serve.observe.recent import WINDOW, Recent
from graphc.serve.observer import SUCCESS


class Status:
    """Gathers it.

    Args:
        server: Which; asked in its event loop.
        recent: An observer of it.
    """

    def __init__(self, server: ModelServer, recent: Recent) -> None:
        self.server = server
        self.recent = recent
        self._started = time.monotonic()

    def snapshot(self) -> dict[str, Any]:
        """All that the page shows, as JSON has it; times in seconds, memory in bytes."""
        index = self.server.index()
        pending = {(each.name, each.version): each.pending for each in self.server.statistics()}
        models: dict[str, list[dict[str, Any]]] = {}
        for entry in index:
            models.setdefault(entry.name, []).append(self._version(entry, pending.get((entry.name, entry.version), 0)))
        versions = [version for each in models.values() for version in each]
        return {
            "server": {
                "name": self.server.settings.name,
                "version": graphc.__version__,
                "live": self.server.live,
                "ready": self.server.ready,
                "uptime": time.monotonic() - self._started,
                "memory": _resident(),
                "slo": None if (ms := self.server.settings.model.slo_ms) is None else ms / 1e3,
            },
            "window": self.recent.seconds(),
            "load": {
                "answered_per_second": sum(version["answered_per_second"] for version in versions),
                "refused": sum(version["refused"] for version in versions),
                "failed": sum(version["failed"] for version in versions),
                "waiting": sum(version["waiting"] for version in versions),
                "answered": [sum(column) for column in zip(*(version["answered"] for version in versions), strict=True)]
                or [0] * WINDOW,
            },
            "models": [{"name": name, "versions": each} for name, each in models.items()],
        }

    def _version(self, entry: IndexEntry, waiting: int) -> dict[str, Any]:
        summary = self.recent.summary(entry.name, entry.version)
        kinds = Counter[str]()
        for reason, count in summary.outcomes.items():
            kinds[_KINDS.get(reason, "refused")] += count
        return {
            "version": entry.version,
            "state": entry.state.value,
            "reason": entry.reason,
            "answered_per_second": sum(summary.answered) / self.recent.seconds(),
            "refused": kinds["refused"],
            "failed": kinds["failed"],
            "invalid": kinds["invalid"],
            "waiting": waiting,
            "rows_per_call": summary.rows_per_call,
            "latency": summary.latency,
            "answered": summary.answered,
        }


_KINDS = {
    SUCCESS: "answered",
    "failed": "failed",
    "internal": "failed",
    "invalid": "invalid",
    "not_found": "invalid",
    "cancelled": "invalid",
}
"""What the page calls an outcome; those that are not here were refused."""


@cache
def page() -> bytes:
    """The page itself, which asks for the rest."""
    return files(__package__).joinpath("status.html").read_bytes()


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
