"""The archive against the standard library's `zipfile`, and against damage."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import PackageError
from graphc.package.archive import ALIGNMENT, ArchiveWriter, read_directory, read_member

names = st.text(st.sampled_from("abcdefgh/._-0123"), min_size=1, max_size=20)
contents = st.dictionaries(names, st.lists(st.binary(max_size=300), max_size=4), max_size=6)
# From here on sizes and offsets are written as zip64, as they are beyond 4 GiB.
limits = st.sampled_from([0xFFFFFFFF, 1, 100, 1000])


def write(members: dict[str, list[bytes]], limit: int = 0xFFFFFFFF) -> bytes:
    file = io.BytesIO()
    archive = ArchiveWriter(file, zip64_limit=limit)
    for name, chunks in members.items():
        archive.add(name, chunks)
    archive.close()
    return file.getvalue()


@given(contents, limits)
def test_zipfile_reads_what_is_written(members: dict[str, list[bytes]], limit: int) -> None:
    with zipfile.ZipFile(io.BytesIO(write(members, limit))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(members)
        for name, chunks in members.items():
            assert archive.read(name) == b"".join(chunks)


@given(contents, limits)
def test_round_trip_is_aligned_and_repeatable(members: dict[str, list[bytes]], limit: int) -> None:
    data = write(members, limit)
    assert data == write(members, limit)
    directory = read_directory(memoryview(data))
    assert list(directory) == list(members)
    for name, chunks in members.items():
        assert directory[name].offset % ALIGNMENT == 0
        assert read_member(memoryview(data), directory[name]) == b"".join(chunks)


@given(contents.filter(bool), st.data())
def test_damage_is_a_typed_error_or_harmless(members: dict[str, list[bytes]], draw: st.DataObject) -> None:
    data = bytearray(write(members))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    data = data[: draw.draw(st.integers(0, len(data)))] if draw.draw(st.booleans()) else data
    view = memoryview(bytes(data))
    try:
        for name, member in read_directory(view).items():
            assert member.offset + member.size <= len(view)
            if name in members:
                assert read_member(view, member) == b"".join(members[name])
    except PackageError as error:
        assert "damaged" in str(error)


def test_every_truncation_is_an_error() -> None:
    data = write({"a": [b"x" * 100], "b": [b"y"]})
    for length in range(len(data)):
        with pytest.raises(PackageError):
            read_directory(memoryview(data[:length]))


def test_a_compressed_zip_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", "{}" * 100)
    with pytest.raises(PackageError, match="compressed"):
        read_directory(memoryview(file.getvalue()))


def test_an_unaligned_zip_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.json", "{}")
    with pytest.raises(PackageError, match="not aligned"):
        read_directory(memoryview(file.getvalue()))
