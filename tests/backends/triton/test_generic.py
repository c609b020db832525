"""Tensor expressions on GPUs: every kind of access, interpreted, against NumPy."""

from __future__ import annotations

import pytest

from graphc.backends.base import Kernel
from graphc.backends.triton import templates
from graphc.ir import Graph
from graphc.target.cuda import CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import body
from tests.backends.expression_cases import CASES


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return templates.lower(graph, target, frozenset(), {})


LONG = frozenset({"long", "softmax down columns"})


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in CASES])
def test_every_kind_of_access(name: str) -> None:
    arrays, make = CASES[name]
    check_kernel(body(arrays, make), arrays, lower)
