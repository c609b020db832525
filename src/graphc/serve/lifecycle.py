"""Bringing the catalog in line with the repository: load, warm, check, swap, drain, free.

A version that is loaded anew answers with what it has until what is new has been verified, warmed and checked; then
one assignment in the event loop lets the new one have all further requests, and the old one goes when it has answered
its own. What fails stays out, and says why in the index.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from graphc.errors import GraphcError, ModelNotFoundError, RepositoryError
from graphc.runtime import thread_count
from graphc.runtime.scheduler import Scheduler, ServedModel
from graphc.serve import loading, model_file
from graphc.serve.catalog import Catalog, Model, Serving, Version
from graphc.serve.compiling import compiled
from graphc.serve.facts import State
from graphc.serve.observer import Changed, Observer
from graphc.serve.repository import CHECK, ModelFolder, Snapshot, find_model, look, scan, snapshot
from graphc.serve.routing import Router
from graphc.serve.settings import ServerSettings

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

DRAIN_SECONDS = 60.0
"""After which requests fail that a version which goes still has waiting."""

RETRY_FIRST, RETRY_LONGEST = 10.0, 600.0
"""Seconds after which what failed is tried again, the first time and at most; twice as many each time."""


class Lifecycle:
    """Loads and unloads the models of a repository.

    Args:
        settings: Of the server.
        scheduler: That all models are served by.
        catalog: That is kept in line.
        observer: Told of every change.
    """

    def __init__(self, settings: ServerSettings, scheduler: Scheduler, catalog: Catalog, observer: Observer) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._catalog = catalog
        self._observer = observer
        # One at a time: a load must not take more from those who are served than it has to.
        self._loader = ThreadPoolExecutor(1, "graphc-load", initializer=loading.be_nice)
        self._turn = asyncio.Lock()
        self._compiler = asyncio.Lock()

    async def look(self) -> dict[str, ModelFolder]:
        """What the repository holds now.

        Raises:
            RepositoryError: It cannot be read.
        """
        return await asyncio.to_thread(scan, self._settings.repository)

    async def look_at(self, name: str) -> ModelFolder:
        """What the repository holds of a model now.

        Raises:
            ModelNotFoundError: It has no such model.
            RepositoryError: It cannot be read.
        """
        folder = await asyncio.to_thread(look, self._settings.repository, name)
        if folder is None:
            raise ModelNotFoundError(f"the repository has no model {name!r}")
        return folder

    def note(self, folders: Iterable[ModelFolder]) -> None:
        """Lists models that are there and not loaded."""
        for folder in folders:
            model = self._catalog.models.setdefault(folder.name, Model(folder.name))
            for number in folder.versions:
                model.versions.setdefault(number, Version(folder.name, number, State.UNAVAILABLE, "not loaded"))
            if not folder.versions:
                model.problem = _no_versions(folder)

    async def settle(self, folder: ModelFolder, *, again: bool = False) -> list[Version]:
        """Brings a model in line with its folder; what goes wrong is told in the index and the log.

        Args:
            folder: As it is now.
            again: Whether what failed before is tried again though it looks the same.

        Returns:
            Versions that could not be loaded.
        """
        model = self._catalog.models.setdefault(folder.name, Model(folder.name))
        async with model.lock:
            await self._read_settings(model, folder)
            now = asyncio.get_running_loop().time()
            for version in model.versions.values():
                if again or version.retry_at <= now:
                    version.failed = False
            policy = model.file.versions
            while not model.problem:
                present = [n for n in folder.versions if not self._is_bad(model.versions.get(n), folder.versions[n])]
                wanted = policy.choose(present)
                todo = [n for n in wanted if self._is_stale(model, n, folder.versions[n])]
                if not todo:
                    if wanted:
                        await self._retire(model, folder, wanted)
                    break
                # The latest first: it is what most requests are for.
                await self._bring_up(model, folder, todo[-1])
            return [version for version in model.versions.values() if version.failed]

    def is_due(self, name: str) -> bool:
        """Whether something of a model that failed is to be tried again: what it lacked may be there now."""
        model, now = self._catalog.models.get(name), asyncio.get_running_loop().time()
        versions = () if model is None or model.problem else model.versions.values()
        return any(version.failed and version.retry_at <= now for version in versions)

    async def drop(self, name: str, reason: str = "unloaded") -> None:
        """Takes a model out of service; its requests are answered. It stays in the index.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        model = self._catalog.model(name)
        async with model.lock:
            await asyncio.gather(*(self._take_down(version, reason) for version in model.versions.values()))

    async def forget(self, name: str) -> None:
        """Takes a model that the repository has no more out of service and out of the index."""
        await self.drop(name, "removed from the repository")
        self._catalog.models.pop(name, None)

    def close(self) -> None:
        """Ends the loader; what it does now it does to its end."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    # ---------------------------------------------------------------- deciding

    async def _read_settings(self, model: Model, folder: ModelFolder) -> None:
        if model.settings != folder.settings:
            path, defaults = folder.path / model_file.NAME, self._settings.model
            model.settings = folder.settings
            try:
                found = await asyncio.to_thread(model_file.read_model_file, path, defaults)
            except RepositoryError as error:
                model.problem = _told(error)
                _log.error("%s: %s", model.name, error)
                for number in folder.versions:
                    version = model.versions.setdefault(number, Version(model.name, number))
                    if version.serving is None:
                        version.state, version.reason, version.failed = State.UNAVAILABLE, model.problem, True
                return
            if not found.routes_only(model.file):
                for version in model.versions.values():
                    version.failed = False
            model.file = found
            model.router = Router.of(found.traffic, found.labels)
            model.problem = ""
        if not folder.versions:
            model.problem = _no_versions(folder)
            await self._retire(model, folder, [])
        elif model.problem == _no_versions(folder):
            model.problem = ""

    @staticmethod
    def _is_bad(version: Version | None, files: Snapshot) -> bool:
        """Whether a version has been tried as it is, without success, and nothing serves in its place."""
        return version is not None and version.failed and version.tried == files and version.serving is None

    @staticmethod
    def _is_stale(model: Model, number: int, files: Snapshot) -> bool:
        """Whether a version is to be loaded."""
        version = model.versions.get(number)
        if version is None:
            return True
        if version.failed and version.tried == files:
            return False
        changed = version.serving is not None and not version.serving.file.routes_only(model.file)
        return version.serving is None or version.tried != files or changed

    async def _retire(self, model: Model, folder: ModelFolder, wanted: list[int]) -> None:
        """Takes down what is wanted no more, and forgets what the repository has no more."""
        leaving = [version for number, version in model.versions.items() if number not in wanted and version.serving]
        await asyncio.gather(*(self._take_down(version, "not among the versions served") for version in leaving))
        for number in folder.versions:
            version = model.versions.setdefault(
                number, Version(model.name, number, State.UNAVAILABLE, "not among the versions served")
            )
            if number not in wanted and not version.failed:
                version.reason = "not among the versions served"
        for number in [number for number in model.versions if number not in folder.versions]:
            del model.versions[number]

    # ---------------------------------------------------------------- doing

    async def _bring_up(self, model: Model, folder: ModelFolder, number: int) -> None:
        """Loads a version and lets it serve; or says why not."""
        version = model.versions.setdefault(number, Version(model.name, number))
        reload = version.serving is not None
        began = perf_counter()
        if version.tried != folder.versions[number]:
            version.tried, version.failures = folder.versions[number], 0
        version.failed = False
        if not reload:
            version.state, version.reason = State.LOADING, ""
        self._tell(version, State.LOADING, reload=reload)
        try:
            made = await self._make(version, model.file, folder)
        except asyncio.CancelledError:
            version.failed = True
            if not reload:
                version.state, version.reason = State.UNAVAILABLE, "its loading was interrupted"
            raise
        except Exception as error:
            self._failed(version, error, perf_counter() - began, reload)
            return
        old, version.serving = version.serving, made or version.serving
        version.state, version.reason, version.failures = State.READY, "", 0
        seconds = perf_counter() - began
        _log.info("%s is ready%s, after %.2f s", version.name, " anew" if reload else "", seconds)
        self._tell(version, State.READY, seconds=seconds, reload=reload)
        if old is not None and made is not None:
            await self._free(old)

    def _failed(self, version: Version, error: Exception, seconds: float, reload: bool) -> None:
        version.failed = True
        delay = min(RETRY_LONGEST, RETRY_FIRST * 2.0**version.failures)
        version.failures += 1
        version.retry_at = asyncio.get_running_loop().time() + delay
        why = _told(error) if isinstance(error, GraphcError) else f"{type(error).__name__}: {error}"
        version.reason = f"serving what was there before: {why}" if reload else why
        version.state = State.READY if reload else State.UNAVAILABLE
        # A defect of ours is told with its place; what is wrong with a model is told in its own words.
        _log.error("%s was not loaded: %s", version.name, why, exc_info=not isinstance(error, GraphcError))
        self._tell(version, version.state, reason=version.reason, seconds=seconds, reload=reload)

    async def _make(self, version: Version, file: model_file.ModelFile, folder: ModelFolder) -> Serving | None:
        """What serves a version as its folder is now; None where what serves already is just that."""
        place = folder.path / str(version.number)
        files = folder.versions[version.number]
        path = await asyncio.to_thread(find_model, place, compile_only=self._settings.compile_only)
        if path.suffix == ".onnx":
            async with self._compiler:
                path = await compiled(version.name, path, files, file.compile, self._settings.cache)
        async with self._turn:
            package, digest = await self._load(lambda: loading.open_package(path))
            if await asyncio.to_thread(snapshot, place) != files:
                raise RepositoryError(
                    f"{str(place)!r} changed while it was read", hint="it is read again when it rests"
                )
            now = version.serving
            if now is not None and now.digest == digest and now.file.routes_only(file):
                return None
            known = now.served.calibration if now is not None else {}
            threads = self._threads(file)

            def work() -> Serving:
                loaded = loading.ready(package, digest, threads, known, file.device)
                loading.check(loaded.executable, place / CHECK, file.check)
                served = self._scheduler.add(
                    version.name,
                    loaded.executable,
                    file.serving,
                    calibration=loaded.calibration,
                    instances=file.instances,
                    threads=threads,
                )
                return Serving(loaded.executable, served, digest, file)

            return await self._load(work)

    def _threads(self, file: model_file.ModelFile) -> int:
        width = self._scheduler.devices[0].threads
        return width if file.threads is None else min(thread_count(file.threads), width)

    async def _load(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)

    async def _take_down(self, version: Version, reason: str) -> None:
        serving = version.serving
        if serving is None:
            return
        version.state, version.reason = State.UNLOADING, reason
        self._tell(version, State.UNLOADING, reason=reason)
        began = perf_counter()
        version.serving = None
        await self._free(serving)
        version.state, version.tried = State.UNAVAILABLE, None
        _log.info("%s is unloaded: %s", version.name, reason)
        self._tell(version, State.UNAVAILABLE, reason=reason, seconds=perf_counter() - began)

    async def _free(self, serving: Serving) -> None:
        """Waits for what it still has to answer, then lets go of its memory."""

        def work(served: ServedModel) -> bool:
            return self._scheduler.remove(served, timeout=DRAIN_SECONDS)

        if not await asyncio.to_thread(work, serving.served):
            _log.warning("%s did not answer all that it had within %g s", serving.served.name, DRAIN_SECONDS)
        # Programs and their arenas hold each other, and the collector of cycles comes late in a large process.
        serving.executable.trim()
        serving.executable.close()

    def _tell(
        self, version: Version, state: State, *, reason: str = "", seconds: float = 0.0, reload: bool = False
    ) -> None:
        self._observer.changed(Changed(version.model, str(version.number), state, reason, seconds, reload))


def _told(error: GraphcError) -> str:
    """An error in one line."""
    return " ".join(str(error).split())


def _no_versions(folder: ModelFolder) -> str:
    return f"{str(folder.path)!r} has no versions: folders 1, 2, …"
