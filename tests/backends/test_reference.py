"""The reference backend: packages without a kernel, right by the operators' own meaning."""

from __future__ import annotations

import pytest

import graphc
from graphc.errors import OptionError
from graphc.frontend import export_model
from graphc.testing import check_backend
from graphc.testing.oracle import Array


def test_every_node_runs_in_numpy_and_random_graphs_are_right() -> None:
    steps = 0

    def run(graph: graphc.ir.Graph, inputs: list[Array]) -> list[Array]:
        nonlocal steps
        with graphc.compile(export_model(graph), backend="reference") as module:
            (variant,) = module.variants
            steps += len(variant.steps)
            assert variant.host_steps == variant.steps
            outputs = module(inputs)
        return [outputs[value.name] for value in graph.outputs]

    check_backend(run, examples=40)
    assert steps > 40


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(OptionError, match="unknown backend 'llvm'; known: tvm, triton, reference"):
        graphc.compile(b"", backend="llvm")
