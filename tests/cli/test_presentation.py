"""Tables, numbers, the progress bar and the timeline: what they show is what there is."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from graphc.cli.progress import Progress
from graphc.cli.table import count, facts, names, percent, quantity, shorten, size, table, width
from graphc.cli.timeline import draw_timeline


def test_columns_are_aligned() -> None:
    text = table(("name", "µs"), [("conv", "12.5"), ("漢字", "3")], indent=1)
    assert text.splitlines() == [" name    µs", " conv  12.5", " 漢字     3"]
    assert {width(line) for line in text.splitlines()} == {11}


def test_facts_name_a_row_once() -> None:
    assert facts([("in", "a"), ("in", "b"), ("output", "c")]) == "in      a\n        b\noutput  c"


@given(st.text(), st.integers(1, 40))
def test_shorten_keeps_both_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= max(limit, 1)
    assert short == text or (text.startswith(short.partition("…")[0]) and text.endswith(short.rpartition("…")[2]))


def test_names_says_how_many_there_are_beside() -> None:
    assert names(["a", "b", "c", "d"]) == "a, b +2"
    assert names([]) == ""


@given(st.integers(0, 10**14))
def test_sizes_have_three_digits_and_are_right(number: int) -> None:
    value, unit = size(number).split()
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert len(value.replace(".", "")) <= 3
    assert abs(float(value) * scale - number) <= max(number * 0.005, 0.5)


def test_numbers() -> None:
    assert size(999_600) == "1.00 MB"
    assert quantity(0) == ""
    assert quantity(2_500_000) == "2.50 M"
    assert (count(1, "step"), count(2, "step")) == ("1 step", "2 steps")
    assert (percent(1, 8), percent(1, 0)) == ("12.5", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_drawn_on_terminals_only_and_wiped_away() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with Progress(stream) as progress:
            progress("compiling kernels", 0, 4)
            progress("compiling kernels", 4, 4)
            progress("linking", 0, 0)
    assert file.getvalue() == ""
    drawn = terminal.getvalue().split("\r\033[K")
    assert drawn[1].startswith("compiling kernels    " + "─" * 24 + "       0/4")
    assert "━" * 24 + "       4/4" in drawn[2]
    assert drawn[-1] == ""


buffers = st.lists(
    st.tuples(st.integers(0, 150), st.integers(1, 40), st.integers(1, 10**6)).map(lambda b: (b[0], b[0] + b[1], b[2])),
    min_size=1,
    max_size=30,
)


@given(buffers)
def test_the_timeline_is_highest_where_most_is_live(triples: list[tuple[int, int, int]]) -> None:
    steps = max(end for _, end, _ in triples)
    lines = draw_timeline(triples, steps, alignment=1, width=60, height=5).splitlines()
    live = [sum(s for a, b, s in triples if a <= t < b) for t in range(steps)]
    top = lines[0].partition("┤")[2]
    assert lines[0].split("┤")[0].strip() == size(max(live))
    assert "█" in top
    assert all(len(line) <= len(lines[-2]) for line in lines[:5])
    if steps <= 60:
        repeat = max(1, min(4, 60 // steps))
        full = {i // repeat for i, cell in enumerate(top) if cell == "█"}
        assert {t for t in range(steps) if live[t] == max(live)} <= full
        bottom = lines[4].partition("│")[2].ljust(steps * repeat)
        assert [cell != " " for cell in bottom[::repeat]][:steps] == [value > 0 for value in live]


def test_nothing_is_live() -> None:
    assert draw_timeline([], 3, alignment=64) == "  no memory is live between steps"
