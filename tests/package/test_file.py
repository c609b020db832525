"""Whole packages: the same bytes every time, nothing half-written, damage noticed."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphc.errors import PackageError
from graphc.package import Code, Manifest, Package, TensorSpec, Variant, WeightsBuilder, atomic_file, write_package

DTYPES = [np.float32, np.int8, np.bool_, np.float16, np.int64, ml_dtypes.bfloat16, np.complex64, ml_dtypes.int4]


def empty_manifest() -> Manifest:
    spec = (TensorSpec("x", "float32", (1,)),)
    variant = Variant("v3", {}, ((1,),), ((1,),), 0, ())
    return Manifest("m", spec, spec, (variant,), {"v3": Code("cpu/v3/model.so", "x86_64")})


def write(path: Path, **fields: Any) -> Path:
    weights = WeightsBuilder()
    weights.add(np.arange(1000, dtype=np.float32))
    weights.add(np.arange(7, dtype=np.int8))
    write_package(
        path, empty_manifest(), **{"files": {"cpu/v3/model.so": b"machine code"}, "weights": weights, **fields}
    )
    return path


def test_round_trip(tmp_path: Path) -> None:
    package = Package(write(tmp_path / "m.graphc", model=b"the model"))
    assert package.code("v3") == b"machine code"
    assert package.read("model.onnx") == b"the model"
    assert package.manifest.hashes["model.onnx"] == hashlib.sha256(b"the model").hexdigest()
    np.testing.assert_array_equal(package.weights[:4000].view(np.float32), np.arange(1000))
    assert not package.weights.flags.writeable
    package.verify()


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.graphc").read_bytes() == write(tmp_path / "b.graphc").read_bytes()


def test_it_is_a_zip_with_a_readable_manifest(tmp_path: Path) -> None:
    with zipfile.ZipFile(write(tmp_path / "m.graphc")) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("manifest.json"))["model"] == "m"


arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.uint8, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)).map(
        lambda array: array.astype(dtype)
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(arrays, max_size=6))
def test_weights_lie_where_the_builder_said(tmp_path: Path, values: list[np.ndarray[Any, Any]]) -> None:
    weights = WeightsBuilder()
    locations = [weights.add(value) for value in values]
    assert locations == [weights.add(value.copy()) for value in values], "equal arrays share a place"
    package = Package(write(tmp_path / "m.graphc", weights=weights))
    assert package.weights.ctypes.data % 64 == 0
    for place, value in zip(locations, values, strict=True):
        assert place.offset % 64 == 0
        stored = package.weights[place.offset : place.offset + value.nbytes]
        assert stored.tobytes() == value.tobytes()
    for blob in package.blobs.values():
        assert not blob.name.startswith("pad.")
        assert package.weights[blob.offset : blob.offset + blob.nbytes].nbytes == blob.nbytes
    # The safetensors format: tensors follow each other without holes.
    data = package.read("weights.safetensors")
    length = int.from_bytes(data[:8], "little")
    end = 0
    for entry in json.loads(data[8 : 8 + length]).values():
        assert entry["data_offsets"][0] == end
        end = entry["data_offsets"][1]
    assert 8 + length + end == len(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_noticed(tmp_path: Path, draw: st.DataObject) -> None:
    """Flipped bytes and cuts: opening and verifying raises, or what is read is what was written."""
    path = tmp_path / "m.graphc"
    good = write(path).read_bytes()
    data = bytearray(good)
    places = draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=3))
    for place in places:
        data[place] ^= draw.draw(st.integers(1, 255))
    if draw.draw(st.booleans()):
        data = data[: draw.draw(st.integers(0, len(data)))]
    path.write_bytes(data)
    try:
        package = Package(path)
        package.verify()
    except PackageError:
        return
    assert package.code("v3") == b"machine code"
    np.testing.assert_array_equal(package.weights[:4000].view(np.float32), np.arange(1000))
    assert package.manifest.model == "m"


def test_changed_code_is_refused_and_changed_weights_by_verify(tmp_path: Path) -> None:
    path = write(tmp_path / "m.graphc")
    data = bytearray(path.read_bytes())
    package = Package(path)
    data[package.member("weights.safetensors").offset + 500] ^= 1
    (tmp_path / "weights.graphc").write_bytes(data)
    changed = Package(tmp_path / "weights.graphc")
    with pytest.raises(PackageError, match=r"weights\.safetensors do not match their hash"):
        changed.verify()
    data = bytearray(path.read_bytes())
    data[package.member("cpu/v3/model.so").offset] ^= 1
    (tmp_path / "code.graphc").write_bytes(data)
    with pytest.raises(PackageError, match="damaged"):
        Package(tmp_path / "code.graphc").code("v3")


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"", "is empty"), (b"hello", "too short"), (b"x" * 4096, "end of the file is missing")],
)
def test_what_is_no_package(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "m.graphc").write_bytes(contents)
    with pytest.raises(PackageError, match=message):
        Package(tmp_path / "m.graphc")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="No such file"):
        Package(tmp_path / "none.graphc")
    with pytest.raises(PackageError, match="cannot read"):
        Package(tmp_path)
    with pytest.raises(PackageError, match="cannot write"):
        write(tmp_path / "no_folder" / "m.graphc")


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.graphc"]


def test_a_replaced_file_stays_readable_for_who_opened_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m.graphc")
    package = Package(path)
    write(path, weights=WeightsBuilder())
    assert len(Package(path).weights) == 0
    np.testing.assert_array_equal(package.weights[:4000].view(np.float32), np.arange(1000))


def test_a_private_copy_is_what_it_was_whoever_writes_into_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.graphc")
    package = Package(path, private=True)
    assert package.digest == Package(path).digest
    path.write_bytes(b"\0" * package.size)
    os.truncate(path, 10)
    np.testing.assert_array_equal(package.weights[:4000].view(np.float32), np.arange(1000))
    assert not package.weights.flags.writeable
    package.verify()
    path.write_bytes(b"")
    with pytest.raises(PackageError, match="the file is empty"):
        Package(path, private=True)


def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    path = write(tmp_path / "m.graphc")
    mask = os.umask(0o022)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
