"""Steps of optimizers against onnx.reference: the first update and later ones, several tensors at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.differential import case, check

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Adagrad": {"norm_coefficient": 0.01, "epsilon": 1e-5, "decay_factor": 0.1},
    "Adam": {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.1, "epsilon": 1e-7, "norm_coefficient_post": 0.02},
    "Momentum": {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.5, "mode": "standard"},
    "Nesterov": {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.5, "mode": "nesterov"},
}


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("tensors", [1, 2])
def test_step(tensors: int, count: int, name: str) -> None:
    operator = "Momentum" if name == "Nesterov" else name
    states = 2 if operator == "Adam" else 1
    rng = np.random.default_rng(0)
    shapes = [(3, 5), (7,)][:tensors]
    groups = [[np.abs(rng.standard_normal(shape)).astype(np.float32) for shape in shapes] for _ in range(2 + states)]
    arrays = [np.float32(0.1), np.int64(count), *(array for group in groups for array in group)]
    subject = case(operator, arrays, tensors * (1 + states), domain="ai.onnx.preview.training", **ATTRIBUTES[name])
    # The reference computes some of them in float64, and says so only of one tensor.
    check(subject, [array.astype(np.float32) for array in subject.reference()], expression=False)
