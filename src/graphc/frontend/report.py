"""What `check` answers: everything about a model that stands in the way, as data, as JSON and as a page of text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

Severity = Literal["error", "host", "note"]
"""`error`: does not compile; `host`: runs as a NumPy step; `note`: worth knowing."""

SHOWN_NODES = 5


@dataclass(frozen=True)
class Problem:
    """One thing to know about some nodes of a model.

    Args:
        severity: How much it stands in the way.
        message: What it is.
        operator: Operator of the nodes, with its domain; empty where it is about no operator.
        opset: Operator-set version that the model uses for it; 0 where that does not matter.
        dtypes: Element types of the nodes' inputs.
        nodes: Names of the nodes.
        hint: A way out.
    """

    severity: Severity
    message: str
    operator: str = ""
    opset: int = 0
    dtypes: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class Port:
    """An input or output of the model.

    Args:
        name: Its name.
        type: Its type in text form; `?` where unknown.
        dims: Symbols that are still open, each with its name in the model file.
    """

    name: str
    type: str
    dims: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatorUse:
    """The nodes of one operator in a model.

    Args:
        operator: The operator, with its domain.
        opset: Operator-set version that the model uses for it.
        dtypes: Element types of the nodes' inputs.
        nodes: Names of the nodes.
        host: How many of them run in NumPy, wholly or in part; None where that was not judged.
        known: Whether graphc knows the operator.
    """

    operator: str
    opset: int
    dtypes: tuple[str, ...]
    nodes: tuple[str, ...]
    host: int | None = None
    known: bool = True

    @property
    def place(self) -> str:
        """Where they run, in words; empty where that was not judged."""
        if self.host is None or not self.known:
            return "" if self.known else "unknown"
        if self.host == len(self.nodes):
            return "in NumPy"
        return f"compiled, {self.host} in NumPy" if self.host else "compiled"


@dataclass(frozen=True)
class Report:
    """All that `check` found.

    Args:
        model: Name of the model.
        problems: What stands in the way, errors first.
        inputs: The model's inputs.
        outputs: Its outputs.
        opsets: Operator-set versions that it imports.
        producer: Tool that wrote it.
        nodes: How many nodes there are of each operator.
        constant_bytes: Size of its weights.
        operators: What it is made of, the most frequent operators first.
    """

    model: str
    problems: tuple[Problem, ...] = ()
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    opsets: Mapping[str, int] = field(default_factory=dict)
    producer: str = ""
    nodes: Mapping[str, int] = field(default_factory=dict)
    constant_bytes: int = 0
    operators: tuple[OperatorUse, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model compiles, host steps included."""
        return not self.errors

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Why it does not compile."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def host_steps(self) -> tuple[Problem, ...]:
        """Nodes that would run in NumPy."""
        return tuple(problem for problem in self.problems if problem.severity == "host")

    @property
    def dynamic_dims(self) -> dict[str, str]:
        """Open symbols of the inputs, each with its name in the model file."""
        return {name: original for port in self.inputs for name, original in port.dims.items()}

    def to_json(self) -> str:
        """The report as JSON, `ok` included."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        lines = [self._headline(), ""]
        for title, ports in (("inputs", self.inputs), ("outputs", self.outputs)):
            if ports:
                width = max(len(port.name) for port in ports)
                lines += [title, *(f"  {port.name:<{width}}  {port.type}" for port in ports), ""]
        if self.operators:
            lines += ["operators", *_columns(self.operators), ""]
        for title, severity in (
            ("does not compile", "error"),
            ("runs in NumPy (host steps)", "host"),
            ("to know", "note"),
        ):
            found = [problem for problem in self.problems if problem.severity == severity]
            if found:
                lines += [title, *(line for problem in found for line in _lines(problem)), ""]
        lines.append(self._verdict())
        return "\n".join(lines)

    def _headline(self) -> str:
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opsets.items())
        facts = [f"opset {opsets}" if opsets else "", self.producer and f"by {self.producer}"]
        if self.nodes:
            facts += [f"{sum(self.nodes.values())} nodes", f"{self.constant_bytes / 1e6:.1f} MB of weights"]
        return f"{self.model}: " + ", ".join(fact for fact in facts if fact) if any(facts) else self.model

    def _verdict(self) -> str:
        if self.errors:
            return (
                f"{len(self.errors)} problem{'s' if len(self.errors) > 1 else ''}: the model does not compile as it is"
            )
        count = sum(len(problem.nodes) for problem in self.host_steps)
        return f"ok, {count} host step{'s' if count != 1 else ''}" if count else "ok"


def _columns(uses: Sequence[OperatorUse]) -> Iterable[str]:
    rows = [
        (f"{use.operator} (opset {use.opset})", f"{len(use.nodes)} ×", ", ".join(use.dtypes), use.place) for use in uses
    ]
    name, count, kinds = (max(len(row[column]) for row in rows) for column in range(3))
    for row in rows:
        yield f"  {row[0]:<{name}}  {row[1]:>{count}}  {row[2]:<{kinds}}  {row[3]}".rstrip()


def _lines(problem: Problem) -> Iterable[str]:
    head = problem.operator
    if problem.opset:
        head += f" (opset {problem.opset})"
    if problem.dtypes:
        head += f" on {', '.join(problem.dtypes)}"
    yield f"  {head}: {problem.message}" if head else f"  {problem.message}"
    if problem.nodes:
        yield f"      {'nodes' if len(problem.nodes) > 1 else 'node'}: {shorten(problem.nodes)}"
    if problem.hint:
        yield f"      → {problem.hint}"


def shorten(names: Sequence[str], shown: int = SHOWN_NODES) -> str:
    """The first names of a list, and how many there are beside them."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
