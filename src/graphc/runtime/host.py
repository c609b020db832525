"""Where host steps meet the operators: the only place of the runtime that may load `graphc.ops`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from graphc.errors import ToolchainError

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
