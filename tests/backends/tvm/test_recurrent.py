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
from graphc.ir import GRAPHC_DOMAIN, Graph, TensorType, dtypes
from graphc.ops.recurrent import CELLS
from graphc.ops.recurrent_functions import FUNCTIONS
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.recurrences import draw, operands, region, scaled
from tests.backends.tvm.harness import ARM, HOST, TARGETS, Array, check

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
