from __future__ import annotations

import math

import grpc
import pytest

from graphc import errors
from graphc.serve.protocol.statuses import message_of, retry_after, status_of


@pytest.mark.parametrize(
    ("error", "http", "code"),
    [
        (errors.InputError("x"), 400, "INVALID_ARGUMENT"),
        (errors.ShapeNotCompiledError("x"), 400, "INVALID_ARGUMENT"),
        (errors.RequestError("x"), 400, "INVALID_ARGUMENT"),
        (errors.RequestTooLargeError("x"), 413, "INVALID_ARGUMENT"),
        (errors.RequestTimeoutError("x"), 408, "DEADLINE_EXCEEDED"),
        (errors.UnauthenticatedError("x"), 401, "UNAUTHENTICATED"),
        (errors.ForbiddenError("x"), 403, "PERMISSION_DENIED"),
        (errors.ModelNotFoundError("x"), 404, "NOT_FOUND"),
        (errors.UnsupportedError("x"), 501, "UNIMPLEMENTED"),
        (errors.QueueFullError("x", retry_after=2.5), 503, "UNAVAILABLE"),
        (errors.CircuitOpenError("x", retry_after=2.5), 503, "UNAVAILABLE"),
        (errors.DeadlineError("x"), 503, "UNAVAILABLE"),
        (errors.SchedulerClosedError("x"), 503, "UNAVAILABLE"),
        (MemoryError(), 503, "UNAVAILABLE"),
        (errors.ExecutionError("x"), 500, "INTERNAL"),
        (KeyError("secret"), 500, "INTERNAL"),
    ],
)
def test_each_error_has_its_status(error, http, code):
    status = status_of(error)
    assert (status.http, status.grpc) == (http, code)
    assert hasattr(grpc.StatusCode, code)
    assert (retry_after(error) is not None) == (http == 503)
    assert "secret" not in message_of(error)


def test_when_to_come_back():
    assert retry_after(errors.RefusedError("x", retry_after=0.25)) == 0.25
    assert retry_after(errors.RefusedError("x", retry_after=math.inf)) == 1.0
    assert message_of(errors.RefusedError("no", retry_after=1, hint="later")) == "no; later"
