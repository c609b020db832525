"""One case on one engine: does it give what the suite expects, and did NumPy have to help?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.errors import GraphcError, OptionError, ToolchainError
from graphc.ir import Graph, TensorType, dtypes
from graphc.ops.base import Trait, find
from graphc.testing.conformance.cases import Case
from graphc.testing.conformance.peer import run_case

LEAST_RTOL = {"bfloat16": 2.0**-6, "float16": 2.0**-9}
"""Two units in the last place: the suite's own for bfloat16; for float16 its 1e-3 is less than what the order of two
roundings makes."""

_SIZED_BY_DATA = "how much it makes, only the data tells"
SPECIAL: Mapping[str, str] = {
    "Compress": _SIZED_BY_DATA,
    "ImageDecoder": "decodes image files",
    "NonMaxSuppression": _SIZED_BY_DATA,
    "NonZero": _SIZED_BY_DATA,
    "Unique": _SIZED_BY_DATA,
}
"""Operators on tensors of numbers that are no matter of numbers alone, and why. That a shape or an axis is an input
makes none: it is then part of what a call asks for."""


@dataclass(frozen=True)
class Task:
    """A case for an engine.

    Args:
        case: The case.
        engine: A key of `ENGINES`.
        options: Options of `graphc.compile`, where graphc is the engine.
    """

    case: Case
    engine: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What became of a case.

    Args:
        problem: Why it fails; empty where it passes.
        host: Operators that ran on the host, in NumPy.
        special: Why the case is no matter of numbers alone; empty where it is.
    """

    problem: str = ""
    host: tuple[str, ...] = ()
    special: str = ""

    @property
    def passed(self) -> bool:
        """Whether the engine gave what is expected."""
        return not self.problem


def judge(task: Task) -> Judgement:
    """Runs a case; for a process of its own, since engines crash.

    Raises:
        OptionError: The engine is unknown.
        ToolchainError: The engine is not installed.
    """
    if task.engine not in ENGINES:
        raise OptionError(f"unknown engine {task.engine!r}; known: {', '.join(ENGINES)}")
    return ENGINES[task.engine](task)


def difference(expected: Any, found: Any, rtol: float, atol: float) -> str:
    """Why `found` is not what was expected, by the suite's tolerances; empty where it is.

    Integers, booleans and strings must be equal.
    """
    if expected is None or found is None:
        return "" if found is expected else f"{found!r} instead of {expected!r}"
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{_described(found)} instead of {_described(expected)}"
        problems = (difference(e, f, rtol, atol) for e, f in zip(expected, found, strict=True))
        return next((problem for problem in problems if problem), "")
    if not isinstance(found, np.ndarray) or found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{_described(found)} instead of {_described(expected)}"
    if expected.dtype.kind in "biuO" or dtypes.from_numpy(expected.dtype).is_integer:
        wrong = found != expected
    else:
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        least = LEAST_RTOL.get(expected.dtype.name, 0.0)
        with np.errstate(all="ignore"):
            close = np.isclose(
                found.astype(wide), expected.astype(wide), rtol=max(rtol, least), atol=atol, equal_nan=True
            )
        wrong = ~close
    if not np.any(wrong):
        return ""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"differs at {int(np.sum(wrong))} of {expected.size} places, first at {list(place)}: "
        f"{found[place]!r} instead of {expected[place]!r}"
    )


def _described(data: Any) -> str:
    if isinstance(data, np.ndarray):
        return f"{data.dtype}{list(data.shape)}"
    return f"a list of {len(data)}" if isinstance(data, list) else type(data).__name__


def special_reason(graph: Graph) -> str:
    """Why what a graph computes is no matter of numbers alone; empty where it is.

    Strings, sequences, optionals and maps, decoded images, random numbers, and shapes that only the data tells.
    """
    for inner in graph.all_graphs():
        for value in (*inner.inputs, *(value for node in inner.nodes for value in node.outputs if value.name)):
            if value.type is not None and not isinstance(value.type, TensorType):
                return f"{value.type} is no tensor"
            if value.type is not None and value.type.dtype == dtypes.STRING:
                return "strings"
        for node in inner.nodes:
            operator = find(node)
            if operator is not None and operator.has(Trait.RANDOM):
                return f"{node.op} draws random numbers"
            if node.domain == "" and node.op_type in SPECIAL:
                return f"{node.op}: {SPECIAL[node.op_type]}"
    return ""


def _graphc(task: Task) -> Judgement:
    from graphc.frontend import import_model
    from graphc.testing.onnx_backend import prepare

    options = {"threads": 1, "verify": True, "backend": task.engine, **task.options}
    host: dict[str, None] = {}
    special = ""
    problem = ""
    try:
        special = special_reason(import_model(task.case.model))
        prepared = prepare(task.case.model, **options)
        with prepared.executable:
            for inputs, expected in task.case.data_sets:
                problem = problem or _compared(task.case, expected, prepared.run(inputs))
                host.update(dict.fromkeys(prepared.host_steps(inputs)))
    except ToolchainError:
        raise
    except GraphcError as error:
        problem = f"{type(error).__name__}: {error}"
    return Judgement(problem, tuple(host), special)


def _compared(case: Case, expected: Sequence[Any], found: Sequence[Any]) -> str:
    if len(expected) != len(found):
        return f"{len(found)} outputs instead of {len(expected)}"
    problems = (difference(e, f, case.rtol, case.atol) for e, f in zip(expected, found, strict=True))
    return next((f"output {i}: {problem}" for i, problem in enumerate(problems) if problem), "")


def _onnxruntime(task: Task) -> Judgement:
    case = task.case
    try:
        results = run_case(case)
    except ToolchainError:
        raise
    except Exception as error:  # ONNX Runtime raises what it likes; any of it is a case that it does not pass
        return Judgement(f"{type(error).__name__}: {error}")
    problems = (_compared(case, expected, found) for (_, expected), found in zip(case.data_sets, results, strict=True))
    return Judgement(next((problem for problem in problems if problem), ""))


ENGINES: Mapping[str, Callable[[Task], Judgement]] = {
    "tvm": _graphc,
    "reference": _graphc,
    "onnxruntime": _onnxruntime,
}
"""What can run a case: graphc's two backends, and ONNX Runtime to compare with."""
