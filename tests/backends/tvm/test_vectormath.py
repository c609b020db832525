"""Vector functions against NumPy in double precision: everywhere, at the borders of their pieces, at what is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc.backends.tvm import generic, vector_angles, vectormath
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import TARGETS, run

Array = np.ndarray[Any, Any]

FUNCTIONS: dict[str, tuple[str, Callable[[Array], Array], float, int]] = {
    "sin": ("Sin", np.sin, 1e5, 2),
    "cos": ("Cos", np.cos, 1e5, 2),
    "tan": ("Tan", np.tan, 1e5, 4),
    "asin": ("Asin", np.arcsin, 1.0, 4),
    "acos": ("Acos", np.arccos, 1.0, 4),
    "atan": ("Atan", np.arctan, 1e30, 3),
    "sinh": ("Sinh", np.sinh, 89.5, 6),
    "cosh": ("Cosh", np.cosh, 89.5, 6),
    "asinh": ("Asinh", np.arcsinh, 3e38, 6),
    "acosh": ("Acosh", np.arccosh, 3e38, 6),
    "atanh": ("Atanh", np.arctanh, 1.0, 6),
    "exp": ("Exp", np.exp, 89.0, 2),
    "log": ("Log", np.log, 3e38, 2),
    "tanh": ("Tanh", np.tanh, 20.0, 5),
}
"""Operator, meaning, the largest magnitude that is asked, and the error in units of the last place."""
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 3.4e38, 1e7, -1e12]


def samples(largest: float) -> Array:
    """Magnitudes of every order, evenly spread numbers, multiples of pi/4 and their neighbours."""
    rng = np.random.default_rng(7)
    orders = np.exp(rng.uniform(np.log(1e-6), np.log(largest), 6000)) * rng.choice([-1, 1], 6000)
    even = rng.uniform(-min(largest, 90), min(largest, 90), 6000)
    turns = np.arange(-60, 60) * np.pi / 4
    found = np.concatenate([orders, even, turns, np.nextafter(turns.astype(np.float32), np.float32(9)), SPECIAL])
    return found.astype(np.float32)


def check(op: str, meaning: Callable[[Array], Array], x: Array, ulps: int, target: Target) -> None:
    graph = body([x], lambda b, x: b.op(op, x))
    (found,) = run(generic.lower(graph, target), graph, [x])
    with np.errstate(all="ignore"):
        exact = meaning(x.astype(np.float64))
        want = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    large = np.isinf(want)
    np.testing.assert_array_equal(found[large], want[large])
    inside = np.isfinite(want)
    # Denormal numbers are worth as much as the least normal one.
    unit = np.spacing(np.maximum(np.abs(want[inside]), np.finfo(np.float32).tiny)).astype(np.float64)
    error = np.abs(found[inside].astype(np.float64) - exact[inside]) / unit
    worst = int(error.argmax())
    assert error[worst] <= ulps + 0.5, f"{op}({x[inside][worst]!r}) is {error[worst]:.1f} units off"
    zero = (want == 0) & (x == 0)
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(("op", "meaning", "largest", "ulps"), FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_functions_are_numpys(
    op: str, meaning: Callable[[Array], Array], largest: float, ulps: int, target: Target
) -> None:
    check(op, meaning, samples(largest), ulps, target)


@pytest.mark.parametrize("op", ["Softplus", "Mish"])
def test_functions_of_these_are_accurate(op: str) -> None:
    """log(1 + exp(x)) and x tanh(softplus(x)): what models make of log1p."""
    meanings: dict[str, Callable[[Array], Array]] = {
        "Softplus": lambda x: np.logaddexp(x, 0),
        "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    }
    x = samples(80.0)
    x = x[np.isfinite(x) & (np.abs(x) < 80) & (np.abs(x) > 1e-20)]
    check(op, meanings[op], x, 16, TARGETS[0])


def test_a_few_lanes_take_the_same_values_as_whole_vectors() -> None:
    x = samples(1e5)[:37]
    graph = body([x], lambda b, x: b.op("Sin", x))
    (whole,) = run(generic.lower(graph, TARGETS[0]), graph, [x])
    for count in (1, 3, 17):
        part = np.ascontiguousarray(x[:count])
        few = body([part], lambda b, x: b.op("Sin", x))
        np.testing.assert_array_equal(run(generic.lower(few, TARGETS[0]), few, [part])[0], whole[:count])


def test_no_function_is_in_two_tables() -> None:
    assert not set(vectormath.FLOAT32) & set(vector_angles.FLOAT32)
