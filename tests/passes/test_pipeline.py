"""Textual pipelines: what parses, what it prints back, and where an error points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import OptionError, ParseError
from graphc.ir import Graph
from graphc.passes import PASSES, PassContext, default_pipeline, parse_pipeline, pipeline_table, print_pipeline
from graphc.passes.base import register_pass


@dataclass(frozen=True)
class Options:
    """Takes every kind of option."""

    name: ClassVar[str] = "options-of-every-kind"
    count: int = 3
    ratio: float = 0.5
    on: bool = False
    mode: str = "fast"
    words: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1,)
    limit: int | None = None

    def run(self, graph: Graph, context: PassContext) -> int:
        return 0


@dataclass(frozen=True)
class Needy:
    """Needs an option."""

    name: ClassVar[str] = "needy"
    count: int

    def run(self, graph: Graph, context: PassContext) -> int:
        return 0


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Options, Needy):
        monkeypatch.setitem(PASSES, cls.name, cls)


def test_empty_text_is_no_pass() -> None:
    assert parse_pipeline("") == parse_pipeline("  \n") == ()


def test_options_are_typed_by_the_dataclass() -> None:
    text = 'options-of-every-kind{count=-4 ratio=1e-3, on=true mode="two words" words=a|b sizes=1|2|3 limit=7}'
    (found,) = parse_pipeline(text)
    assert found == Options(-4, 1e-3, True, "two words", ("a", "b"), (1, 2, 3), 7)


def test_none_is_an_option_where_the_field_allows_it() -> None:
    assert parse_pipeline("options-of-every-kind{limit=none}") == (Options(),)


@given(
    st.builds(
        Options,
        st.integers(),
        st.floats(allow_nan=False),
        st.booleans(),
        st.from_regex(r"[a-z][a-z0-9_.]{0,8}", fullmatch=True),
        st.lists(st.sampled_from(["a", "b_c", "d-e"]), min_size=1).map(tuple),
        st.lists(st.integers(), min_size=1).map(tuple),
        st.none() | st.integers(),
    )
)
def test_what_prints_parses_back(options: Options) -> None:
    assert parse_pipeline(print_pipeline([options, options])) == (options, options)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("dce,,cse", 5, "expected the name of a pass, found ','"),
        ("dce,", 5, "expected the name of a pass, found the end"),
        ("dce cse", 5, "expected ',' or the end, found 'cse'"),
        ("dse", 1, "unknown pass 'dse'; did you mean"),
        ("dce,fold{max_byte=3}", 10, "pass 'fold' has no option 'max_byte'; did you mean 'max_bytes'?"),
        ("fold{max_bytes=many}", 16, "option 'max_bytes' of 'fold' takes an integer, not 'many'"),
        ("fold{max_bytes=1|2}", 16, "takes an integer, not '1|2'"),
        ("fold{max_bytes=1 max_bytes=2}", 18, "option 'max_bytes' is given twice"),
        ("fold{max_bytes 3}", 16, "expected '=', found '3'"),
        ("fold{max_bytes=1", 17, "expected the name of an option or '}', found the end"),
        ("options-of-every-kind{on=1}", 26, "takes true or false, not '1'"),
        ("options-of-every-kind{limit=x}", 29, "takes an integer or none, not 'x'"),
        ("options-of-every-kind{sizes=1|x}", 29, "takes a list of an integer joined by '|', not '1|x'"),
        ("needy", 1, "pass 'needy' needs option 'count'"),
        ("simplify{without=no_such_rule}", 1, "pass 'simplify' has no rule 'no_such_rule'"),
        ("dce,$", 5, "expected the name of a pass, found '$'"),
    ],
)
def test_errors_point_at_the_place(text: str, column: int, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_pipeline(text)
    assert message in str(caught.value)
    assert (caught.value.line, caught.value.column) == (1, column)
    assert str(caught.value).splitlines()[-1] == "  " + " " * (column - 1) + "^"


def test_an_error_on_a_later_line_shows_that_line() -> None:
    with pytest.raises(ParseError) as caught:
        parse_pipeline("dce,\n  cse,\n  nope")
    assert (caught.value.line, caught.value.column, caught.value.source_line) == (3, 3, "  nope")


@given(st.text(alphabet='dce{}=|," \n\\1a.', max_size=20))
def test_any_text_parses_or_says_where(text: str) -> None:
    try:
        passes = parse_pipeline(text)
    except ParseError as error:
        assert 1 <= error.line <= text.count("\n") + 1
        assert 1 <= error.column <= len(error.source_line) + 1
    else:
        assert parse_pipeline(print_pipeline(passes)) == passes


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_default_pipelines_parse(level: str) -> None:
    assert default_pipeline(level)
    assert set(pipeline_table("cpu")) == {"O0", "O1", "O2", "O3"}


def test_unknown_level_and_target_are_named() -> None:
    with pytest.raises(OptionError, match="unknown optimization level 'O9' for cpu; known: O0, O1, O2, O3"):
        default_pipeline("O9")
    with pytest.raises(OptionError, match=r"no pipeline is known for target 'tpu'; known: .*cpu"):
        default_pipeline("O2", "tpu")


def test_a_pass_must_be_a_frozen_dataclass_with_a_name_of_its_own() -> None:
    class Plain:
        name: ClassVar[str] = "plain"

        def run(self, graph: Graph, context: PassContext) -> int:
            return 0

    with pytest.raises(OptionError, match="Plain must be a frozen dataclass"):
        register_pass(Plain)

    @dataclass(frozen=True)
    class Impostor:
        name: ClassVar[str] = "fold"

        def run(self, graph: Graph, context: PassContext) -> int:
            return 0

    with pytest.raises(OptionError, match=r"pass 'fold' is registered already, by graphc\.passes\.fold\.Fold"):
        register_pass(Impostor)
