"""Linear attention: against the operator's NumPy meaning, under every update rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import linear_attention
from graphc.errors import BackendError, TypeInferenceError
from graphc.ir import Graph, dtypes
from graphc.ops.state_space import UPDATE_RULES
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, Array, check

NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Every attempt compiles a kernel."""


def operands(
    batch: int,
    steps: int,
    heads: int,
    ratio: int,
    keys: int,
    values: int,
    rule: str,
    *,
    past: bool = True,
    decays: int = 0,
    rates: int = 0,
    dtype: Any = np.float32,
) -> list[Array | None]:
    """Query, key, value, state, decay and beta, None for what is absent; `decays` and `rates` for those by head."""
    rng = np.random.default_rng(batch + 10 * steps)
    decayed, corrected = UPDATE_RULES[rule]

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    return [
        normal(batch, steps, heads * ratio * keys),
        normal(batch, steps, heads * keys) / np.sqrt(keys).astype(dtype),
        normal(batch, steps, heads * values),
        normal(batch, heads, keys, values) if past else None,
        -abs(normal(batch, steps, heads * (decays or keys))) if decayed else None,
        (1 / (1 + np.exp(-normal(batch, steps, rates or heads)))).astype(dtype) if corrected else None,
    ]


def region(arrays: list[Array | None], heads: int, ratio: int, rule: str, read: tuple[int, ...] = (0, 1)) -> Graph:
    present = [array for array in arrays if array is not None]

    def make(b: Any, *found: Any) -> Any:
        values = iter(found)
        inputs = [None if array is None else next(values) for array in arrays]
        attributes = {"q_num_heads": heads * ratio, "kv_num_heads": heads, "update_rule": rule}
        made = b.op("LinearAttention", *inputs, outputs=2, **attributes).producer
        return [made.outputs[number] for number in read]

    return body(present, make, opset=27)


def run(graph: Graph, arrays: list[Array | None], target: Target, rtol: float = 1e-5) -> Kernel:
    present = [array for array in arrays if array is not None]
    return check(graph, present, lambda g, t: linear_attention.lower(g, t, frozenset(), {}), target, rtol=rtol)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("rule", UPDATE_RULES)
@settings(max_examples=6, phases=NO_SHRINKING)
@given(st.data())
def test_any_linear_attention(rule: str, target: Target, data: st.DataObject) -> None:
    def extent(name: str, high: int) -> int:
        return data.draw(st.integers(1, high), name)

    batch, steps, heads, ratio = extent("batch", 3), extent("steps", 4), extent("heads", 3), extent("ratio", 3)
    arrays = operands(
        batch,
        steps,
        heads,
        ratio,
        extent("keys", 40),
        extent("values", 150),
        rule,
        past=data.draw(st.booleans(), "past"),
        decays=data.draw(st.integers(0, 1), "decays by head"),
        rates=data.draw(st.integers(0, 1), "one rate for all"),
    )
    read = data.draw(st.sampled_from([(0, 1), (0,), (1,)]), "outputs")
    run(region(arrays, heads, ratio, rule, read), arrays, target)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float16, 1e-3), (np.float64, 1e-13)])
def test_other_precisions(dtype: Any, rtol: float) -> None:
    arrays = operands(2, 3, 2, 2, 20, 24, "gated_delta", dtype=dtype)
    run(region(arrays, 2, 2, "gated_delta"), arrays, HOST, rtol)


def test_a_state_of_another_precision() -> None:
    arrays = operands(1, 3, 2, 1, 8, 17, "gated", dtype=np.float16)
    assert arrays[3] is not None
    arrays[3] = arrays[3].astype(np.float32)
    run(region(arrays, 2, 1, "gated"), arrays, HOST, 1e-3)


def test_other_machines_and_tasks() -> None:
    graph = region(operands(2, 64, 4, 1, 64, 64, "linear"), 4, 1, "linear")
    panels = -(-64 // (4 * HOST.lanes(dtypes.FLOAT32)))
    assert linear_attention.lower(graph, HOST, frozenset(), {}).schedule["tasks"] == str(2 * 4 * panels)
    assert linear_attention.lower(graph, ARM, frozenset(), {}).compile()[:4] == b"\x7fELF"


def test_refusals() -> None:
    nothing = operands(1, 0, 2, 1, 6, 8, "linear")
    with pytest.raises(BackendError, match="without elements"):
        linear_attention.lower(region(nothing, 2, 1, "linear"), HOST, frozenset(), {})


@pytest.mark.parametrize("number", range(6))
def test_no_operand_is_read_past_its_end(number: int) -> None:
    arrays = operands(2, 3, 2, 2, 6, 8, "gated_delta")
    found = arrays[number]
    assert found is not None
    arrays[number] = found[:, :-1] if number else found[:, :, :-1]
    with pytest.raises(TypeInferenceError, match="has shape"):
        region(arrays, 2, 2, "gated_delta")
