"""Who watches the server: metrics, traces, logs and audits all hear of everything here, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
        # Every request is told of four times: only those are called that do anything with it.
        self._received = [each.received for each in observers if _cares(each, Observer.received)]
        self._accepted = [each.accepted for each in observers if _cares(each, Observer.accepted)]
        self._answering = [each.answering for each in observers if _cares(each, Observer.answering)]
        self._ended = [each.ended for each in observers if _cares(each, Observer.ended)]
        self._executed = [each.executed for each in observers if _cares(each, Observer.executed)]
        self._changed = [each.changed for each in observers if _cares(each, Observer.changed)]

    def received(self, request: InferRequest) -> None:
        """As `Observer`."""
        _tell_who_may_object(self._received, request)

    def accepted(self, request: InferRequest, version: str) -> None:
        """As `Observer`."""
        _tell(self._accepted, request, version)

    def answering(self, event: Ended) -> None:
        """As `Observer`."""
        _tell_who_may_object(self._answering, event)

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        _tell(self._ended, event)

    def executed(self, model: str, version: str, batch: BatchReport) -> None:
        """As `Observer`."""
        _tell(self._executed, model, version, batch)

    def changed(self, event: Changed) -> None:
        """As `Observer`."""
        _tell(self._changed, event)


def _cares(observer: Observer, method: Callable[..., None]) -> bool:
    return getattr(type(observer), method.__name__) is not method


def _tell(whom: Sequence[Callable[..., None]], *what: Any) -> None:
    for call in whom:
        try:
            call(*what)
        except Exception:
            _log.exception("%s failed", call.__qualname__)


def _tell_who_may_object(whom: Sequence[Callable[..., None]], what: Any) -> None:
    refusal: GraphcError | None = None
    for call in whom:
        try:
            call(what)
        except GraphcError as error:
            refusal = refusal or error
        except Exception:
            _log.exception("%s failed", call.__qualname__)
    if refusal is not None:
        raise refusal
