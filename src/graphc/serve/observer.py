"""Who watches the server: metrics, traces, logs and audits all hear of everything here, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.errors import (
    AuditError,
    CircuitOpenError,
    DeadlineError,
    ExecutionError,
    GraphcError,
    InputError,
    ModelNotFoundError,
    ModelUnavailableError,
    OptionError,
    QueueFullError,
    RefusedError,
    RequestError,
)
from graphc.runtime.scheduler import BatchReport
from graphc.serve.facts import State
from graphc.serve.request import InferRequest, InferResponse, Timings

_log = logging.getLogger(__name__)

SUCCESS = "success"
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (asyncio.CancelledError, "cancelled"),
    (ModelNotFoundError, "not_found"),
    (ModelUnavailableError, "unavailable"),
    (AuditError, "audit"),
    (QueueFullError, "queue_full"),
    (CircuitOpenError, "circuit_open"),
    (RefusedError, "refused"),
    (DeadlineError, "timeout"),
    (InputError, "invalid"),
    (RequestError, "invalid"),
    (OptionError, "invalid"),
    (ExecutionError, "failed"),
)


def reason_of(error: BaseException) -> str:
    """Why a request was not answered, in one word.

    `cancelled`, `not_found`, `unavailable` (the model is not ready), `audit` (its log cannot be written), `queue_full`,
    `circuit_open`, `refused` (it would have been late), `timeout` (its own was over before it ran), `invalid`, `failed`
    (the model), or `internal`.
    """
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "internal")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended.

    Attributes:
        request: That ended.
        version: Number of the version that it was for; None where none was found.
        reason: `success`, or why not (`reason_of`).
        timings: Where its time went, as far as it came.
        response: Where it was answered.
        error: Where it was not.
    """

    request: InferRequest
    version: str | None
    reason: str
    timings: Timings
    response: InferResponse | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A version went from one state to another.

    Attributes:
        model: Name of the model.
        version: Its number.
        state: That it is in now.
        reason: Why it is not ready, where it is not.
        seconds: That the step took, e.g. loading.
        reload: Whether it takes or took the place of the same version.
    """

    model: str
    version: str
    state: State
    reason: str = ""
    seconds: float = 0.0
    reload: bool = False


class Observer:
    """Told what happens. Overrides what it cares about; all are to be quick, since requests wait for them.

    `received`, `answering` and `ended` run in the event loop. A `GraphcError` that `received` or `answering` raises is
    the request's: so an audit log that cannot be written to refuses it or withholds its answer. Any other exception is
    logged.
    """

    def received(self, request: InferRequest) -> None:
        """A request came; it ends in exactly one `ended`."""

    def accepted(self, request: InferRequest, version: str) -> None:
        """It was accepted by a version and waits, or runs."""

    def answering(self, event: Ended) -> None:
        """It has an answer, which goes out if no observer objects; `ended` then tells how it ended."""

    def ended(self, event: Ended) -> None:
        """It was answered, refused or failed, or its client went away."""

    def executed(self, model: str, version: str, batch: BatchReport) -> None:
        """A batch has run; told by the thread that ran it."""

    def changed(self, event: Changed) -> None:
        """A version's state changed; told in the event loop."""


class Observers(Observer):
    """Several observers as one: an exception of one keeps nothing from the others."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._all = tuple(observers)

    def received(self, request: InferRequest) -> None:
        """As `Observer`."""
        self._tell(lambda observer: observer.received(request), raises=True)

    def accepted(self, request: InferRequest, version: str) -> None:
        """As `Observer`."""
        self._tell(lambda observer: observer.accepted(request, version))

    def answering(self, event: Ended) -> None:
        """As `Observer`."""
        self._tell(lambda observer: observer.answering(event), raises=True)

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        self._tell(lambda observer: observer.ended(event))

    def executed(self, model: str, version: str, batch: BatchReport) -> None:
        """As `Observer`."""
        self._tell(lambda observer: observer.executed(model, version, batch))

    def changed(self, event: Changed) -> None:
        """As `Observer`."""
        self._tell(lambda observer: observer.changed(event))

    def _tell(self, what: Callable[[Observer], None], *, raises: bool = False) -> None:
        refusal: GraphcError | None = None
        for observer in self._all:
            try:
                what(observer)
            except GraphcError as error:
                if not raises:
                    _log.exception("%s failed", type(observer).__name__)
                refusal = refusal or error
            except Exception:
                _log.exception("%s failed", type(observer).__name__)
        if raises and refusal is not None:
            raise refusal
