"""Softmax and its like a row at a time: against NumPy, at rows of every length, with what precedes and follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import rows
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, Value
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, Array, check, run

NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Every attempt compiles a kernel."""
every_target = pytest.mark.parametrize("target", TARGETS, ids=str)


def lower(graph: Graph, target: Target) -> Kernel:
    return rows.lower(graph, target, frozenset(), {})


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def masked_softmax(b: Builder, x: Value, mask: Value) -> Value:
    scaled = b.op("Mul", x, b.constant(np.float32(0.3)))
    return b.op("Softmax", b.op("Add", scaled, mask), axis=-1)


def gelu_norm(b: Builder, x: Value, mask: Value) -> Value:
    activated = b.op("Mul", x, b.op("Sigmoid", x))
    mean = b.op("ReduceMean", activated, b.constant(np.array([-1])), keepdims=1)
    return b.op("Add", b.op("Sub", activated, mean), mask)


REGIONS: dict[str, Any] = {
    "softmax": lambda b, x, mask: b.op("Softmax", x, axis=-1),
    "masked softmax": masked_softmax,
    "softmax, two results": lambda b, x, mask: [b.op("Softmax", x, axis=-1), b.op("Add", x, mask)],
    "softmax, then scaled": lambda b, x, mask: b.op("Mul", b.op("Softmax", x, axis=-1), mask),
    "of an activation": gelu_norm,
    "product of exponentials": lambda b, x, mask: b.op(
        "Mul", b.op("Exp", x), b.op("ReduceMin", b.op("Exp", x), b.constant(np.array([-1])), keepdims=1)
    ),
}


@every_target
@pytest.mark.parametrize("name", sorted(REGIONS))
@settings(max_examples=4, phases=NO_SHRINKING)
@given(st.data())
def test_rows_of_any_length(name: str, target: Target, data: st.DataObject) -> None:
    count, length = data.draw(st.integers(1, 6), "count"), data.draw(st.integers(2, 150), "length")
    mask = data.draw(st.sampled_from([(length,), (2, count, length), (2, 1, 1), (count, 1)]), "mask")
    arrays = [normal(2, count, length) * 3, normal(*mask)]
    check(body(arrays, REGIONS[name]), arrays, lower, target, rtol=2e-6)


@every_target
def test_rows_that_threads_share(target: Target) -> None:
    arrays = [normal(3, 70, 130), normal(3, 1, 130)]
    kernel = check(body(arrays, masked_softmax), arrays, lower, target)
    assert kernel.schedule == {"passes": 3, "kept": 1, "tasks": kernel.schedule["tasks"]}
    assert kernel.schedule["tasks"] != "serial"


@every_target
def test_one_row(target: Target) -> None:
    arrays = [normal(1000) * 20]
    check(body(arrays, lambda b, x: b.op("Softmax", x, axis=0)), arrays, lower, target)


def test_a_nan_reaches_its_whole_row_and_no_other() -> None:
    arrays = [normal(3, 40)]
    graph = body(arrays, lambda b, x: b.op("Softmax", x, axis=-1))
    arrays[0][1, 7] = np.nan
    (result,) = run(lower(graph, HOST), graph, arrays)
    assert np.isnan(result[1]).all()
    assert np.isfinite(result[[0, 2]]).all()


def test_infinities_are_what_they_are_in_numpy() -> None:
    arrays = [normal(3, 40)]
    arrays[0][0, 3:] = -np.inf
    graph = body(arrays, lambda b, x: b.op("Softmax", x, axis=-1))
    check(graph, arrays, lower)
    arrays[0][1, 5] = np.inf
    (result,) = run(lower(graph, HOST), graph, arrays)
    assert np.isnan(result[1, 5])


def test_half_precision_is_computed_in_single() -> None:
    arrays = [normal(3, 40).astype(np.float16)]
    check(body(arrays, lambda b, x: b.op("Softmax", x, axis=-1)), arrays, lower, rtol=1e-3)


def test_an_arm_object_compiles() -> None:
    arrays = [normal(3, 40)]
    assert lower(body(arrays, lambda b, x: b.op("Softmax", x, axis=-1)), ARM).compile()[:4] == b"\x7fELF"


def test_refusals_say_why() -> None:
    def refusal(make: Any, *arrays: Array) -> str:
        with pytest.raises(BackendError) as caught:
            lower(body(arrays, make), HOST)
        return caught.value.message

    x = normal(4, 5, 6)
    assert "innermost" in refusal(lambda b, x: b.op("ReduceMax", x, b.constant(np.array([-1])), keepdims=1), x)
    assert "innermost" in refusal(lambda b, x: b.op("Softmax", x, axis=1), x)
    assert "value to keep" in refusal(lambda b, x: b.op("Relu", x), x)
    assert "float64" in refusal(lambda b, x: b.op("Softmax", x), x.astype(np.float64))
