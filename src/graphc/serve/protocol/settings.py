"""Log and trace settings as the protocol's extensions have them; neither ever names a file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from graphc.errors import ForbiddenError, RequestError, UnsupportedError
from graphc.serve.observe import logs


class LogSettings:
    """How much the server logs: `log_verbose_level`, `log_info`, `log_warning` and `log_error`."""

    def current(self) -> dict[str, Any]:
        """All settings."""
        rank = logs.LEVELS.index(logs.level())
        return {
            "log_file": "",
            "log_info": rank <= logs.LEVELS.index("info"),
            "log_warning": rank <= logs.LEVELS.index("warning"),
            "log_error": True,
            "log_verbose_level": int(rank == logs.LEVELS.index("debug")),
            "log_format": "default",
        }

    def update(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """All settings after some were changed; null leaves one as it is.

        Raises:
            RequestError: There is no such setting, or a value is ill-typed.
            ForbiddenError: A log file is named: where logs go is for who starts the server to say.
            UnsupportedError: Another format, or no errors.
        """
        wanted = self.current()
        for key, value in changes.items():
            if key not in wanted:
                raise RequestError(f"unknown log setting {key!r:.80}", hint=f"it is one of {', '.join(wanted)}")
            if value is None or value == wanted[key]:
                continue
            if key == "log_file":
                raise ForbiddenError("log_file cannot be set by a client", hint="redirect the server's stderr")
            if key == "log_format":
                raise UnsupportedError("log_format cannot be changed while the server runs")
            kind = int if key == "log_verbose_level" else bool
            if type(value) is not kind or value < 0:
                raise RequestError(f"{key} must be {'a whole number' if kind is int else 'true or false'}")
            if key == "log_error":
                raise UnsupportedError("errors are always logged")
            wanted[key] = value
        if wanted["log_verbose_level"]:
            logs.set_level("debug")
        elif wanted["log_info"]:
            logs.set_level("info")
        else:
            logs.set_level("warning" if wanted["log_warning"] else "error")
        return self.current()


class TraceSettings:
    """Which requests are traced: `trace_level` OFF or TIMESTAMPS, one in `trace_rate`, `trace_count` more at most.

    Args:
        available: Whether the server was started with somewhere to send traces.
    """

    def __init__(self, *, available: bool = False) -> None:
        self._available = available
        self._default: dict[str, Any] = {
            "trace_level": ["TIMESTAMPS" if available else "OFF"],
            "trace_rate": "1",
            "trace_count": "-1",
            "log_frequency": "0",
            "trace_file": "",
            "trace_mode": "opentelemetry",
        }
        self._models: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count()

    def current(self, model: str = "") -> dict[str, Any]:
        """The settings of a model, or of all that have none of their own."""
        return dict(self._models.get(model, self._default))

    def update(self, changes: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """The settings of a model, or of all, after some were changed; null sets one back.

        Raises:
            RequestError: There is no such setting, or a value is ill-typed.
            ForbiddenError: A file is named.
            UnsupportedError: Another mode, or the server was started without traces.
        """
        fresh = TraceSettings(available=self._available)._default if not model else self._default
        wanted = self.current(model)
        for key, value in changes.items():
            if key not in wanted:
                raise RequestError(f"unknown trace setting {key!r:.80}", hint=f"it is one of {', '.join(wanted)}")
            wanted[key] = fresh[key] if value is None else self._checked(key, value)
        if model:
            self._models[model] = wanted
        else:
            self._default = wanted
        return dict(wanted)

    def _checked(self, key: str, value: Any) -> Any:
        if key == "trace_level":
            levels = [value] if isinstance(value, str) else value
            if not isinstance(levels, list) or any(level not in ("OFF", "TIMESTAMPS") for level in levels):
                raise RequestError(f"trace_level must be OFF or TIMESTAMPS, got {value!r:.80}")
            levels = [level for level in levels if level != "OFF"] or ["OFF"]
            if levels != ["OFF"] and not self._available:
                raise UnsupportedError(
                    "the server was started without anywhere to send traces",
                    hint="start it with OTEL_EXPORTER_OTLP_ENDPOINT set",
                )
            return levels
        text = value[0] if isinstance(value, list) and len(value) == 1 else value
        text = str(text) if type(text) is int else text
        if not isinstance(text, str):
            raise RequestError(f"{key} must be a string, got {value!r:.80}")
        if key == "trace_file":
            if text:
                raise ForbiddenError("trace_file cannot be set by a client")
        elif key == "trace_mode":
            if text != "opentelemetry":
                raise UnsupportedError(f"trace_mode {text!r:.80} is not supported; it is opentelemetry")
        elif not text.removeprefix("-").isdecimal() or int(text[:20]) < (1 if key == "trace_rate" else -1):
            raise RequestError(f"{key} must be a whole number, got {text!r:.80}")
        return text

    def sample(self, model: str) -> bool:
        """Whether a request for a model is to be traced; counts it where it is."""
        chosen = self._models.get(model, self._default)
        if chosen["trace_level"] == ["OFF"] or chosen["trace_count"] == "0":
            return False
        if next(self._numbers) % int(chosen["trace_rate"]):
            return False
        if chosen["trace_count"] != "-1":
            chosen["trace_count"] = str(int(chosen["trace_count"]) - 1)
        return True
