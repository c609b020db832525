"""Reads dimensions from text by recursive descent, never by `eval`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NoReturn

from graphc.errors import OptionError
from graphc.ir.symbolic import Dim, add, floordiv, maximum, minimum, mod, multiply, symbol


@lru_cache(maxsize=4096)
def parse_dim(text: str) -> Dim:
    """Reads what `str` of a dimension writes, with Python's precedence.

    Integers, symbols, `+ - * // %`, `min(a, b)` and `max(a, b)` are allowed.

    Raises:
        OptionError: `text` is no such expression.
    """
    if len(text) > 1000:
        raise OptionError(f"dimension expression of {len(text)} characters is too long")
    reader = _Reader(text)
    value = reader.sum()
    if reader.token:
        reader.fail("an operator")
    return value


_TOKEN = re.compile(r"\s*(//|[-+*%(),]|\d+|[^\W\d]\w*|\Z|.)", re.DOTALL)
_OPERATORS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "+": add,
    "-": lambda a, b: add(a, multiply(-1, b)),
    "*": multiply,
    "//": floordiv,
    "%": mod,
    "min": minimum,
    "max": maximum,
}


class _Reader:
    """Recursive descent over one expression; `token` is the next unread one, empty at the end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.end = 0
        self.depth = 0
        self.token = ""
        self.next()

    def next(self) -> str:
        """Reads on; answers the token that was current."""
        last = self.token
        match = _TOKEN.match(self.text, self.end)
        assert match is not None
        self.token, self.end = match[1], match.end()
        return last

    def fail(self, expected: str) -> NoReturn:
        found = repr(self.token) if self.token else "the end"
        column = self.end - len(self.token) + 1
        raise OptionError(
            f"cannot read dimension {self.text!r}: expected {expected} at column {column}, found {found}",
            hint="integers, symbols, + - * // %, min and max are allowed",
        )

    def take(self, token: str) -> None:
        if self.token != token:
            self.fail(repr(token))
        self.next()

    def sum(self) -> Dim:
        self.depth += 1
        if self.depth > 60:
            raise OptionError(f"dimension {self.text[:40]!r}... is nested too deeply")
        value = self.term()
        while self.token in ("+", "-"):
            value = _OPERATORS[self.next()](value, self.term())
        self.depth -= 1
        return value

    def term(self) -> Dim:
        value = self.factor()
        while self.token in ("*", "//", "%"):
            value = _OPERATORS[self.next()](value, self.factor())
        return value

    def factor(self) -> Dim:
        negative = False
        while self.token == "-":
            self.next()
            negative = not negative
        value = self.atom()
        return multiply(-1, value) if negative else value

    def atom(self) -> Dim:
        if self.token.isdecimal():
            return int(self.next())
        if self.token == "(":
            self.next()
            value = self.sum()
            self.take(")")
            return value
        if not self.token.isidentifier():
            self.fail("an integer, a symbol or '('")
        name = self.next()
        if name in ("min", "max") and self.token == "(":
            self.next()
            left = self.sum()
            self.take(",")
            right = self.sum()
            self.take(")")
            return _OPERATORS[name](left, right)
        return symbol(name)
