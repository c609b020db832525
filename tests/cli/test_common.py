"""Shared arguments: what `--dim` means, and what is told apart by its first bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.cli.common import Dims, is_package, parse_dims
from graphc.errors import OptionError

names = st.text(st.characters(exclude_characters="=", codec="utf-8"), min_size=1) | st.just("a=b")
extents = st.integers(0, 1 << 40)
shapes = st.lists(st.none() | extents, min_size=2, max_size=5).map(tuple)


def write(given: int | range | list[int | range] | tuple[int | None, ...]) -> str:
    if isinstance(given, int):
        return str(given)
    if isinstance(given, range):
        return f"{given.start}..{given.stop - 1}"
    if isinstance(given, list):
        return ",".join(map(write, given))
    return "x".join("?" if extent is None else str(extent) for extent in given)


ranges = st.tuples(extents, st.integers(0, 1 << 20)).map(lambda pair: range(pair[0], pair[0] + pair[1] + 1))


@given(st.dictionaries(names, extents | ranges | st.lists(extents | ranges, min_size=2) | shapes))
def test_what_is_written_is_read(dims: Dims) -> None:
    assert parse_dims([f"{name}={write(value)}" for name, value in dims.items()]) == dims


def test_a_shape_of_one_axis_is_in_brackets() -> None:
    assert parse_dims(["x=[4]", "y=[1, ?, 3]", "z=[]"]) == {"x": (4,), "y": (1, None, 3), "z": ()}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["batch"], "expected NAME=EXTENT"),
        (["=4"], "expected NAME=EXTENT"),
        (["batch="], "expected NAME=EXTENT"),
        (["batch=four"], "'four' is neither"),
        (["batch=-1"], "'-1' is neither"),
        (["batch=1,x"], "'1,x' is neither"),
        (["x=[1,b]"], "'b' is not an extent"),
        (["seq=9..1"], "'9..1' is neither"),
        (["seq=1...5"], "'1...5' is neither"),
        (["seq=..5"], "'..5' is neither"),
        (["batch=1", "batch=2"], "given twice"),
    ],
)
def test_what_is_malformed_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_dims(texts)


def test_packages_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    zipped, text, named = tmp_path / "a.bin", tmp_path / "b.onnx", tmp_path / "c.graphc"
    zipped.write_bytes(b"PK\x03\x04rest")
    text.write_bytes(b"\x08\x0a")
    named.write_bytes(b"damaged")
    assert [is_package(path) for path in (zipped, text, named)] == [True, False, True]
    assert is_package(tmp_path / "missing.graphc")
    assert not is_package(tmp_path / "missing.onnx")
