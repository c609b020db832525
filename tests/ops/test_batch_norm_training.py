"""Training batch norms: statistics of the batch, running ones moved; the expansion agrees with the meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.differential import Case, case, check
from tests.ops.expanded import check_expanded


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("momentum", [0.9, 0.25])
def test_training(momentum: float, shape: tuple[int, ...], kind: Any) -> None:
    rng = np.random.default_rng(0)
    parameters = [np.abs(rng.standard_normal(3)).astype(kind) for _ in range(4)]
    arrays = [rng.standard_normal(shape).astype(kind), *parameters]
    subject = case("BatchNormalization", arrays, 3, training_mode=1, momentum=momentum, epsilon=1e-3)
    tolerance = 1e-2 if kind is np.float16 else 1e-5
    check(subject, Case.reference, expression=False, rtol=tolerance, atol=tolerance)
    check_expanded(subject, subject.reference(), tolerance=tolerance)
