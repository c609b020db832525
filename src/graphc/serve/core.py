"""The model server, whatever protocol it is asked by: which models there are, and answering requests for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from graphc.errors import (
    ModelNotFoundError,
    ModelUnavailableError,
    RepositoryError,
    RequestError,
    SchedulerClosedError,
)
from graphc.package import Package
from graphc.runtime import Executable, thread_count
from graphc.runtime.scheduler import BatchReport, Reply, Scheduler
from graphc.serve.facts import (
    Batching,
    IndexEntry,
    ModelConfig,
    ModelMetadata,
    State,
    VersionPolicy,
    VersionStatistics,
)
from graphc.serve.observer import SUCCESS, Changed, Ended, Observer, Observers, reason_of
from graphc.serve.request import InferRequest, InferResponse, Timings
from graphc.serve.settings import ServerSettings
from graphc.serve.statistics import StatisticsObserver
from graphc.serve.version import Version, batches_first, tensor_facts


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
        self._models: dict[str, dict[int, Version]] = {}
        self._scheduler: Scheduler | None = None
        self._live = self._ready = False
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
        """Loads what is to be served.

        Raises:
            RepositoryError: The repository cannot be read.
            OptionError: A setting is out of range.
        """
        if not self.settings.repository.is_dir():
            raise RepositoryError(f"{str(self.settings.repository)!r} is no folder")
        self._scheduler = Scheduler(
            {},
            devices=self.settings.devices,
            threads=self.settings.threads,
            memory_limit=self.settings.memory_limit,
            observer=_Forward(self._observers),
        )
        self._live = True
        for folder in sorted(self.settings.repository.iterdir()):
            if folder.is_dir():
                await self.load(folder.name)
        self._ready = True

    def drain(self) -> None:
        """Says that it is not ready, so that nobody is sent here any more; who comes still is answered until `stop`."""
        self._ready = False

    async def stop(self, grace: float = 30.0) -> None:
        """Takes no more requests, answers those that it has, and frees everything.

        Args:
            grace: Seconds after which requests that still wait fail.
        """
        self._ready = False
        deadline = perf_counter() + grace
        while self._inside and perf_counter() < deadline:
            await asyncio.sleep(0.005)
        if (scheduler := self._scheduler) is not None:
            await asyncio.to_thread(scheduler.close, drain=False)
        self._live = False

    # ---------------------------------------------------------------- what there is

    def index(self, *, ready: bool = False) -> tuple[IndexEntry, ...]:
        """All versions that the repository has or had, with their states; with `ready`, only those that are."""
        return tuple(
            IndexEntry(name, str(version.number), version.state, version.reason)
            for name, versions in sorted(self._models.items())
            for _, version in sorted(versions.items())
            if version.state is State.READY or not ready
        )

    def model_ready(self, name: str, version: str | None = None) -> bool:
        """Whether requests for it would be taken.

        Raises:
            ModelNotFoundError: There is no such model or version.
        """
        try:
            self._version(name, version)
        except ModelUnavailableError:
            return False
        return self._ready

    def metadata(self, name: str, version: str | None = None) -> ModelMetadata:
        """A model's inputs and outputs.

        Raises:
            ModelNotFoundError: There is no such model or version.
            ModelUnavailableError: It is not ready.
        """
        manifest = self._executable(self._version(name, version)).manifest
        ready = sorted(number for number, each in self._models[name].items() if each.state is State.READY)
        return ModelMetadata(
            name,
            tuple(map(str, ready)),
            tuple(map(tensor_facts, manifest.inputs)),
            tuple(map(tensor_facts, manifest.outputs)),
        )

    def config(self, name: str, version: str | None = None) -> ModelConfig:
        """How a model is served.

        Raises:
            ModelNotFoundError: There is no such model or version.
            ModelUnavailableError: It is not ready.
        """
        found = self._version(name, version)
        executable = self._executable(found)
        manifest, settings = executable.manifest, self.settings.model
        served = found.served
        assert served is not None
        largest = max((queue.costs.largest for queue in served.queues), default=0) if batches_first(manifest) else 0
        batching = None
        if largest:
            sizes = sorted({rows for queue in served.queues for rows in queue.costs.latencies})
            batching = Batching(
                tuple(sizes),
                settings.preferred_batch_sizes,
                settings.batch_timeout_micros / 1e6,
                settings.queue_limit,
                None if settings.slo_ms is None else settings.slo,
            )
        axis = 0 if largest else None
        return ModelConfig(
            name,
            VersionPolicy(),
            largest,
            tuple(tensor_facts(spec, without=axis) for spec in manifest.inputs),
            tuple(tensor_facts(spec, without=axis) for spec in manifest.outputs),
            batching,
            instances=len(self._running.devices),
            threads=executable.threads,
        )

    def statistics(self, name: str | None = None, version: str | None = None) -> tuple[VersionStatistics, ...]:
        """Counts of a version, of all versions of a model, or of all models.

        Raises:
            ModelNotFoundError: There is no such model or version.
        """
        if name is None:
            chosen = [each for versions in self._models.values() for each in versions.values()]
        elif version is None:
            chosen = list(self._known(name).values())
        else:
            chosen = [self._numbered(name, version)]
        return tuple(
            self._statistics.of(each.model, str(each.number), each.served.tenant.waiting if each.served else 0)
            for each in chosen
        )

    # ---------------------------------------------------------------- loading

    async def load(self, name: str) -> None:
        """Loads a model, or loads it anew.

        Raises:
            ModelNotFoundError: The repository has no such model.
            GraphcError: It cannot be loaded; what was served before still is.
        """
        folder = self.settings.repository / name
        for child in sorted(folder.iterdir()):
            for path in child.glob("*.graphc"):
                version = Version(name, int(child.name), path=path)
                self._models.setdefault(name, {})[version.number] = version
                began = perf_counter()
                executable = await asyncio.to_thread(self._open, version)
                version.served = await asyncio.to_thread(
                    self._running.add, version.name, executable, self.settings.model
                )
                version.executable, version.state = executable, State.READY
                self._observers.changed(Changed(name, str(version.number), State.READY, seconds=perf_counter() - began))

    async def unload(self, name: str) -> None:
        """Serves a model no more; requests that it has are answered.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        for version in self._known(name).values():
            if version.served is not None:
                version.state = State.UNLOADING
                await asyncio.to_thread(self._running.remove, version.served)
                version.served = version.executable = None
                version.state, version.reason = State.UNAVAILABLE, "unloaded"
                self._observers.changed(Changed(name, str(version.number), version.state, version.reason))

    def _open(self, version: Version) -> Executable:
        assert version.path is not None
        return Executable(Package(version.path), threads=thread_count(self.settings.threads))

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
            outputs = await asyncio.wrap_future(reply)
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

    async def _submit(self, request: InferRequest, course: _Course) -> Reply:
        while True:
            version = self._version(request.model, request.version)
            course.version = str(version.number)
            executable, served = self._executable(version), version.served
            if request.outputs is not None:
                _check_outputs(request, executable)
            timeout = None if request.timeout is None else request.timeout * 1e3
            priority = 2 - min(request.priority, 3) if request.priority else 0
            try:
                reply = self._running.submit(request.inputs, model=served, timeout_ms=timeout, priority=priority)
            except SchedulerClosedError:
                # It was replaced between the look-up and the submission: the next look-up finds its successor.
                if version.served is served:
                    raise
                continue
            course.reply = reply
            self._observers.accepted(request, course.version)
            return reply

    # ---------------------------------------------------------------- looking up

    @property
    def _running(self) -> Scheduler:
        if self._scheduler is None:
            raise ModelUnavailableError("the server has not started", retry_after=1.0)
        return self._scheduler

    def _known(self, name: str) -> dict[int, Version]:
        found = self._models.get(name)
        if found is None:
            raise ModelNotFoundError(
                f"there is no model {name!r}", hint=f"there are: {', '.join(sorted(self._models)) or 'none'}"
            )
        return found

    def _numbered(self, name: str, number: str) -> Version:
        versions = self._known(name)
        found = versions.get(int(number)) if number.isdecimal() else None
        if found is None:
            raise ModelNotFoundError(
                f"model {name!r} has no version {number!r}", hint=f"it has: {', '.join(map(str, sorted(versions)))}"
            )
        return found

    def _version(self, name: str, version: str | None) -> Version:
        if version:
            found = self._numbered(name, version)
        else:
            versions = self._known(name)
            ready = [number for number, each in versions.items() if each.state is State.READY]
            found = versions[max(ready or versions)]
        if found.state is not State.READY:
            raise ModelUnavailableError(f"{found.name} is {found.state.value.lower()}: {found.reason}", retry_after=1.0)
        return found

    @staticmethod
    def _executable(version: Version) -> Executable:
        assert version.executable is not None, "what is ready has an executable"
        return version.executable


def _check_outputs(request: InferRequest, executable: Executable) -> None:
    known = [spec.name for spec in executable.outputs]
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
