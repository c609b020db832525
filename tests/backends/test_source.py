"""The digest of the code generator's source."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphc.backends import source


def test_a_change_anywhere_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_ROOT", tmp_path)
    (tmp_path / "ops" / "inner").mkdir(parents=True)
    (tmp_path / "ops" / "inner" / "a.py").write_text("x = 1\n")
    (tmp_path / "cli.py").write_text("y = 1\n")

    def digests() -> tuple[str, str]:
        source.source_digest.cache_clear()
        return source.source_digest("ops"), source.source_digest()

    first = digests()
    assert digests() == first
    (tmp_path / "ops" / "inner" / "a.py").rename(tmp_path / "ops" / "inner" / "b.py")
    renamed = digests()
    assert renamed[0] != first[0] and renamed[1] != first[1]
    (tmp_path / "cli.py").write_text("y = 2\n")
    edited = digests()
    assert edited[0] == renamed[0] and edited[1] != renamed[1]
    source.source_digest.cache_clear()
