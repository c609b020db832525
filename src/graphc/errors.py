"""Typed errors: everything graphc raises on purpose derives from `GraphcError`.

An error names the user's own node, input or file, says what was expected and what came, and says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class GraphcError(Exception):
    """Base of every error that graphc raises on purpose.

    Args:
        message: What went wrong, in the user's terms.
        nodes: Names of the ONNX nodes that the error is about, if any.
        hint: What to do next, if something can be done.
    """

    def __init__(self, message: str, *, nodes: Sequence[str] = (), hint: str | None = None) -> None:
        self.message = message
        self.nodes = tuple(nodes)
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        text = self.message
        if self.nodes:
            text += f" [node {', '.join(repr(name) for name in self.nodes)}]"
        if self.hint:
            text += f"\n  hint: {self.hint}"
        return text


class ModelError(GraphcError):
    """The model file is not a valid ONNX model: truncated, cyclic, dangling, ill-typed, or unsafe to read."""


class TypeInferenceError(ModelError):
    """A node's inputs or attributes do not fit its operator: shapes, dtypes or attribute values disagree."""


class UnsupportedError(GraphcError):
    """The model is valid, but graphc has no way to run (part of) it with the options given."""


class OptionError(GraphcError):
    """A compile option, target, pass name or binding is unknown or out of range."""


class VerifyError(GraphcError):
    """The graph breaks an invariant of the IR: a defect in a pass, not in the user's model."""


class ParseError(GraphcError):
    """Text form could not be parsed; carries the place.

    Args:
        message: What was expected and what was found.
        line: One-based line number.
        column: One-based column number.
        source_line: The offending line, shown with a caret under the column.
    """

    def __init__(self, message: str, *, line: int, column: int, source_line: str) -> None:
        self.line = line
        self.column = column
        self.source_line = source_line
        start = max(0, column - 1 - _WINDOW) if len(source_line) > 2 * _WINDOW else 0
        shown = ("..." if start else "") + source_line[start : start + 2 * _WINDOW]
        caret = " " * (column - 1 - start + (3 if start else 0)) + "^"
        super().__init__(f"line {line}, column {column}: {message}\n  {shown}\n  {caret}")


_WINDOW = 80
"""Characters of a long line shown on each side of a parse error."""


class PassError(GraphcError):
    """A pass failed or broke an invariant; names the pass and those already run."""

    reproducer: str = ""
    """The failing pass and the graph it was given, in text form; empty where verification was off."""


class BackendError(GraphcError):
    """A backend could not lower, compile or link a kernel."""


class ToolchainError(BackendError):
    """A tool that the compile needs (a linker, TVM, onnx) is not installed; the hint says what to install."""


class PackageError(GraphcError):
    """A `.graphc` file is damaged, of another format version, or needs what this machine lacks."""


class DeviceError(GraphcError):
    """A GPU cannot be used: there is none, no driver or an old one, or it was in use before the process was forked."""


class InputError(GraphcError):
    """A call's inputs do not fit the model: missing, unknown, wrong dtype, rank or extent."""


class ShapeNotCompiledError(InputError):
    """The inputs are valid, but no variant of the package covers their shapes and none can be compiled here."""


class ExecutionError(GraphcError):
    """A step of a running model reported a failure, e.g. an index out of range; names the step."""


class RefusedError(GraphcError):
    """The scheduler did not accept a request: it would have been late, or others came first. Nothing was run.

    Args:
        message: Why.
        retry_after: Seconds after which the same request would be accepted if nothing else came.
        hint: What to do next.
    """

    def __init__(self, message: str, *, retry_after: float, hint: str | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message, hint=hint)


class QueueFullError(RefusedError):
    """As many requests wait as may wait."""


class CircuitOpenError(RefusedError):
    """The model failed several times in a row and is left alone for a while."""


class DeadlineError(GraphcError):
    """A request's own time limit passed before it was run."""


class SchedulerClosedError(GraphcError):
    """The scheduler is closed, or was closed before the request was run."""


class RequestError(GraphcError):
    """A request to a server is malformed: an unknown output, a parameter out of range, a body that cannot be read."""


class ModelNotFoundError(GraphcError):
    """A server has no model, version or label of this name."""


class ModelUnavailableError(RefusedError):
    """A server has this model, but cannot answer for it now: it loads, unloads, failed to load, or the server stops."""


class RepositoryError(GraphcError):
    """A model repository cannot be served: no such folder, settings that are ill-typed, a model without versions."""


class ListenError(GraphcError):
    """A server cannot listen: its port is taken, the address is not this machine's, a certificate cannot be read."""


class RequestTooLargeError(RequestError):
    """A request to a server is above one of the server's limits."""


class RequestTimeoutError(RequestError):
    """A request to a server came more slowly than the server waits for."""


class UnauthenticatedError(GraphcError):
    """A request to a server carries no token, or one that the server does not know."""


class ForbiddenError(GraphcError):
    """A request asks for what the server was not started to allow, or not at this port."""


class AuditError(RefusedError):
    """What happens could not be written to the audit log, and nothing may happen that is not in it."""
