"""The model server, whatever protocol it is asked by: which models there are, and answering requests for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from graphc.errors import (
    GraphcError,
    ModelUnavailableError,
    RepositoryError,
    RequestError,
    SchedulerClosedError,
)
from graphc.runtime.scheduler import BatchReport, Reply, Scheduler
from graphc.serve import describe
from graphc.serve.catalog import Catalog, Serving, Version
from graphc.serve.facts import IndexEntry, ModelConfig, ModelMetadata, State, VersionStatistics
from graphc.serve.lifecycle import Lifecycle
from graphc.serve.observer import SUCCESS, Ended, Observer, Observers, reason_of
from graphc.serve.request import ROUTING_KEY, InferRequest, InferResponse, Timings
from graphc.serve.settings import ServerSettings
from graphc.serve.statistics import StatisticsObserver
from graphc.serve.watching import Watcher


class ModelServer:
    """Serves the models of a repository.

        server = ModelServer(ServerSettings(Path("models")))
        await server.start()
        response = await server.infer(InferRequest("mnist", {"x": image}))
        await server.stop()

    All methods belong to the event loop that `start` ran in.

    Args:
        settings: How.
        observers: Told of everything that happens.
    """

    def __init__(self, settings: ServerSettings, observers: Sequence[Observer] = ()) -> None:
        self.settings = settings
        self._statistics = StatisticsObserver()
        self._observers = Observers([self._statistics, *observers])
        self._catalog = Catalog()
        self._running: tuple[Scheduler, Lifecycle] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._live = self._ready = self._stopping = False
        self._inside = 0

    @property
    def live(self) -> bool:
        """Whether it has started and has not stopped."""
        return self._live

    @property
    def ready(self) -> bool:
        """Whether it takes requests: all that was to be loaded at the start has been tried, and it is not stopping."""
        return self._ready

    async def start(self) -> None:
        """Loads what is to be served; returns when it has been tried.

        Raises:
            RepositoryError: The repository cannot be read; or nothing is in it and nothing can come; or, with
                `exit_on_error`, a model does not load.
            ModelNotFoundError: A model that was to be loaded is not there.
            OptionError: A setting is out of range.
        """
        settings = self.settings
        scheduler = Scheduler(
            {},
            devices=settings.devices,
            threads=settings.threads,
            memory_limit=settings.memory_limit,
            observer=_Forward(self._observers),
        )
        lifecycle = Lifecycle(settings, scheduler, self._catalog, self._observers)
        self._running = scheduler, lifecycle
        self._live = True
        folders = await lifecycle.look()
        if settings.mode == "none" and not folders:
            raise RepositoryError(f"there is no model in {str(settings.repository)!r}")
        lifecycle.note(folders.values())
        chosen = list(folders.values())
        if settings.mode == "explicit":
            chosen = [await lifecycle.look_at(name) for name in settings.models]
        failed = [
            version
            for versions in await asyncio.gather(*(lifecycle.settle(folder) for folder in chosen))
            for version in versions
        ]
        if failed and settings.exit_on_error:
            raise _not_loaded(failed)
        if settings.mode == "poll":
            watcher = Watcher(lifecycle, self._catalog, settings.poll_seconds, folders)
            self._watch = asyncio.create_task(watcher.run(), name="graphc-watch")
        self._ready = not self._stopping

    def drain(self) -> None:
        """Says that it is not ready, so that nobody is sent here any more; who comes still is answered until `stop`."""
        self._ready = False

    async def stop(self, grace: float = 30.0) -> None:
        """Takes no more requests, answers those that it has, and frees everything.

        Args:
            grace: Seconds after which requests that still wait fail.
        """
        self._ready, self._stopping = False, True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait((self._watch,))
            self._watch = None
        deadline = perf_counter() + grace
        while self._inside and perf_counter() < deadline:
            await asyncio.sleep(0.005)
        if self._running is not None:
            scheduler, lifecycle = self._running
            lifecycle.close()
            await asyncio.to_thread(scheduler.close, drain=False)
            self._running = None
        while self._inside:
            # They have their errors, and only have to tell their callers.
            await asyncio.sleep(0)
        self._catalog.close()
        self._live = False

    # ---------------------------------------------------------------- what there is

    def index(self, *, ready: bool = False) -> tuple[IndexEntry, ...]:
        """All versions that the repository has or had, with their states; with `ready`, only those that are."""
        models = sorted(self._catalog.models.items())
        entries = [entry for _, model in models for entry in model.index()]
        return tuple(entry for entry in entries if entry.state is State.READY or not ready)

    def model_ready(self, name: str, version: str | None = None) -> bool:
        """Whether requests for it would be taken.

        Raises:
            ModelNotFoundError: There is no such model or version.
        """
        try:
            self._look_up(name, version)
        except ModelUnavailableError:
            return False
        return self._ready

    def metadata(self, name: str, version: str | None = None) -> ModelMetadata:
        """A model's inputs and outputs.

        Raises:
            ModelNotFoundError: There is no such model or version.
            ModelUnavailableError: It is not ready.
        """
        _, serving = self._look_up(name, version)
        return describe.metadata(self._catalog.model(name), serving)

    def config(self, name: str, version: str | None = None) -> ModelConfig:
        """How a model is served.

        Raises:
            ModelNotFoundError: There is no such model or version.
            ModelUnavailableError: It is not ready.
        """
        _, serving = self._look_up(name, version)
        return describe.config(self._catalog.model(name), serving, len(self._scheduler.devices))

    def statistics(self, name: str | None = None, version: str | None = None) -> tuple[VersionStatistics, ...]:
        """Counts of a version, of all versions of a model, or of all models.

        Raises:
            ModelNotFoundError: There is no such model or version.
        """
        if name is None:
            models = [model for _, model in sorted(self._catalog.models.items())]
            chosen = [each for model in models for _, each in sorted(model.versions.items())]
        elif not version:
            chosen = [each for _, each in sorted(self._catalog.model(name).versions.items())]
        else:
            chosen = [self._catalog.version(name, version)]
        return tuple(
            self._statistics.of(
                each.model, str(each.number), each.serving.served.tenant.waiting if each.serving is not None else 0
            )
            for each in chosen
        )

    # ---------------------------------------------------------------- loading

    async def load(self, name: str) -> None:
        """Loads a model, or loads it anew where its folder has changed; returns when it serves.

        Raises:
            RequestError: The server's mode is not `explicit`.
            ModelNotFoundError: The repository has no such model.
            RepositoryError: A version cannot be loaded; what was served before still is.
        """
        lifecycle = self._explicit()
        lifecycle.note((await lifecycle.look()).values())
        failed = await lifecycle.settle(await lifecycle.look_at(name), again=True)
        model = self._catalog.model(name)
        if failed:
            raise _not_loaded(failed)
        if model.problem:
            raise RepositoryError(f"{name} was not loaded: {model.problem}")

    async def unload(self, name: str) -> None:
        """Serves a model no more; returns when the requests that it has are answered.

        Raises:
            RequestError: The server's mode is not `explicit`.
            ModelNotFoundError: There is no such model.
        """
        await self._explicit().drop(name)

    def _explicit(self) -> Lifecycle:
        if self.settings.mode != "explicit":
            raise RequestError(
                f"models are not loaded and unloaded on request: the server's mode is {self.settings.mode!r}",
                hint="start it with --mode explicit",
            )
        if self._running is None:
            raise ModelUnavailableError("the server does not run", retry_after=1.0)
        return self._running[1]

    # ---------------------------------------------------------------- requests

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answers one request; cancelling the task takes it back.

        Raises:
            ModelNotFoundError: There is no such model, version or label.
            ModelUnavailableError: It is not ready; `retry_after` says when it may be.
            RequestError: An output is unknown, or a parameter out of range.
            InputError: The inputs do not fit the model.
            RefusedError: It could not be answered in time; `retry_after` says when to come back.
            DeadlineError: Its `timeout` was over before it was run.
            ExecutionError: The model failed.
        """
        self._inside += 1
        course = _Course()
        try:
            self._observers.received(request)
            reply = await self._submit(request, course)
            try:
                outputs = await reply.answer()
            except SchedulerClosedError as error:
                raise ModelUnavailableError(error.message, retry_after=1.0) from error
            response = InferResponse(
                request.model,
                course.version or "",
                _chosen(request, outputs),
                request.id,
                timings=_timings(request, reply),
            )
            success = Ended(request, course.version, SUCCESS, response.timings, response)
            self._observers.answering(success)
        except BaseException as error:
            timings = _timings(request, course.reply)
            self._observers.ended(Ended(request, course.version, reason_of(error), timings, error=error))
            raise
        else:
            self._observers.ended(success)
            return response
        finally:
            self._inside -= 1

    def refuse(self, request: InferRequest, error: GraphcError) -> None:
        """Tells who watches of a request that a protocol could not read, with what is known of it."""
        with contextlib.suppress(GraphcError):
            # An observer that refuses it too changes nothing.
            self._observers.received(request)
        timings = Timings(perf_counter() - request.arrived)
        self._observers.ended(Ended(request, None, reason_of(error), timings, error=error))

    async def _submit(self, request: InferRequest, course: _Course) -> Reply:
        key = request.parameters.get(ROUTING_KEY)
        timeout = None if request.timeout is None else request.timeout * 1e3
        priority = 2 - min(request.priority, 3) if request.priority else 0
        while True:
            version, serving = self._catalog.find(request.model, request.version, None if key is None else str(key))
            course.version = str(version.number)
            if request.outputs is not None:
                _check_outputs(request, serving)
            try:
                reply = await self._scheduler.hand_in(
                    request.inputs, model=serving.served, timeout_ms=timeout, priority=priority
                )
            except SchedulerClosedError:
                # It was replaced between the look-up and the submission: the next look-up finds its successor.
                if version.serving is serving:
                    raise
                continue
            course.reply = reply
            self._observers.accepted(request, course.version)
            return reply

    # ---------------------------------------------------------------- looking up

    @property
    def _scheduler(self) -> Scheduler:
        if self._running is None or self._stopping:
            what = "is stopping" if self._stopping else "has not started"
            raise ModelUnavailableError(f"the server {what}", retry_after=1.0)
        return self._running[0]

    def _look_up(self, name: str, version: str | None) -> tuple[Version, Serving]:
        """What is told of a model that no request is for: of the latest version, whatever the traffic shares are."""
        if not version and (ready := self._catalog.model(name).ready):
            version = str(ready[-1])
        return self._catalog.find(name, version)


def _not_loaded(failed: Sequence[Version]) -> RepositoryError:
    return RepositoryError("; ".join(f"{version.name} was not loaded: {version.reason}" for version in failed))


def _check_outputs(request: InferRequest, serving: Serving) -> None:
    known = [spec.name for spec in serving.manifest.outputs]
    for name in request.outputs or ():
        if name not in known:
            raise RequestError(f"{request.model} has no output {name!r}", hint=f"it has: {', '.join(known)}")


def _chosen(request: InferRequest, outputs: dict[str, object]) -> dict[str, object]:
    return outputs if request.outputs is None else {name: outputs[name] for name in request.outputs}


def _timings(request: InferRequest, reply: Reply | None) -> Timings:
    total = perf_counter() - request.arrived
    stages = None if reply is None else reply.stages
    if stages is None:
        return Timings(total)
    return Timings(total, stages.queue, stages.input, stages.infer, stages.output, stages.rows)


@dataclass(slots=True)
class _Course:
    """How far a request came: the version that it is for, and the reply that it waits for."""

    version: str | None = None
    reply: Reply | None = None


class _Forward:
    """What the scheduler reports of batches, by model and version."""

    def __init__(self, observers: Observer) -> None:
        self._observers = observers

    def accepted(self, model: str) -> None:
        """Told by `infer`, which knows the request."""

    def refused(self, model: str, reason: str) -> None:
        """Told by `infer`, which knows the request."""

    def cancelled(self, model: str) -> None:
        """Told by `infer`, which knows the request."""

    def finished(self, model: str, report: BatchReport) -> None:
        """A batch has run."""
        name, _, version = model.rpartition("/")
        self._observers.executed(name, version, report)
