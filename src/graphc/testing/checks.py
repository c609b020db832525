"""Passes and backends checked on random graphs against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from graphc.errors import GraphcError
from graphc.ir import Graph
from graphc.ops.base import Array
from graphc.ops.evaluate import evaluate_graph
from graphc.passes.base import Pass, PassContext
from graphc.passes.pipeline import parse_pipeline
from graphc.testing.edges import EXACT, edge_inputs
from graphc.testing.oracle import (
    DifferenceError,
    assert_equivalent,
    assert_verified,
    calm_inputs,
    compare_arrays,
    graph_tolerance,
)
from graphc.testing.random_graphs import graphs

Run = Callable[[Graph, Sequence[Array]], Sequence[Any]]
"""Runs a graph on inputs in its order and answers its outputs in order."""


def check_pass(
    passes: str | Pass | Sequence[Pass],
    *,
    examples: int = 50,
    max_nodes: int = 10,
    operators: Collection[str] = (),
    control_flow: bool = False,
    open_dims: bool = False,
    edges: bool = False,
    seed: int | None = 0,
    context: Callable[[], PassContext] = PassContext,
) -> int:
    """Fails where a pass or pipeline breaks or changes the meaning of some random graph.

    Args:
        passes: A pass, several, or a textual pipeline.
        examples: How many graphs to try.
        max_nodes: Most nodes of a graph.
        operators: Operators that occur; all that are known how to draw if empty.
        control_flow: Whether there are If, Loop and Scan.
        open_dims: Whether extents are left open where operators let them.
        edges: Whether inputs are NaN, infinities, ties and the like; operators are then those of
            `graphc.testing.EXACT`, if none are named.
        seed: The same seed tries the same graphs; fresh ones each time if None.
        context: Makes the context of each run.

    Returns:
        How many changes were made in all: a test asserts that it is not 0.

    Raises:
        DifferenceError: With the smallest graph found, before and after.
    """
    if isinstance(passes, str):
        pipeline = parse_pipeline(passes)
    else:
        pipeline = (passes,) if isinstance(passes, Pass) else tuple(passes)
    changes = 0

    def check(graph: Graph, inputs: Sequence[Array]) -> None:
        nonlocal changes
        after = graph.clone()
        shared = context()
        for pass_ in pipeline:
            before = after.clone()
            try:
                changes += pass_.run(after, shared)
                assert_verified(after)
                assert_equivalent(before, after, inputs)
            except (DifferenceError, GraphcError) as error:
                raise DifferenceError(f"pass {pass_.name}: {error}\nbefore:\n{before}\nafter:\n{after}") from error
        assert_equivalent(graph, after, inputs)

    if edges:
        operators = operators or EXACT
    drawn = graphs(max_nodes, operators=operators, control_flow=control_flow, open_dims=open_dims)
    for_random_graphs(check, drawn, examples=examples, seed=seed, inputs=edge_inputs if edges else calm_inputs)
    return changes


def check_backend(
    run: Run,
    *,
    examples: int = 50,
    max_nodes: int = 10,
    operators: Collection[str] = (),
    without: Collection[str] = (),
    control_flow: bool = False,
    open_dims: bool = False,
    layouts: bool = False,
    tolerance: float | None = None,
    seed: int | None = 0,
) -> None:
    """Fails where `run` and the NumPy meaning of some random graph differ.

    Args:
        run: What is checked, e.g. compile and run.
        examples: How many graphs to try.
        max_nodes: Most nodes of a graph.
        operators: Operators that occur; all that are known how to draw if empty.
        without: Operators that must not occur.
        control_flow: Whether there are If, Loop and Scan.
        open_dims: Whether extents are left open where operators let them.
        layouts: Whether what is around convolutions is stored in other layouts.
        tolerance: Largest difference over the largest magnitude of an output; by dtype if None.
        seed: The same seed tries the same graphs; fresh ones each time if None.

    Raises:
        DifferenceError: With the smallest graph found.
    """

    def check(graph: Graph, inputs: Sequence[Array]) -> None:
        expected = evaluate_graph(graph, list(inputs))
        allowed = tolerance or graph_tolerance(graph)
        try:
            found = run(graph.clone(), inputs)
            for value, wanted, got in zip(graph.outputs, expected, found, strict=True):
                compare_arrays(f"output %{value.name}", wanted, got, allowed)
        except (DifferenceError, GraphcError) as error:
            raise DifferenceError(f"{error}\n{graph}") from error

    drawn = graphs(
        max_nodes,
        operators=operators,
        without=without,
        control_flow=control_flow,
        open_dims=open_dims,
        layouts=layouts,
    )
    for_random_graphs(check, drawn, examples=examples, seed=seed)


def for_random_graphs(
    check: Callable[[Graph, Sequence[Array]], None],
    drawn: st.SearchStrategy[Graph],
    *,
    examples: int,
    seed: int | None = 0,
    inputs: Callable[[Graph, int], Sequence[Array] | None] = calm_inputs,
) -> None:
    """Calls `check` with random graphs and inputs that suit them; a failure is shrunk and raised again."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
    )
    @hypothesis.given(drawn)
    def run(graph: Graph) -> None:
        found = inputs(graph, 0)
        assert found is not None, "the strategy gives graphs that have calm inputs"
        check(graph, found)

    if seed is not None:
        run = hypothesis.seed(seed)(run)
    run()
