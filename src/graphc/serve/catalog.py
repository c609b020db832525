"""The models that the server knows, their versions, and the state that each is in. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphc.errors import ModelNotFoundError, ModelUnavailableError
from graphc.package import Manifest
from graphc.runtime import Executable
from graphc.runtime.scheduler import ServedModel
from graphc.serve.facts import IndexEntry, State
from graphc.serve.model_file import ModelFile
from graphc.serve.repository import Snapshot
from graphc.serve.routing import Router

RETRY_LOADING = 1.0
RETRY_UNAVAILABLE = 5.0
"""Seconds after which a client may ask again for a version that loads, or that did not load."""


@dataclass(frozen=True)
class Serving:
    """What serves a version, exchanged as a whole when it is loaded anew.

    Attributes:
        executable: That runs.
        served: The scheduler's handle of it.
        digest: Hash of its contents.
        file: The settings that it was loaded with.
    """

    executable: Executable
    served: ServedModel
    digest: str
    file: ModelFile

    @property
    def manifest(self) -> Manifest:
        """Of its package."""
        return self.executable.manifest


@dataclass
class Version:
    """One version of one model.

    Attributes:
        model: Name of the model.
        number: Of the version.
        state: That it is in; a version that is loaded anew stays ready meanwhile.
        reason: Why it is not ready; or, of one that is, why what the repository has now does not serve.
        serving: What answers, where it is ready or unloading.
        tried: What its folder looked like when it was last loaded, or tried to be.
        failed: Whether that went wrong.
        failures: How often in a row.
        retry_at: When it may be tried again though it looks the same, on the event loop's clock.
    """

    model: str
    number: int
    state: State = State.LOADING
    reason: str = ""
    serving: Serving | None = field(default=None, repr=False)
    tried: Snapshot | None = field(default=None, repr=False)
    failed: bool = False
    failures: int = 0
    retry_at: float = 0.0

    @property
    def name(self) -> str:
        """What messages and the scheduler call it."""
        return f"{self.model}/{self.number}"


@dataclass
class Model:
    """A model.

    Attributes:
        name: Of the model.
        file: Its settings.
        settings: What `model.toml` looked like when it was last read.
        problem: What is wrong with it as a whole: settings that cannot be read, no versions.
        versions: By number.
        router: Which version a request goes to that names none.
        lock: Held while it is loaded, unloaded or looked at.
    """

    name: str
    file: ModelFile = field(default_factory=ModelFile)
    settings: Snapshot | None = None
    problem: str = ""
    versions: dict[int, Version] = field(default_factory=dict)
    router: Router = field(default_factory=lambda: Router({}))
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ready(self) -> list[int]:
        """Numbers of the versions that answer, ascending."""
        return sorted(number for number, version in self.versions.items() if version.state is State.READY)

    def index(self) -> list[IndexEntry]:
        """Its versions with their states."""
        if not self.versions:
            return [IndexEntry(self.name, "", State.UNAVAILABLE, self.problem)]
        return [
            IndexEntry(self.name, str(number), version.state, version.reason or self.problem)
            for number, version in sorted(self.versions.items())
        ]


class Catalog:
    """All models by name."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}

    def close(self) -> None:
        """Lets go of what serves; nothing is to be asked of it any more."""
        for model in self.models.values():
            for version in model.versions.values():
                if version.serving is not None:
                    version.serving.executable.close()
                    version.serving, version.state, version.reason = None, State.UNAVAILABLE, "the server has stopped"

    def model(self, name: str) -> Model:
        """A model.

        Raises:
            ModelNotFoundError: There is none of this name.
        """
        found = self.models.get(name)
        if found is None:
            raise ModelNotFoundError(
                f"there is no model {name!r}", hint=f"there are: {', '.join(sorted(self.models)) or 'none'}"
            )
        return found

    def version(self, name: str, version: str) -> Version:
        """A version by its number or a label, in whatever state.

        Raises:
            ModelNotFoundError: There is no such model, version or label.
        """
        model = self.model(name)
        labels: Mapping[str, int] = model.file.labels
        # Nothing that came over a network is made an integer before its length is known.
        short = version.isascii() and version.isdecimal() and len(version) < 19
        number = int(version) if short else labels.get(version)
        if number is None or number not in model.versions:
            if number is not None and not short:
                raise ModelNotFoundError(f"label {version!r} of {name!r} means version {number}, which is not there")
            known = ", ".join([*map(str, sorted(model.versions)), *sorted(labels)])
            raise ModelNotFoundError(f"model {name!r} has no version {version[:80]!r}", hint=f"it has: {known}")
        return model.versions[number]

    def find(self, name: str, version: str | None, key: str | None = None) -> tuple[Version, Serving]:
        """The version that a request goes to, and what serves it.

        Args:
            name: Of the model.
            version: A number or a label; None lets the traffic shares decide, else the latest that is ready.
            key: What keeps requests on one version where traffic is shared.

        Raises:
            ModelNotFoundError: There is no such model, version or label.
            ModelUnavailableError: It is not ready.
        """
        if version:
            found = self.version(name, version)
        else:
            model = self.model(name)
            number = model.router.choose(model.ready, key)
            if number is None:
                raise _none_ready(model)
            found = model.versions[number]
        if found.state is not State.READY or found.serving is None:
            raise _unavailable(found)
        return found, found.serving


def _unavailable(version: Version) -> ModelUnavailableError:
    why = f": {version.reason}" if version.reason else ""
    loading = version.state is State.LOADING
    return ModelUnavailableError(
        f"{version.name} is {version.state.value.lower()}{why}",
        retry_after=RETRY_LOADING if loading else RETRY_UNAVAILABLE,
    )


def _none_ready(model: Model) -> ModelUnavailableError:
    if not model.versions:
        return ModelUnavailableError(f"{model.name}: {model.problem}", retry_after=RETRY_UNAVAILABLE)
    latest = model.versions[max(model.versions)]
    loading = next((each for each in model.versions.values() if each.state is State.LOADING), latest)
    return _unavailable(loading)
