"""Following the repository: what has changed and has come to rest is loaded, what is gone is unloaded."""

from __future__ import annotations

import asyncio
import logging

from graphc.errors import RepositoryError
from graphc.serve.catalog import Catalog
from graphc.serve.lifecycle import Lifecycle
from graphc.serve.repository import ModelFolder

_log = logging.getLogger(__name__)


class Watcher:
    """Looks at the repository now and then.

    A folder that has changed is left alone until two looks in a row see the same, so that nothing is loaded while it is
    copied; a repository that cannot be read changes nothing.

    Args:
        lifecycle: That loads and unloads.
        catalog: What is known.
        seconds: Between two looks.
        settled: What the catalog is in line with.
    """

    def __init__(self, lifecycle: Lifecycle, catalog: Catalog, seconds: float, settled: dict[str, ModelFolder]) -> None:
        self._lifecycle = lifecycle
        self._catalog = catalog
        self._seconds = seconds
        self._settled: dict[str, ModelFolder | None] = dict(settled)
        self._seen: dict[str, ModelFolder] = settled
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._readable = True

    async def run(self) -> None:
        """Follows the repository until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(self._seconds)
                await self.look()
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def look(self) -> None:
        """Looks once, and begins what there is to do."""
        try:
            now = await self._lifecycle.look()
        except RepositoryError as error:
            if self._readable:
                _log.error("%s; what is loaded stays", error)
            self._readable = False
            return
        self._readable = True
        before, self._seen = self._seen, now
        for name in {*now, *self._settled}:
            folder = now.get(name)
            resting = folder == before.get(name)
            if not resting or name in self._busy:
                continue
            if folder != self._settled.get(name) or self._lifecycle.is_due(name):
                self._busy[name] = asyncio.create_task(self._act(name, folder), name=f"graphc-settle-{name}")

    async def _act(self, name: str, folder: ModelFolder | None) -> None:
        try:
            if folder is not None:
                await self._lifecycle.settle(folder)
                self._settled[name] = folder
                return
            if name in self._catalog.models:
                await self._lifecycle.forget(name)
            self._settled.pop(name, None)
        except Exception:
            # A defect of ours; the next look tries again.
            _log.exception("%s could not be brought in line with the repository", name)
        finally:
            self._busy.pop(name, None)
