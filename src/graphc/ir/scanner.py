"""A cursor over text: tokens by pattern, and errors that show the place."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from graphc.errors import ParseError

WORD = re.compile(r"[A-Za-z_][\w.$-]*", re.ASCII)
"""Operators, attributes, graph names: what needs no quotes."""
VALUE_NAME = re.compile(r"[\w./$+-]+(?:::[\w./$+-]+)*", re.ASCII)
"""Value names that need no quotes after their `%`."""
STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')

_SPACE = re.compile(r"(?:\s|(?:#|//)[^\n]*)*")
_INTEGER = re.compile(r"[-+]?\d{1,40}", re.ASCII)
_SOMETHING = re.compile(r"[\w.$]{1,20}|\S{1,10}")
_DEEPEST = 50


class Scanner:
    """Stands at one place of a text, blanks and comments before it passed.

    Args:
        text: What is read.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.skip()

    def fail(self, message: str, position: int | None = None) -> NoReturn:
        """Raises ParseError at `position`, or here."""
        position = self.position if position is None else position
        start = self.text.rfind("\n", 0, position) + 1
        end = self.text.find("\n", position)
        source_line = self.text[start : len(self.text) if end < 0 else end]
        raise ParseError(message, line=self.line_of(position), column=position - start + 1, source_line=source_line)

    def line_of(self, position: int) -> int:
        """One-based line of a position."""
        return self.text.count("\n", 0, position) + 1

    def expected(self, what: str) -> NoReturn:
        """Raises ParseError that says what should stand here and what does."""
        found = _SOMETHING.match(self.text, self.position)
        self.fail(f"expected {what}, found {repr(found[0]) if found else 'the end of the text'}")

    def skip(self) -> None:
        """Passes blanks and comments."""
        match = _SPACE.match(self.text, self.position)
        assert match is not None
        self.position = match.end()

    def match(self, pattern: re.Pattern[str]) -> str | None:
        """Reads on past `pattern` and answers it if it is next."""
        found = pattern.match(self.text, self.position)
        if found is None:
            return None
        self.position = found.end()
        self.skip()
        return found[0]

    def sees(self, pattern: re.Pattern[str]) -> bool:
        """Whether `pattern` is next."""
        return pattern.match(self.text, self.position) is not None

    def at(self, token: str) -> bool:
        """Whether `token` is next."""
        return self.text.startswith(token, self.position)

    def accept(self, token: str) -> bool:
        """Reads on past `token` if it is next."""
        if not self.at(token):
            return False
        self.position += len(token)
        self.skip()
        return True

    def expect(self, token: str) -> None:
        """Reads on past `token`, which must be next."""
        if not self.accept(token):
            self.expected(repr(token))

    def separator(self, closing: str) -> None:
        """Reads on past the comma between items; the last item has none."""
        if not self.at(closing) and not self.accept(","):
            self.expected(f"',' or {closing!r}")

    def keyword(self, word: str) -> bool:
        """Reads on past `word` if it is the next whole word."""
        found = WORD.match(self.text, self.position)
        return found is not None and found[0] == word and self.accept(word)

    def string(self) -> str:
        """A quoted string in JSON's notation."""
        start = self.position
        token = self.match(STRING)
        if token is None:
            self.expected("a quoted string")
        try:
            return str(json.loads(token))
        except ValueError:
            self.fail(f"{token} is no string in JSON's notation", start)

    def word(self, what: str) -> str:
        """A word, or a quoted string in its place."""
        if self.at('"'):
            return self.string()
        token = self.match(WORD)
        return token if token is not None else self.expected(what)

    def integer(self) -> int:
        """A decimal integer."""
        token = self.match(_INTEGER)
        return int(token) if token is not None else self.expected("an integer")

    def optional_integer(self) -> int | None:
        """A decimal integer if one is next."""
        return self.integer() if self.sees(_INTEGER) else None

    def value_name(self) -> str:
        """A value's name with its `%`, quoted or not."""
        if not self.at("%"):
            self.expected("a value such as %x")
        self.position += 1
        if self.at('"'):
            return self.string()
        token = self.match(VALUE_NAME)
        return token if token is not None else self.expected("a value's name after '%'")

    def enter(self) -> None:
        """Counts one more level of nesting; `depth` is counted down by the caller.

        Raises:
            ParseError: There are too many.
        """
        self.depth += 1
        if self.depth > _DEEPEST:
            self.fail(f"nested more than {_DEEPEST} levels deep")
