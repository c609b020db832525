"""Pipelines as text and as data: `fold,simplify,layout{block=16},fuse{max_nodes=24 only=a|b}`.

    pipeline = pass ("," pass)*
    pass     = name ["{" option ([","] option)* "}"]
    option   = name "=" value
    value    = integer, float, true, false, none, word, "text in quotes", or words joined by "|" for a list

Options are typed by the fields of the pass's dataclass. Named pipelines (`-O0`...`-O3`) are TOML files in `pipelines/`,
one for each target kind, with one table for each level.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from graphc.errors import OptionError, ParseError
from graphc.passes.base import PASSES, Pass, describe_pass

_TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z0-9_.+\-/:*]+)|(?P<mark>[{},=|])|(?P<bad>\S))', re.DOTALL
)


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """Reads a textual pipeline.

    Raises:
        ParseError: The text is malformed, or names a pass, an option or a value that does not exist; it shows where.
    """
    return _Parser(text).pipeline()


def print_pipeline(passes: Sequence[Pass]) -> str:
    """Writes passes so that `parse_pipeline` reads them back."""
    return ",".join(describe_pass(pass_) for pass_ in passes)


def default_pipeline(level: str = "O2", target: str = "cpu") -> tuple[Pass, ...]:
    """The passes of optimization level `level` on a target kind.

    Args:
        level: `O0`...`O3`.
        target: Kind of the target, the part of its name before the colon.

    Raises:
        OptionError: There is no such level or target.
    """
    levels = pipeline_table(target)
    if level not in levels:
        raise OptionError(f"unknown optimization level {level!r} for {target}; known: {', '.join(levels)}")
    return parse_pipeline(levels[level])


@cache
def pipeline_table(target: str = "cpu") -> dict[str, str]:
    """Every level's pipeline text for a target kind, as its TOML file gives it.

    Raises:
        OptionError: No file describes the target.
    """
    folder = resources.files("graphc.passes") / "pipelines"
    known = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if target not in known:
        raise OptionError(f"no pipeline is known for target {target!r}; known: {', '.join(known)}")
    data = tomllib.loads((folder / f"{target}.toml").read_text(encoding="utf-8"))
    return {level: ",".join(table["passes"]) for level, table in data.items()}


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        for found in _TOKEN.finditer(text):
            kind = found.lastgroup or "bad"
            self.tokens.append((kind, found[kind], found.start(kind)))
        self.place = 0

    def fail(self, message: str, offset: int | None = None) -> ParseError:
        at = self.offset if offset is None else offset
        line_start = self.text.rfind("\n", 0, at) + 1
        line_end = self.text.find("\n", at)
        return ParseError(
            message,
            line=self.text.count("\n", 0, at) + 1,
            column=at - line_start + 1,
            source_line=self.text[line_start : None if line_end < 0 else line_end],
        )

    @property
    def offset(self) -> int:
        return self.tokens[self.place][2] if self.place < len(self.tokens) else len(self.text.rstrip())

    def peek(self) -> str | None:
        if self.place == len(self.tokens):
            return None
        kind, text, _ = self.tokens[self.place]
        return text if kind == "mark" else kind

    def take(self, expected: str, what: str) -> str:
        if self.peek() != expected:
            found = "the end" if self.place == len(self.tokens) else repr(self.tokens[self.place][1])
            raise self.fail(f"expected {what}, found {found}")
        text = self.tokens[self.place][1]
        self.place += 1
        return text

    def pipeline(self) -> tuple[Pass, ...]:
        passes: list[Pass] = []
        if not self.tokens:
            return ()
        while True:
            passes.append(self.one_pass())
            if self.peek() is None:
                return tuple(passes)
            self.take(",", "',' or the end")

    def one_pass(self) -> Pass:
        start = self.offset
        name = self.take("word", "the name of a pass")
        cls = PASSES.get(name)
        if cls is None:
            raise self.fail(f"unknown pass {name!r}{suggestion(name, PASSES)}", start)
        options: dict[str, Any] = {}
        if self.peek() == "{":
            self.take("{", "'{'")
            while self.peek() != "}":
                self.option(cls, options)
                if self.peek() == ",":
                    self.take(",", "','")
            self.take("}", "'}'")
        required = [f.name for f in _fields(cls).values() if f.default is f.default_factory is dataclasses.MISSING]
        missing = [option for option in required if option not in options]
        if missing:
            raise self.fail(f"pass {name!r} needs option {missing[0]!r}", start)
        try:
            return cls(**options)
        except OptionError as error:
            raise self.fail(error.message, start) from error

    def option(self, cls: type[Pass], options: dict[str, Any]) -> None:
        start = self.offset
        name = self.take("word", "the name of an option or '}'")
        fields = _fields(cls)
        if name not in fields:
            raise self.fail(f"pass {cls.name!r} has no option {name!r}{suggestion(name, fields)}", start)
        if name in options:
            raise self.fail(f"option {name!r} is given twice", start)
        self.take("=", "'='")
        start = self.offset
        words = [self.value()]
        while self.peek() == "|":
            self.take("|", "'|'")
            words.append(self.value())
        wanted = typing.get_type_hints(cls)[name]
        try:
            options[name] = _convert(words, wanted)
        except ValueError:
            shown = "|".join(words)
            raise self.fail(
                f"option {name!r} of {cls.name!r} takes {_type_text(wanted)}, not {shown!r}", start
            ) from None

    def value(self) -> str:
        if self.peek() == "string":
            return re.sub(r"\\(.)", r"\1", self.take("string", "a value")[1:-1])
        return self.take("word", "a value")


def suggestion(name: str, known: typing.Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else "; there are none"


def _fields(cls: type[Pass]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]


def _convert(words: list[str], wanted: Any) -> Any:
    if isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union:
        members = typing.get_args(wanted)
        if types.NoneType in members and words == ["none"]:
            return None
        for member in members:
            if member is not types.NoneType:
                try:
                    return _convert(words, member)
                except ValueError:
                    continue
        raise ValueError(words)
    if typing.get_origin(wanted) is tuple:
        return tuple(_convert([word], typing.get_args(wanted)[0]) for word in words if word)
    if len(words) != 1:
        raise ValueError(words)
    if wanted is bool:
        return {"true": True, "false": False}[words[0]] if words[0] in ("true", "false") else _bad(words)
    if wanted in (int, float, str):
        return wanted(words[0])
    raise ValueError(words)


def _bad(words: list[str]) -> Any:
    raise ValueError(words)


def _type_text(wanted: Any) -> str:
    if isinstance(wanted, types.UnionType):
        return " or ".join(_type_text(member) for member in typing.get_args(wanted))
    if typing.get_origin(wanted) is tuple:
        return f"a list of {_type_text(typing.get_args(wanted)[0])} joined by '|'"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a word", types.NoneType: "none"}
    return names.get(wanted, str(wanted))
