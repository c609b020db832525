"""Host steps: operators in NumPy. The only place of the runtime that may load `graphc.ops`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.errors import ExecutionError, GraphcError, ToolchainError
from graphc.package import HostStep, HostTensor
from graphc.runtime.memory import Array

Evaluate = Callable[[bytes, Sequence[Any]], Sequence[Any]]


def load_evaluator() -> Evaluate:
    """`graphc.ops.host.evaluate(payload, arrays) -> arrays`.

    Raises:
        ToolchainError: What it needs is not installed.
    """
    try:
        evaluate: Evaluate = importlib.import_module("graphc.ops.host").evaluate
    except ImportError as error:
        raise ToolchainError(
            f"the package has steps that run in NumPy by operator definitions, which need {error.name!r}",
            hint="pip install 'graphc[cpu]', or compile with --require-compiled to see which nodes they are",
        ) from error
    return evaluate


def run_step(
    index: int, step: HostStep, evaluate: Evaluate, inputs: Sequence[Any], write: Callable[[HostTensor, Any], None]
) -> None:
    """Evaluates a step.

    Args:
        index: Its number in the variant.
        step: The step.
        evaluate: As of `load_evaluator`.
        inputs: What its operands hold; None for those left out.
        write: Takes each result with its place.

    Raises:
        ExecutionError: It failed; names the step and its nodes.
    """
    try:
        for tensor, result in zip(step.outputs, evaluate(step.payload, inputs), strict=True):
            if tensor is not None:
                write(tensor, result)
    except GraphcError as error:
        raise ExecutionError(f"step {index} ({step.op_type}) failed: {error}", nodes=step.origins) from error
    except Exception as error:
        # An operator's NumPy meaning fails as NumPy fails; the user's model is what the error is about.
        raise ExecutionError(
            f"step {index} ({step.op_type}) failed: {type(error).__name__}: {error}", nodes=step.origins
        ) from error


def copied(value: Any) -> Any:
    """A value that shares no memory with what the caller gave or the next call overwrites."""
    match value:
        case np.ndarray():
            return value.copy()
        case list():
            return [copied(item) for item in value]
        case dict():
            return {key: copied(item) for key, item in value.items()}
    return value


def assign(target: Array, source: Array) -> None:
    """Writes what a step made to the place of it.

    Raises:
        ExecutionError: It is of another type.
    """
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ExecutionError(
            f"expected {target.dtype}{list(target.shape)}, the step made {source.dtype}{list(source.shape)}"
        )
    target[...] = source
