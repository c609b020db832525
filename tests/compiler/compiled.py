"""One node compiled alone, with no host step, against its NumPy meaning."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphc
from graphc.frontend.exporter import export_model
from tests.compiler.agreement import WIDTHS, assert_close, target_or_skip
from tests.ops.differential import Case

TOLERANCE = {np.dtype(np.float16): 2e-3, np.dtype(np.float64): 1e-9}
"""Largest error relative to the output's magnitude, where it is not that of float32."""
FLOAT32 = 2e-5


def check_compiled(
    subject: Case,
    *,
    tolerance: float | None = None,
    targets: list[str] | None = None,
    expected: list[Any] | None = None,
) -> None:
    """Compiles the node at every vector width, refusing host steps, and compares what it gives from 1 and 2 threads.

    Args:
        subject: The node; its inputs that are constants stay constants.
        tolerance: Largest error, relative to the output's magnitude, if not that of its dtype.
        targets: Other targets than every vector width.
        expected: What is right, if not the node's NumPy meaning.
    """
    graph = subject.node.graph
    assert graph is not None
    for value, kind in zip(subject.node.outputs, subject.infer(), strict=True):
        value.type = kind
    graph.outputs = [value for value in subject.node.outputs if value.name]
    wanted = expected
    if wanted is None:
        found = subject.evaluate()
        wanted = [array for value, array in zip(subject.node.outputs, found, strict=False) if value.name]
    proto = export_model(graph)
    names = {value.name for value in graph.inputs}
    feeds = {name: array for name, array in subject.feeds().items() if name in names}
    for number, target in enumerate(targets or WIDTHS):
        with graphc.compile(
            proto, target=target_or_skip(target), verify=True, require_compiled=True, threads=1 + number % 2
        ) as module:
            outputs = module(feeds)
            for name, array, good in zip(outputs, outputs.values(), wanted, strict=True):
                assert_close(name, good, array, tolerance or TOLERANCE.get(good.dtype, FLOAT32))
