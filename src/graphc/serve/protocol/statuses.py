"""One table: what each typed error is in HTTP and in gRPC."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.errors import (
    DeadlineError,
    ForbiddenError,
    GraphcError,
    InputError,
    ModelNotFoundError,
    OptionError,
    RefusedError,
    RequestError,
    RequestTimeoutError,
    RequestTooLargeError,
    SchedulerClosedError,
    UnauthenticatedError,
    UnsupportedError,
)


@dataclass(frozen=True, slots=True)
class Status:
    """A status in both protocols.

    Attributes:
        http: Code of the response.
        grpc: Name of the `grpc.StatusCode`.
    """

    http: int
    grpc: str


INTERNAL = Status(500, "INTERNAL")
UNAVAILABLE = Status(503, "UNAVAILABLE")

_STATUSES: dict[type[BaseException], Status] = {
    RequestError: Status(400, "INVALID_ARGUMENT"),
    InputError: Status(400, "INVALID_ARGUMENT"),
    OptionError: Status(400, "INVALID_ARGUMENT"),
    UnauthenticatedError: Status(401, "UNAUTHENTICATED"),
    ForbiddenError: Status(403, "PERMISSION_DENIED"),
    ModelNotFoundError: Status(404, "NOT_FOUND"),
    RequestTimeoutError: Status(408, "DEADLINE_EXCEEDED"),
    RequestTooLargeError: Status(413, "INVALID_ARGUMENT"),
    UnsupportedError: Status(501, "UNIMPLEMENTED"),
    RefusedError: UNAVAILABLE,
    DeadlineError: UNAVAILABLE,
    SchedulerClosedError: UNAVAILABLE,
    MemoryError: UNAVAILABLE,
}
_LATER = 1.0
"""Seconds after which to come back where nothing is known."""


def status_of(error: BaseException) -> Status:
    """The status of an error: its own, else that of the nearest class above it that has one, else `INTERNAL`."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), INTERNAL)


def message_of(error: BaseException) -> str:
    """What the client is told: a typed error's words; of others nothing, which may say what is not its business."""
    if isinstance(error, GraphcError):
        return str(error).replace("\n  hint: ", "; ")
    if isinstance(error, MemoryError):
        return "the server is out of memory"
    return "internal error"


def retry_after(error: BaseException) -> float | None:
    """Seconds after which a client may come back; None where coming back does not help.

    The scheduler's figure where it gave one, from what the model costs and what waits.
    """
    if status_of(error) is not UNAVAILABLE:
        return None
    seconds = getattr(error, "retry_after", _LATER)
    return seconds if math.isfinite(seconds) and seconds >= 0 else _LATER
