"""The audit log: who asked which version of which model when, and hashes of what came and what was answered."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from graphc.errors import AuditError, OptionError
from graphc.serve.observer import Ended, Observer
from graphc.serve.request import InferRequest

FAILURES = ("refuse", "warn")
RETRY = 1.0
"""Seconds after a failure before the log is tried again."""

_log = logging.getLogger(__name__)


class AuditLog(Observer):
    """Appends a line of JSON for every request that ended; see `record`.

    A line is written before its answer goes out. Where that fails, as on a full disk, the answer is withheld and
    further requests are refused until the log can be written again (`refuse`), or the loss is logged (`warn`); when it
    can, a line says how many are missing. A line is whole or not there.

    Args:
        path: The log, made if it is not there. When full, it becomes `path.1`, that `path.2`, and so on.
        max_bytes: Of a file, beyond which the next one is begun.
        keep: Old files that are kept; None keeps all.
        on_failure: `refuse` or `warn`.
        clock: Seconds; monotonic.

    Raises:
        AuditError: The log cannot be opened, or another process writes to it.
        OptionError: An option is out of range.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 256 << 20,
        keep: int | None = None,
        on_failure: str = "refuse",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if on_failure not in FAILURES:
            raise OptionError(f"on_failure is {on_failure!r}; expected one of {', '.join(FAILURES)}")
        if max_bytes < 1 or (keep is not None and keep < 0):
            raise OptionError(f"max_bytes is {max_bytes}, keep is {keep}; expected 1 or more, and 0 or more")
        self.path = path
        self.max_bytes = max_bytes
        self.keep = keep
        self.on_failure = on_failure
        self._clock = clock
        self._lost = 0
        self._retry_at = 0.0
        try:
            self._file, self._size = _open(path)
        except OSError as error:
            raise AuditError(
                f"the audit log {str(path)!r} cannot be written: {error.strerror}", retry_after=RETRY
            ) from error

    def close(self) -> None:
        """Writes no more."""
        os.close(self._file)

    def received(self, request: InferRequest) -> None:
        """As `Observer`.

        Raises:
            AuditError: The log cannot be written, and nothing may happen that is not in it.
        """
        if self._lost and self.on_failure == "refuse" and not self._recovered():
            raise AuditError(
                f"the audit log {self.path.name!r} cannot be written, so no request is answered",
                retry_after=max(0.0, self._retry_at - self._clock()),
                hint="make room where it lies; the server tries again by itself",
            )

    def answering(self, event: Ended) -> None:
        """As `Observer`.

        Raises:
            AuditError: It could not be written down, and therefore may not be answered.
        """
        if not self._kept(event) and self.on_failure == "refuse":
            raise AuditError(
                f"the audit log {self.path.name!r} cannot be written, so the answer is withheld",
                retry_after=max(0.0, self._retry_at - self._clock()),
            )

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        # Answers are written down before they go out, and what the log itself refused it could not take.
        if event.response is None and not isinstance(event.error, AuditError):
            self._kept(event)

    def _kept(self, event: Ended) -> bool:
        """Writes a request down; whether that went well."""
        if not self._lost or self._recovered():
            try:
                self._write(record(event))
            except OSError as error:
                self._retry_at = self._clock() + RETRY
                _log.error("the audit log %s cannot be written: %s", self.path, error.strerror)
            else:
                return True
        self._lost += 1
        return False

    def _recovered(self) -> bool:
        """Whether the log can be written again, and says what it misses."""
        if self._clock() < self._retry_at:
            return False
        try:
            self._write({"time": _now(), "event": "gap", "lost": self._lost})
        except OSError:
            self._retry_at = self._clock() + RETRY
            return False
        _log.warning("the audit log %s is written again; it misses %d requests", self.path, self._lost)
        self._lost = 0
        return True

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if self._size and self._size + len(data) > self.max_bytes:
            self._rotate()
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # Half a line would spoil the next one.
            os.ftruncate(self._file, self._size)
            raise
        self._size += written

    def _rotate(self) -> None:
        # It is not there where an earlier attempt got this far and could not open the next one.
        if self.path.exists():
            for number, path in sorted(self._old(), reverse=True):
                if self.keep is not None and number >= self.keep:
                    path.unlink()
                else:
                    path.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
            if self.keep == 0:
                self.path.unlink()
            else:
                self.path.rename(self.path.with_name(f"{self.path.name}.1"))
        previous = self._file
        self._file, self._size = _open(self.path)
        os.close(previous)

    def _old(self) -> Iterator[tuple[int, Path]]:
        """Files that are full, and their numbers."""
        prefix = f"{self.path.name}."
        for path in self.path.parent.iterdir():
            if path.name.startswith(prefix) and (number := path.name.removeprefix(prefix)).isdecimal():
                yield int(number), path


def record(event: Ended) -> dict[str, Any]:
    """What is written down about a request: time, client, model, version, outcome, seconds, and hashes."""
    request = event.request
    line: dict[str, Any] = {
        "time": _now(),
        "event": "request",
        "id": request.id,
        "protocol": request.client.protocol,
        "address": request.client.address,
        "identity": request.client.identity,
        "model": request.model,
        "version": event.version,
        "outcome": event.reason,
        "seconds": round(event.timings.total, 6),
        "inputs": {name: digest(value) for name, value in request.inputs.items()},
    }
    if event.response is not None:
        line["outputs"] = {name: digest(value) for name, value in event.response.outputs.items()}
    return line


def digest(value: Any) -> str:
    """SHA-256 of a tensor, over its dtype, shape and elements in row-major order; likewise of lists, maps and None."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if value is None:
        found.update(b"none;")
    elif isinstance(value, Mapping):
        found.update(f"map:{len(value)};".encode())
        for key, each in value.items():
            _feed(found, np.asarray(key))
            _feed(found, each)
    elif isinstance(value, list | tuple):
        found.update(f"sequence:{len(value)};".encode())
        for each in value:
            _feed(found, each)
    else:
        array = np.asarray(value)
        text = array.dtype.kind in "OUST"
        name = "string" if text else array.dtype.name
        found.update(f"{name}:{','.join(map(str, array.shape))};".encode())
        if text:
            for element in array.ravel().tolist():
                data = element if isinstance(element, bytes) else str(element).encode("utf-8", "surrogateescape")
                found.update(f"{len(data)}:".encode() + data)
        elif array.size:
            found.update(np.ascontiguousarray(array).view(np.uint8).data)


def _open(path: Path) -> tuple[int, int]:
    """A file to append to, that no other process appends to, and its size."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise OSError(error.errno, "another process writes to it") from error
    return file, os.fstat(file).st_size


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
