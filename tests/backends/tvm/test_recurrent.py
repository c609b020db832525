"""Recurrences: against the operator's NumPy meaning, with every cell and option, packed weights and computed ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import recurrent, recurrent_plan
from graphc.errors import BackendError
from graphc.ir import GRAPHC_DOMAIN, Dim, Graph, TensorType, dtypes, symbol
from graphc.ops.inference import infer_graph
from graphc.ops.recurrent import CELLS
from graphc.ops.recurrent_functions import FUNCTIONS
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.recurrences import draw, operands, region, scaled
from tests.backends.tvm.harness import ARM, HOST, TARGETS, Array, check, check_open

NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Every attempt compiles a kernel."""
every_target = pytest.mark.parametrize("target", TARGETS, ids=str)
every_cell = pytest.mark.parametrize("cell", CELLS)


def run(graph: Graph, arrays: list[Array | None], target: Target, constants: frozenset[int], **more: Any) -> Kernel:
    present = [array for array in arrays if array is not None]
    return check(graph, present, lambda g, t: recurrent.lower(g, t, constants, {}), target, **more)


@every_target
@every_cell
@settings(max_examples=5, phases=NO_SHRINKING)
@given(st.data())
def test_any_recurrence(cell: str, target: Target, data: st.DataObject) -> None:
    arrays, read, attributes = draw(cell, data, hidden=(1, 40), inputs=(0, 0, 1, 20))
    constant = data.draw(st.booleans(), "constant")
    weights = frozenset({1, sum(array is not None for array in arrays) - 1}) if constant else frozenset()
    constants = weights if arrays[7] is not None and arrays[8] is None else weights & {1}
    run(region(cell, arrays, read, **attributes), arrays, target, constants)


@pytest.mark.parametrize("names", [tuple(FUNCTIONS)[i : i + 3] for i in (0, 3, 6, 8)], ids="-".join)
def test_every_activation_with_its_numbers(names: tuple[str, ...]) -> None:
    arrays = operands("LSTM", 3, 1, 9)
    numbers = {"activation_alpha": (0.3, 0.6, 0.9), "activation_beta": (0.4, 0.2, 0.1)}
    run(region("LSTM", arrays, activations=names, **numbers), arrays, HOST, frozenset({1}))


@every_target
@every_cell
def test_double_precision(cell: str, target: Target) -> None:
    arrays = operands(cell, 3, 5, 21, directions=2, inputs=4, dtype=np.float64)
    run(region(cell, arrays, direction="bidirectional"), arrays, target, frozenset({1}), rtol=1e-14)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("share", ["nothing", "sequences", "units"])
def test_whatever_threads_share(cell: str, share: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent_plan, "_share", lambda *arguments: share)
    arrays = operands(cell, 3, 13, 100, directions=2, inputs=30, lengths=[3, 1, 2] * 4 + [3])
    kernel = run(region(cell, arrays, direction="bidirectional"), arrays, HOST, frozenset({1}))
    assert kernel.schedule["shared"] == share


def opened(graph: Graph, steps: int, batch: int) -> Graph:
    """The body with extents of these numbers, which nothing else has, left open."""
    names: dict[Dim, Dim] = {steps: symbol("steps"), batch: symbol("batch")}
    for value in graph.inputs:
        kind = value.tensor_type
        value.type = kind.with_shape(tuple(names.get(extent, extent) for extent in kind.dims))
    graph.bounds = {"steps": (1, None), "batch": (1, None)}
    infer_graph(graph)
    return graph


@every_target
@pytest.mark.parametrize("share", ["nothing", "sequences", "units"])
@pytest.mark.parametrize(("cell", "layout", "inputs"), [("LSTM", 0, 0), ("GRU", 1, 5), ("RNN", 0, 0)])
def test_any_number_of_steps_and_sequences(
    cell: str, layout: int, inputs: int, share: Any, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent_plan, "_share", lambda *arguments: share)
    attributes = {"direction": "bidirectional" if cell == "LSTM" else "reverse", "layout": layout}

    def made(steps: int, batch: int) -> list[Array | None]:
        lengths = [1 + b % steps for b in range(batch)] if cell == "GRU" else None
        return operands(
            cell, steps, batch, 21, directions=1 + (cell == "LSTM"), layout=layout, inputs=inputs, lengths=lengths
        )

    graph = opened(region(cell, made(97, 89), **attributes), 97, 89)
    feeds = [
        ({"steps": s, "batch": b}, [array for array in made(s, b) if array is not None])
        for s, b in [(1, 1), (7, 1), (2, 3), (5, 4), (4, 13)]
    ]
    kernel = check_open(graph, feeds, lambda g, t: recurrent.lower(g, t, frozenset({1}), {}), target)
    assert sorted(map(str, kernel.dims)) == ["batch", "steps"]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [[0], [3], [2, 0, 4]], ids=str)
def test_steps_past_the_longest_sequence_are_zeros(direction: str, lengths: list[int]) -> None:
    directions = 2 if direction == "bidirectional" else 1
    arrays = operands("GRU", 7, len(lengths), 18, directions=directions, lengths=lengths)
    run(region("GRU", arrays, direction=direction), arrays, HOST, frozenset({1}))


def test_the_weights_of_a_step_that_computes_them_are_packed_as_constants_are() -> None:
    arrays = operands("GRU", 2, 2, 40, inputs=17)
    computed = run(region("GRU", arrays), arrays, HOST, frozenset())
    packed = run(region("GRU", arrays), arrays, HOST, frozenset({1, 3}))
    workspaces = [sum(o.kind == "workspace" for o in kernel.operands) for kernel in (computed, packed)]
    assert workspaces[0] == workspaces[1] + 2


def test_what_threads_share_follows_the_work() -> None:
    def shared(steps: int, batch: int, hidden: int, directions: int = 1, cores: int = 2) -> str:
        from dataclasses import replace

        arrays = operands("LSTM", steps, batch, hidden, directions=directions)
        graph = region("LSTM", arrays, direction="bidirectional" if directions == 2 else "forward")
        kernel = recurrent.lower(graph, replace(HOST, cores=cores), frozenset({1}), {})
        return str(kernel.schedule["shared"])

    assert shared(1, 1, 32) == "nothing"
    assert shared(50, 1, 512) == "units"
    assert shared(50, 1, 512, cores=1) == "nothing"
    assert shared(50, 1, 512, directions=2) == "sequences"
    assert shared(50, 16, 128) == "sequences"


@pytest.mark.parametrize("target", [ARM], ids=str)
def test_other_machines(target: Target) -> None:
    arrays = operands("LSTM", 2, 3, 20)
    assert recurrent.lower(region("LSTM", arrays), target, frozenset({1}), {}).compile()[:4] == b"\x7fELF"


def test_refusals() -> None:
    half = TensorType(dtypes.FLOAT16, (2, 1, 12)), TensorType(dtypes.FLOAT16, (1, 12, 3))
    graph = body(half, lambda b, x, r: b.op("Recurrence", x, r, domain=GRAPHC_DOMAIN, cell="LSTM", outputs=3))
    with pytest.raises(BackendError, match="float16"):
        recurrent.lower(graph, HOST, frozenset({1}), {})
    arrays = operands("RNN", 2, 3, 8)
    graph = region("RNN", arrays)
    graph.inputs[2].type = TensorType(dtypes.FLOAT32, (1, 2, 8))
    with pytest.raises(BackendError, match="initial_h"):
        recurrent.lower(graph, HOST, frozenset({1}), {})
    graph = body([scaled(3)], lambda b, x: b.op("Neg", x))
    with pytest.raises(BackendError, match="not a recurrence"):
        recurrent.lower(graph, HOST, frozenset(), {})
