"""Structured logs: a line an event, as JSON or text, with the id of the request that it is about."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from graphc.errors import OptionError
from graphc.serve.observer import SUCCESS, Changed, Ended, Observer
from graphc.serve.request import InferRequest

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
REQUEST_ID: ContextVar[str] = ContextVar("graphc_request_id", default="")
"""Of the request that the present task answers."""
ROOT = "graphc"

_log = logging.getLogger(__name__)
_LEVELS = {"failed": logging.ERROR, "internal": logging.ERROR, SUCCESS: logging.DEBUG}


def configure(format: str = "text", level: str = "info", stream: TextIO | None = None) -> logging.Handler:
    """Sends what graphc and the servers below it say to one stream, in one format.

    Args:
        format: `text` or `json`.
        level: The least that is said: `debug`, `info`, `warning` or `error`.
        stream: Where to; stderr if None.

    Returns:
        The handler, which `remove` takes.

    Raises:
        OptionError: There is no such format or level.
    """
    if format not in FORMATS:
        raise OptionError(f"log format is {format!r}; expected one of {', '.join(FORMATS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    set_level(level)
    for name in (ROOT, "uvicorn", "grpc"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
    return handler


def remove(handler: logging.Handler) -> None:
    """Undoes `configure`."""
    for name in (ROOT, "uvicorn", "grpc"):
        logger = logging.getLogger(name)
        logger.removeHandler(handler)
        logger.propagate = True


def level() -> str:
    """The least that is said now."""
    return logging.getLevelName(logging.getLogger(ROOT).getEffectiveLevel()).lower()


def set_level(name: str) -> None:
    """Says more or less from now on.

    Raises:
        OptionError: There is no such level.
    """
    if name not in LEVELS:
        raise OptionError(f"log level is {name!r}; expected one of {', '.join(LEVELS)}")
    logging.getLogger(ROOT).setLevel(name.upper())


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """As the library asks for it."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := REQUEST_ID.get():
            line["request_id"] = request
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: `time LEVEL message key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """As the library asks for it."""
        fields: dict[str, Any] = {"request_id": REQUEST_ID.get()} if REQUEST_ID.get() else {}
        fields.update(getattr(record, "fields", {}))
        # A client's text must not be able to end the line and begin another.
        said = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        message = record.getMessage().replace("\n", " ").replace("\r", " ")
        text = f"{_time(record)} {record.levelname:<7} {message}{said}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class RequestLog(Observer):
    """Says how requests ended, and at `debug` what became of versions, in fields.

    Answers are told at `debug`, what clients or the load are to blame for at `info`, what the model or the server is
    at `error`. Of what is not answered no more than one line a second is written for a model and a reason, which says
    how many more there were: an overload must not drown in its own log.

    Args:
        clock: Seconds; monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._prefix = f"{os.getpid():x}-{int(time.time()):x}"
        self._numbers = itertools.count(1)
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def received(self, request: InferRequest) -> None:
        """As `Observer`: what is logged in the request's task from now on has its id."""
        REQUEST_ID.set(request.id or f"{self._prefix}-{next(self._numbers):x}")

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        level = _LEVELS.get(event.reason, logging.INFO)
        if not _log.isEnabledFor(level):
            return
        more = 0
        if event.reason != SUCCESS:
            # A name that the server does not have could be any: such requests share one line.
            key = (event.request.model if event.version is not None else "", event.reason)
            last, more = self._said.get(key, (-1.0, 0))
            now = self._clock()
            if last >= 0 and now - last < 1:
                self._said[key] = (last, more + 1)
                return
            self._said[key] = (now, 0)
        timings = event.timings
        fields: dict[str, Any] = {
            "model": event.request.model,
            "version": event.version,
            "outcome": event.reason,
            "seconds": round(timings.total, 6),
            "client": event.request.client.address,
            "protocol": event.request.client.protocol,
        }
        if event.request.client.identity:
            fields["identity"] = event.request.client.identity
        if event.error is not None:
            fields["error"] = str(event.error)
        if event.response is not None:
            fields.update(queue=round(timings.queue, 6), infer=round(timings.infer, 6), rows=timings.rows)
        if more:
            fields["more"] = more
        unexpected = event.error if event.reason == "internal" else None
        _log.log(level, "request", extra={"fields": fields}, exc_info=unexpected)

    def changed(self, event: Changed) -> None:
        """As `Observer`."""
        fields: dict[str, Any] = {"model": event.model, "version": event.version, "state": event.state.value}
        if event.reason:
            fields["reason"] = event.reason
        if event.seconds:
            fields["seconds"] = round(event.seconds, 6)
        _log.debug("model", extra={"fields": fields})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)
