"""Symbolic integers against plain arithmetic on every binding that the bounds allow."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graphc.errors import OptionError
from graphc.ir import Dim, symbol, symbolic
from graphc.ir.dim_parser import parse_dim
from graphc.package import expression as package_expression

NAMES = ("a", "b", "n")
Tree = int | str | tuple[Any, ...]
BUILD: dict[str, Callable[..., Dim]] = {
    "+": symbolic.add,
    "*": symbolic.multiply,
    "//": symbolic.floordiv,
    "%": symbolic.mod,
    "min": symbolic.minimum,
    "max": symbolic.maximum,
}
MEANING: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}


def trees(constants: st.SearchStrategy[int]) -> st.SearchStrategy[Tree]:
    """Expression trees; divisors are non-zero constants or symbols, as quasi-affine indices have them."""
    leaves: st.SearchStrategy[Tree] = constants | st.sampled_from(NAMES)
    divisors = st.integers(1, 12) | st.sampled_from(NAMES) | st.integers(-5, -1)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(["+", "*", "min", "max"]), inner, inner),
            st.tuples(st.sampled_from(["//", "%"]), inner, divisors),
        ),
        max_leaves=8,
    )


def build(tree: Tree, bounds: symbolic.Bounds | None = None) -> Dim:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return symbol(tree)
    op, left, right = tree
    if op in ("//", "%"):
        return BUILD[op](build(left, bounds), build(right, bounds), bounds)
    return BUILD[op](build(left, bounds), build(right, bounds))


def meaning(tree: Tree, bindings: dict[str, int]) -> int:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return bindings[tree]
    op, left, right = tree
    return MEANING[op](meaning(left, bindings), meaning(right, bindings))


EXPRESSIONS = trees(st.integers(-20, 20))
BOUNDS = st.fixed_dictionaries(
    {name: st.tuples(st.integers(1, 4), st.integers(0, 3)).map(lambda p: (p[0], p[0] + p[1])) for name in NAMES}
)


def bindings_within(bounds: dict[str, tuple[int, int]]) -> list[dict[str, int]]:
    ranges = [range(bounds[name][0], bounds[name][1] + 1) for name in NAMES]
    return [dict(zip(NAMES, values, strict=True)) for values in itertools.product(*ranges)]


@given(EXPRESSIONS, st.fixed_dictionaries({name: st.integers(1, 30) for name in NAMES}))
def test_construction_keeps_the_meaning(tree: Tree, bindings: dict[str, int]) -> None:
    assert symbolic.evaluate(build(tree), bindings) == meaning(tree, bindings)


@given(EXPRESSIONS, BOUNDS)
def test_simplifying_under_bounds_keeps_the_meaning_within_them(tree: Tree, bounds: dict[str, tuple[int, int]]) -> None:
    expression = build(tree, bounds)
    again = symbolic.simplify(build(tree), bounds)
    for bindings in bindings_within(bounds):
        expected = meaning(tree, bindings)
        assert symbolic.evaluate(expression, bindings) == expected
        assert symbolic.evaluate(again, bindings) == expected


@given(EXPRESSIONS, BOUNDS, st.sampled_from(NAMES))
def test_interval_encloses_every_value(tree: Tree, bounds: dict[str, tuple[int, int]], free: str) -> None:
    expression = build(tree)
    values = [meaning(tree, bindings) for bindings in bindings_within(bounds)]
    extent = symbolic.interval(expression, bounds)
    if extent is not None:
        assert extent[0] <= min(values)
        assert extent[1] is not None and extent[1] >= max(values)
    open_ended: dict[str, tuple[int, int | None]] = {**bounds, free: (bounds[free][0], None)}
    extent = symbolic.interval(expression, open_ended)
    if extent is not None:
        wider = {**bounds, free: (bounds[free][0], bounds[free][1] + 7)}
        values = [meaning(tree, bindings) for bindings in bindings_within(wider)]
        assert extent[0] <= min(values)
        assert extent[1] is None or extent[1] >= max(values)


@given(EXPRESSIONS)
def test_text_parses_back_to_the_same_expression(tree: Tree) -> None:
    expression = build(tree)
    assert parse_dim(str(expression)) == expression


@given(EXPRESSIONS, st.fixed_dictionaries({name: st.integers(1, 30) for name in NAMES}))
def test_a_package_reads_the_text_the_same_way(tree: Tree, bindings: dict[str, int]) -> None:
    text = str(build(tree))
    assert package_expression.evaluate(text, bindings) == meaning(tree, bindings)


@given(EXPRESSIONS, EXPRESSIONS)
def test_equal_polynomials_are_equal_objects(left: Tree, right: Tree) -> None:
    a, b = build(left), build(right)
    assert symbolic.add(a, b) == symbolic.add(b, a)
    assert symbolic.multiply(a, b) == symbolic.multiply(b, a)
    assert symbolic.add(symbolic.add(a, b), symbolic.multiply(-1, b)) == a
    assert symbolic.multiply(a, symbolic.add(b, 1)) == symbolic.add(symbolic.multiply(a, b), a)
    assert hash(symbolic.add(a, b)) == hash(symbolic.add(b, a))


@given(EXPRESSIONS, EXPRESSIONS, st.fixed_dictionaries({name: st.integers(1, 20) for name in NAMES}))
def test_substitution_is_evaluation_of_the_part(tree: Tree, part: Tree, bindings: dict[str, int]) -> None:
    inner = meaning(part, bindings)
    assume(inner > 0)  # symbols stand for extents; a divisor must not become zero
    replaced = symbolic.substitute(build(tree), {"n": build(part)})
    assert symbolic.evaluate(replaced, bindings) == meaning(tree, {**bindings, "n": inner})


@given(EXPRESSIONS)
def test_symbols_are_the_free_names(tree: Tree) -> None:
    expression = build(tree)
    found = symbolic.symbols(expression)
    assert found <= set(NAMES)
    bindings = dict.fromkeys(found, 3)
    assert isinstance(symbolic.evaluate(expression, bindings), int)
    for name in found:
        rest = {other: 3 for other in found - {name}}
        partly = symbolic.substitute(expression, rest)
        assert isinstance(partly, int) or symbolic.symbols(partly) == {name}


@given(st.integers(-9, 9), EXPRESSIONS)
def test_linear_coefficient(coefficient: int, rest: Tree) -> None:
    expression = symbolic.add(symbolic.multiply(coefficient, symbol("i")), build(rest))
    assert symbolic.linear_coefficient(expression, "i") == coefficient


def test_linear_coefficient_of_what_is_not_linear() -> None:
    i, n = symbol("i"), symbol("n")
    assert symbolic.linear_coefficient(i * i, "i") is None
    assert symbolic.linear_coefficient(i * n, "i") is None
    assert symbolic.linear_coefficient((i + 1) // 2, "i") is None
    assert symbolic.linear_coefficient(7, "i") == 0


def test_index_arithmetic_of_a_blocked_layout_falls_away() -> None:
    c, lane = symbol("c"), symbol("lane")
    bounds = {"c": (0, 7), "lane": (0, 15)}
    flat = c * 16 + lane
    assert symbolic.floordiv(flat, 16, bounds) == c
    assert symbolic.mod(flat, 16, bounds) == lane
    assert symbolic.floordiv(flat, 8, bounds) == c * 2 + symbolic.floordiv(lane, 8)
    assert str(symbolic.floordiv(flat, 16)) == "(lane//16) + c"


def test_text_is_pleasant() -> None:
    n, m = symbol("n"), symbol("m")
    assert str(n + 1) == "n + 1"
    assert str(2 * n - m) == "-m + 2*n"
    assert str((n + 1) // 2 * 3 - n * m) == "-m*n + 3*((n + 1)//2)"
    assert str(symbolic.minimum(n, 4)) == "min(4, n)"


@pytest.mark.parametrize("name", ["in", "None", "lambda", "if", "min", "étage", "_", "s15"])
def test_any_identifier_is_a_symbol(name: str) -> None:
    assert parse_dim(name) == symbol(name)
    assert parse_dim(f"2*{name} + 1") == 2 * symbol(name) + 1


def test_precedence_is_python_s() -> None:
    bindings = {"a": 7, "b": 3}
    for text in ("-a//b", "a - b - 1", "a//b//2", "a*b%4", "a - -b", "2*(a - b)", "a%b*2", "max(a, min(b, 2))"):
        assert symbolic.evaluate(parse_dim(text), bindings) == eval(text, {}, bindings), text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1, found the end"),
        ("n +", "expected an integer, a symbol or '(' at column 4, found the end"),
        ("n 2", "expected an operator at column 3, found '2'"),
        ("n/2", "expected an operator at column 2, found '/'"),
        ("(n", "expected ')' at column 3"),
        ("min(n)", "expected ',' at column 6"),
        ("n.m", "found '.'"),
        ("__import__('os')", "expected an operator"),
        ("1.5", "found '.'"),
        ("n // 0", "division of dimension n by zero"),
        ("n % 0", "remainder of dimension n by zero"),
        ("n" * 2000, "too long"),
        ("(" * 500, "nested too deeply"),
        ("*".join(f"(a{i} + b{i} + 1)" for i in range(40)), "too large"),
    ],
)
def test_what_is_no_expression_says_where(text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_dim(text)
    assert message in str(caught.value)


@given(st.text(alphabet="nm12 +-*/%(),min", max_size=30))
def test_any_text_is_an_expression_or_a_typed_error(text: str) -> None:
    try:
        value = parse_dim(text)
    except OptionError:
        return
    assert parse_dim(str(value)) == value


def test_an_unbound_symbol_is_named() -> None:
    with pytest.raises(OptionError, match=r"no value is bound for m in m \+ n"):
        symbolic.evaluate(symbol("n") + symbol("m"), {"n": 1})


def test_an_index_split_and_flattened_again_is_itself() -> None:
    x = symbolic.symbol("x")
    split = 24 * (x // 24) + 8 * (x // 8 % 3) + x % 8 + 5
    assert symbolic.simplify(split, {}) == x + 5
    assert symbolic.simplify(16 * (x // 8) + x % 8, {}) != x


def test_a_product_divided_by_a_factor_of_several_terms_is_the_other_factor() -> None:
    n, s = symbol("n"), symbol("s")
    assert symbolic.floordiv(768 * s + 768, 64 * s + 64) == 12
    assert symbolic.floordiv((s + 1) * (n + 2) * 3, n + 2) == 3 * s + 3
    assert symbolic.floordiv(s * s - 1, s + 1) == s - 1
    assert symbolic.mod(768 * s + 768, 64 * s + 64) == 0
    assert str(symbolic.floordiv(s * s, s + 1)) == "((s*s)//(s + 1))"
