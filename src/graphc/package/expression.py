"""Extents as text: `seq`, `2*seq + 1`, `max(batch, 4)`, read by a small parser and never by `eval`.

Grammar: sums and differences of products, floor quotients and remainders of integers, symbols, parentheses, `max(a, b)`
and `min(a, b)`, each with at most one minus before it; the usual precedence, all left-associative.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from graphc.errors import PackageError

_TOKEN = re.compile(r"\s*(?:(?P<number>[0-9]{1,19})|(?P<name>[A-Za-z_][A-Za-z0-9_.]*)|(?P<operator>//|[-+*%(),]))")
_MAX_LENGTH = 1000
_MAX_DEPTH = 40

Bindings = Mapping[str, int]
_Evaluator = Callable[[Bindings], int]


class _Parser:
    """Recursive descent over one expression; builds a closure and the list of symbols met."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._tokenize(text)
        self.place = 0
        self.depth = 0
        self.symbols: dict[str, None] = {}

    def fail(self, why: str) -> PackageError:
        return PackageError(f"extent expression {self.text!r}: {why}")

    def _tokenize(self, text: str) -> list[tuple[str, str]]:
        if len(text) > _MAX_LENGTH:
            raise PackageError(f"extent expression of {len(text)} characters; at most {_MAX_LENGTH} are read")
        tokens, place = [], 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                if text[place:].isspace():
                    break
                column = len(text) - len(text[place:].lstrip()) + 1
                raise self.fail(f"unexpected character at column {column}")
            assert match.lastgroup is not None
            tokens.append((match.lastgroup, match.group(match.lastgroup)))
            place = match.end()
        return tokens

    def peek(self) -> str:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else ""

    def take(self, expected: str) -> None:
        if self.peek() != expected:
            raise self.fail(f"expected {expected!r}, found {self.peek()!r}")
        self.place += 1

    def parse(self) -> _Evaluator:
        result = self.sum()
        if self.place != len(self.tokens):
            raise self.fail(f"unexpected {self.peek()!r}")
        return result

    def sum(self) -> _Evaluator:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.fail(f"nested deeper than {_MAX_DEPTH}")
        left = self.product()
        while (operator := self.peek()) in ("+", "-"):
            self.place += 1
            left = _combine(operator, left, self.product(), self)
        self.depth -= 1
        return left

    def product(self) -> _Evaluator:
        left = self.atom()
        while (operator := self.peek()) in ("*", "//", "%"):
            self.place += 1
            left = _combine(operator, left, self.atom(), self)
        return left

    def atom(self) -> _Evaluator:
        if self.place >= len(self.tokens):
            raise self.fail("it ends where a number, symbol or '(' should stand")
        kind, text = self.tokens[self.place]
        self.place += 1
        if kind == "number":
            number = int(text)
            return lambda bindings: number
        if kind == "name" and text in ("max", "min") and self.peek() == "(":
            self.take("(")
            first = self.sum()
            self.take(",")
            second = self.sum()
            self.take(")")
            return _combine(text, first, second, self)
        if kind == "name":
            self.symbols[text] = None
            return lambda bindings: bindings[text]
        if text == "(":
            inner = self.sum()
            self.take(")")
            return inner
        if text == "-" and self.peek() != "-":
            negated = self.atom()
            return lambda bindings: -negated(bindings)
        raise self.fail(f"unexpected {text!r}")


def _combine(operator: str, left: _Evaluator, right: _Evaluator, parser: _Parser) -> _Evaluator:
    def divide(a: int, b: int) -> tuple[int, int]:
        if b == 0:
            raise parser.fail("division by zero")
        return divmod(a, b)

    operations: dict[str, Callable[[int, int], int]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "//": lambda a, b: divide(a, b)[0],
        "%": lambda a, b: divide(a, b)[1],
        "max": max,
        "min": min,
    }
    operation = operations[operator]
    return lambda bindings: operation(left(bindings), right(bindings))


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[_Evaluator, tuple[str, ...]]:
    parser = _Parser(text)
    return parser.parse(), tuple(parser.symbols)


def symbols_of(extent: int | str) -> tuple[str, ...]:
    """The symbols an extent depends on, in order of first appearance.

    Raises:
        PackageError: The text is not an extent expression.
    """
    return () if isinstance(extent, int) else _parse(extent)[1]


def evaluate(extent: int | str, bindings: Bindings) -> int:
    """The value of an extent under `bindings` (symbol to integer).

    Raises:
        PackageError: The text is not an extent expression, divides by zero, or a symbol is unbound.
    """
    if isinstance(extent, int):
        return extent
    evaluator, symbols = _parse(extent)
    for symbol in symbols:
        if symbol not in bindings:
            raise PackageError(f"extent expression {extent!r}: symbol {symbol!r} is not bound")
    return evaluator(bindings)
