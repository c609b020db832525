"""What both protocols ask of the server, each operation once; answers are plain values with the protocol's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphc import __version__
from graphc.errors import ForbiddenError, ModelNotFoundError, UnsupportedError
from graphc.serve.core import ModelServer
from graphc.serve.protocol.access import Access
from graphc.serve.protocol.budget import Budget
from graphc.serve.protocol.descriptions import (
    EXTENSIONS,
    describe_config,
    describe_index,
    describe_model,
    describe_statistics,
)
from graphc.serve.protocol.limits import DEFAULT_LIMITS, RequestLimits
from graphc.serve.protocol.settings import LogSettings, TraceSettings
from graphc.serve.protocol.shared_memory import SharedMemory


@dataclass
class Service:
    """A server with what its protocols share; every port of one server has the same one.

    Attributes:
        server: Whose models are asked for.
        limits: Of requests.
        memory: Shared memory that clients registered.
        log: What is logged.
        trace: What is traced.
        held: Bytes of requests that are held.
    """

    server: ModelServer
    limits: RequestLimits = DEFAULT_LIMITS
    memory: SharedMemory = field(default_factory=SharedMemory)
    log: LogSettings = field(default_factory=LogSettings)
    trace: TraceSettings = field(default_factory=TraceSettings)
    held: Budget = field(init=False)

    def __post_init__(self) -> None:
        """Makes what follows from the limits."""
        self.held = Budget(self.limits.held_bytes)

    def server_metadata(self) -> dict[str, Any]:
        """A ServerMetadataResponse."""
        shared = ["system_shared_memory"] if self.memory.allowed else []
        return {
            "name": self.server.settings.name,
            "version": __version__,
            "extensions": sorted([*EXTENSIONS, *shared]),
        }

    def model_ready(self, name: str, version: str | None) -> bool:
        """Whether requests for it would be taken.

        Raises:
            ModelNotFoundError: There is no such model, version or label.
        """
        return self.server.model_ready(name, version or None)

    def model_metadata(self, name: str, version: str | None) -> dict[str, Any]:
        """A ModelMetadataResponse.

        Raises:
            ModelNotFoundError: There is no such model, version or label.
            ModelUnavailableError: It is not ready.
        """
        return describe_model(self.server.metadata(name, version or None))

    def model_config(self, name: str, version: str | None) -> dict[str, Any]:
        """A ModelConfig.

        Raises:
            ModelNotFoundError: There is no such model, version or label.
            ModelUnavailableError: It is not ready.
        """
        return describe_config(self.server.config(name, version or None))

    def statistics(self, name: str | None, version: str | None) -> dict[str, Any]:
        """A ModelStatisticsResponse.

        Raises:
            ModelNotFoundError: There is no such model or version.
        """
        return describe_statistics(self.server.statistics(name or None, version or None))

    def index(self, ready: bool, repository: str = "") -> list[dict[str, str]]:
        """The models of a RepositoryIndexResponse.

        Raises:
            UnsupportedError: A repository is named: there is but one.
        """
        self._check_repository(repository)
        return describe_index(self.server.index(ready=ready))

    async def load(self, access: Access, name: str, parameters: Mapping[str, Any], repository: str = "") -> None:
        """Loads a model, or loads it anew.

        Raises:
            ForbiddenError: Not at this port, or with a file or a configuration of the client's.
            ModelNotFoundError: The repository has no such model.
            GraphcError: It cannot be loaded; what was served before still is.
        """
        access.check_control("loading a model")
        self._check_repository(repository)
        for key in parameters:
            # The protocol lets a client send model files and their configuration: code that the operator never saw.
            raise ForbiddenError(
                f"loading a model takes no parameter {key!r:.80}", hint="put it into the server's repository"
            )
        _check_name(name)
        await self.server.load(name)

    async def unload(self, access: Access, name: str, parameters: Mapping[str, Any], repository: str = "") -> None:
        """Serves a model no more.

        Raises:
            ForbiddenError: Not at this port.
            UnsupportedError: Its dependents are to be unloaded too: it has none.
            ModelNotFoundError: There is no such model.
        """
        access.check_control("unloading a model")
        self._check_repository(repository)
        for key, value in parameters.items():
            if key != "unload_dependents" or value is not False:
                raise UnsupportedError(f"unloading a model takes no parameter {key!r:.80}")
        await self.server.unload(name)

    @staticmethod
    def _check_repository(repository: str) -> None:
        if repository:
            raise UnsupportedError(f"there is one repository, without a name; {repository!r:.80} was asked for")

    def log_settings(self, access: Access, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The log settings, after changes if there are any.

        Raises:
            ForbiddenError: Changes, and not at this port; or a file.
            RequestError: Unknown or ill-typed settings.
        """
        if not changes:
            return self.log.current()
        access.check_control("changing log settings")
        return self.log.update(changes)

    def trace_settings(self, access: Access, changes: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """The trace settings of a model or of all, after changes if there are any.

        Raises:
            ForbiddenError: Changes, and not at this port; or a file.
            ModelNotFoundError: There is no such model.
            RequestError: Unknown or ill-typed settings.
        """
        if model:
            self.server.model_ready(model)
        if not changes:
            return self.trace.current(model)
        access.check_control("changing trace settings")
        return self.trace.update(changes, model)

    def register_cuda(self) -> None:
        """Registers CUDA shared memory, which is not shared with clients.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError("this server shares no CUDA memory with its clients")


def _check_name(name: str) -> None:
    # It becomes a folder's: nothing but a name may.
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ModelNotFoundError(f"{name!r:.80} is no name of a model")
