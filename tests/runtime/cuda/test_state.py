"""States that stay in the GPU's memory from call to call."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import InputError
from graphc.package import KernelStep, Location, TensorSpec
from graphc.runtime import load
from graphc.runtime.cuda import DeviceArray
from tests.runtime.cuda.conftest import Build, Fake


def test_states_never_leave(build: Build, fake: Fake) -> None:
    """A running sum: s' = s + x, y = 2 s'."""
    specs = [TensorSpec("x", "float32", (4,)), TensorSpec("s", "float32", (4,))]
    outputs = [TensorSpec("y", "float32", (4,)), TensorSpec("s_next", "float32", (4,))]
    steps = [
        KernelStep("add", (Location("input"), Location("input", 1), Location("output", 1)), (4,)),
        KernelStep("scale", (Location("output", 1), Location("output")), (4,)),
    ]
    x = np.arange(4, dtype=np.float32)
    with load(build(specs, outputs, steps)) as model:
        bound = model.bind_state({"s": "s_next"})
        for number in range(1, 9):
            found = bound({"x": x})
            assert list(found) == ["y"]
            np.testing.assert_array_equal(found["y"], 2 * number * x)
        assert isinstance(bound.state["s"], DeviceArray)
        np.testing.assert_array_equal(bound.state["s"].numpy(), 8 * x)
        # The first state came from the host; then two arrays take turns, which graphs are captured for.
        assert fake.calls("cuMemAlloc") < 12 and fake.calls("cuStreamBeginCapture") == 3
        bound.reset({"s": bound.state["s"]})
        np.testing.assert_array_equal(bound({"x": x})["y"], 18 * x)
        with pytest.raises(InputError, match="initial state: expected s"):
            bound.reset({"s": fake.array(np.zeros(4))})
        del bound
