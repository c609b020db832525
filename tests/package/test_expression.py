from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import PackageError
from graphc.package import evaluate, symbols_of

SYMBOLS = ["batch", "seq", "past_len.1"]
leaves = st.one_of(st.integers(0, 1000).map(str), st.sampled_from(SYMBOLS))


def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.builds(
        "{} {} {}".format, inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner
    )  # no parentheses: precedence is what is compared
    call = st.builds("{}({}, {})".format, st.sampled_from(["max", "min"]), inner, inner)
    return st.one_of(binary, call, inner.map("({})".format))


expressions = st.recursive(leaves, extend, max_leaves=12)
bindings = st.fixed_dictionaries({name: st.integers(-50, 50) for name in SYMBOLS})


@given(expressions, bindings)
def test_means_what_python_means(text: str, values: dict[str, int]) -> None:
    python = text.replace("past_len.1", "past_len_1")
    scope = {name.replace(".", "_"): value for name, value in values.items()}
    try:
        expected = eval(python, {"__builtins__": {}, "max": max, "min": min}, scope)
    except ZeroDivisionError:
        with pytest.raises(PackageError, match="division by zero"):
            evaluate(text, values)
        return
    assert evaluate(text, values) == expected


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_typed_error(text: str) -> None:
    try:
        value = evaluate(text, {"a": 3})
    except PackageError:
        return
    assert isinstance(value, int)


def test_symbols_in_order_of_appearance() -> None:
    assert symbols_of("seq*2 + batch//seq") == ("seq", "batch")
    assert symbols_of(7) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends where a number"),
        ("2 *", "ends where a number"),
        ("(a", r"expected '\)'"),
        ("a b", "unexpected 'b'"),
        ("a.__class__()", "unexpected"),
        ("max(a)", "expected ','"),
        ("a ** 2", "unexpected"),
        ("a ; b", "unexpected character at column 3"),
        ("(" * 100 + "a" + ")" * 100, "nested deeper"),
        ("a+" * 1000 + "a", "at most 1000"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        evaluate(text, {"a": 1})


def test_unbound_symbol_is_named() -> None:
    with pytest.raises(PackageError, match="'seq' is not bound"):
        evaluate("seq + 1", {"batch": 1})
