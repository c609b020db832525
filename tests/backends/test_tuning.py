"""The database of measurements: what is written is read back, and nothing in a file can break a compile."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.backends.tuning import Tuned, TuningDatabase
from graphc.errors import PackageError

ROWS = st.builds(
    Tuned,
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=5) | st.lists(st.integers(1, 9))),
    st.floats(1, 9).map(lambda gain: round(gain, 3)),
)


@given(st.dictionaries(st.text(max_size=8), ROWS, max_size=5))
def test_written_and_read(entries: dict[str, Tuned]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "tuned.json"
        TuningDatabase(entries).write(path)
        found = TuningDatabase.read(path, lambda choice: True)
        assert dict(found) == entries
        assert found.digest() == TuningDatabase(entries).digest()
        first = path.read_bytes()
        found.write(path)
        assert path.read_bytes() == first
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 2, "regions": {}}',
        '{"format": 1}',
        '{"format": 1, "regions": []}',
        '{"format": 1, "regions": {"k": null}}',
        '{"format": 1, "regions": {"k": {"what": "", "choice": {}, "gain": "fast"}}}',
        '{"format": 1, "regions": {"k": {"what": "", "choice": [], "gain": 1}}}',
    ],
)
def test_damaged_files_say_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(text)
    assert len(TuningDatabase.read(path, lambda choice: True)) == 0


def test_choices_that_are_not_understood_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    TuningDatabase({"a": Tuned("", {"x": 1}, 1.0), "b": Tuned("", {"y": 1}, 1.0)}).write(path)
    assert list(TuningDatabase.read(path, lambda choice: "x" in choice)) == ["a"]


def test_newer_measurements_come_first() -> None:
    old = TuningDatabase({"a": Tuned("", {"x": 1}, 1.0), "b": Tuned("", {"x": 1}, 1.0)})
    both = old | TuningDatabase({"a": Tuned("", {"x": 2}, 1.0)})
    assert both["a"].choice == {"x": 2} and both["b"].choice == {"x": 1}
    assert len({old.digest(), both.digest(), TuningDatabase().digest()}) == 3


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PackageError, match="cannot make the folder"):
        TuningDatabase().write(tmp_path / "file" / "tuned.json")
