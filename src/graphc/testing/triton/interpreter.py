"""Runs launches of Triton functions on NumPy arrays, one program after the other, in a process of its own.

What the interpreter finds that no GPU would tell: reads and writes outside of the buffers, addresses that are no
multiple of the element's size, programs that read or overwrite what another program of the launch has written, and
integers that are not the multiples that the compiler was told. What it cannot: rounding of tf32, resources, races of
threads within a program, and what the machine code does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.triton.function import FunctionLaunch
from graphc.backends.triton.worker import WorkerError, WorkerPool
from graphc.errors import ExecutionError
from graphc.ir import Dim
from graphc.ir.symbolic import evaluate
from graphc.package.cuda import Integer, Parameter, Pointer
from graphc.package.expression import evaluate as evaluate_text

INTERPRET_SECONDS = 300.0
"""The longest that the launches of one kernel may take."""

_POOL = WorkerPool("graphc.testing.triton.interpret_worker", {"TRITON_INTERPRET": "1"}, INTERPRET_SECONDS)


@dataclass(frozen=True)
class Interpreted:
    """What launches did.

    Args:
        arrays: All arrays, as they are afterwards.
        status: The status word; 0 unless a kernel found something wrong with its data.
    """

    arrays: tuple[np.ndarray[Any, Any], ...]
    status: int


def interpret(
    launches: Sequence[FunctionLaunch],
    arrays: Sequence[np.ndarray[Any, Any]],
    dims: Mapping[str, int] | None = None,
    *,
    races: bool = True,
) -> Interpreted:
    """Runs launches in order.

    Args:
        launches: What a kernel launches.
        arrays: One for each number that `Pointer.argument` names; they are copied, row-major.
        dims: Values of the kernel's dimensions, in the order of the step's table.
        races: Whether it is an error that a program reads, or overwrites with something else, what another program of
            the launch has written. Kernels whose programs wait for one another by atomics do that rightly.

    Raises:
        ExecutionError: A kernel fails, or touches what it must not; names it, the program and the line.
    """
    bindings = dict(dims or {})
    table = {f"d{number}": value for number, value in enumerate(bindings.values())}
    question = {"launches": [_launch(launch, bindings, table) for launch in launches], "races": races}
    try:
        answer, blobs = _POOL.ask(question, [np.ascontiguousarray(array).tobytes() for array in arrays])
    except WorkerError as error:
        names = ", ".join(dict.fromkeys(launch.function.name for launch in launches))
        raise ExecutionError(f"interpreting {names}: {error.message}") from error
    if "error" in answer:
        raise ExecutionError(answer["error"])
    after = (
        np.frombuffer(blob, np.uint8).copy().view(array.dtype).reshape(array.shape)
        for blob, array in zip(blobs, arrays, strict=True)
    )
    return Interpreted(tuple(after), answer["status"])


def _launch(launch: FunctionLaunch, bindings: Mapping[str, int], table: Mapping[str, int]) -> dict[str, Any]:
    function = launch.function
    return {
        "text": function.text,
        "name": function.name,
        "grid": [_extent(dim, bindings) for dim in launch.grid],
        "constants": dict(function.constants),
        "arguments": [
            [argument.name, argument.type, argument.multiple, *_value(argument.value, table)]
            for argument in function.arguments
        ],
    }


def _extent(dim: Dim, bindings: Mapping[str, int]) -> int:
    return dim if isinstance(dim, int) else evaluate(dim, bindings)


def _value(parameter: Parameter, table: Mapping[str, int]) -> tuple[str, int, int]:
    """Kind, number of the argument or value, and bytes added."""
    match parameter:
        case Pointer():
            return "pointer", parameter.argument, parameter.offset
        case Integer():
            value = parameter.value
            return "integer", value if isinstance(value, int) else evaluate_text(value, table), 0
        case _:
            return "status", 0, 0
