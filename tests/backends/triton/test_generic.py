"""The template for any tensor expression on GPUs: every kind of access, interpreted, against NumPy."""

from __future__ import annotations

import pytest

from graphc.backends.triton import generic
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import body
from tests.backends.expression_cases import CASES

LONG = frozenset({"long", "softmax", "inner softmax", "softmax down columns", "moments of channels", "layer norm"})
"""What the interpreter would take seconds for, element by element; `rows` takes the reductions among them."""


@pytest.mark.parametrize("name", sorted(CASES.keys() - LONG))
def test_every_kind_of_access(name: str) -> None:
    arrays, make = CASES[name]
    check_kernel(body(arrays, make), arrays, generic.lower)
