"""Recurrences on GPUs: every cell, direction, layout and option, against the operator's NumPy meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import recurrent
from graphc.errors import BackendError
from graphc.ir import Graph
from graphc.ops.recurrent import CELLS
from graphc.package.cuda import CudaObject, Integer
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import Array
from tests.backends.recurrences import draw, operands, region
from tests.backends.triton.harness import machine_code

every_cell = pytest.mark.parametrize("cell", CELLS)


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return recurrent.lower(graph, target, frozenset(), {})


def run(graph: Graph, arrays: list[Array | None], **more: Any) -> Kernel:
    return check_kernel(graph, [array for array in arrays if array is not None], lower, **more)


@every_cell
@settings(max_examples=6)
@given(st.data())
def test_any_recurrence(cell: str, data: st.DataObject) -> None:
    arrays, read, attributes = draw(cell, data, hidden=(2, 20), inputs=(0, 0, 2, 70))
    run(region(cell, arrays, read, **attributes), arrays)


@every_cell
def test_double_precision(cell: str) -> None:
    arrays = operands(cell, 2, 5, 18, dtype=np.float64)
    run(region(cell, arrays), arrays, tolerance=1e-13)


def test_many_sequences_of_wide_states() -> None:
    arrays = operands("LSTM", 2, 18, 70)
    kernel = run(region("LSTM", arrays), arrays)
    assert kernel.schedule == {"launches": 3, "tile": "32x16"}


def test_steps_are_launches_of_one_function() -> None:
    kernel = lower(region("RNN", operands("RNN", 3, 1, 16)), GPUS["sm_90"])
    made = CudaObject.from_bytes(kernel.compile())
    assert len(made.cubins) == 2
    assert [launch.parameters[-1] for launch in made.kernel.launches[1:]] == [Integer(step) for step in range(3)]


def test_more_steps_than_launches_are_refused() -> None:
    arrays = operands("LSTM", recurrent.MOST_LAUNCHES + 1, 1, 2)
    with pytest.raises(BackendError, match="4097 launches"):
        lower(region("LSTM", arrays), GPUS["sm_90"])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("batch", "dtype"), [(1, np.float32), (32, np.float32)])
def test_machine_code(batch: int, dtype: type, target: str) -> None:
    for cell in ("LSTM", "GRU"):
        arrays = operands(cell, 1, batch, 256, dtype=dtype)
        machine_code(lower(region(cell, arrays), GPUS[target]), GPUS[target])
