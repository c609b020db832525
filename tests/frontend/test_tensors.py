from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graphc.errors import ModelError
from graphc.frontend.external import ExternalFiles
from graphc.frontend.tensor_writer import write_inline
from graphc.frontend.tensors import TensorReader
from graphc.frontend.wire import Payloads
from graphc.ir import Tensor, dtypes
from graphc.ir.dtypes import DType

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def reader(folder: Path | None = None) -> TensorReader:
    return TensorReader(Payloads(), ExternalFiles(folder))


def equal(left: Any, right: Any) -> bool:
    if left.dtype == object:
        return bool(left.tolist() == right.tolist())
    return left.shape == right.shape and left.tobytes() == right.tobytes()


@st.composite
def tensors(draw: st.DrawFn, kinds: tuple[DType, ...] = dtypes.ALL) -> Tensor:
    dtype = draw(st.sampled_from(kinds))
    shape = draw(shapes)
    count = int(np.prod(shape))
    if dtype is dtypes.STRING:
        items = draw(st.lists(st.text(max_size=3), min_size=count, max_size=count))
        array = np.empty(count, object)
        array[:] = items
        return Tensor.of(array.reshape(shape), dtype)
    codes = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    octets = np.frombuffer(codes, np.uint8)
    if dtype.bits < 8:
        octets = octets & (2**dtype.bits - 1)
        if dtype.kind == "int":
            octets = np.where(octets >= 2 ** (dtype.bits - 1), octets.astype(np.int16) - 2**dtype.bits, octets)
            return Tensor.of(octets.astype(np.int8).astype(dtype.numpy).reshape(shape), dtype)
    elif dtype is dtypes.BOOL:
        octets = octets & 1
    return Tensor.of(octets.view(dtype.numpy).reshape(shape), dtype)


@given(tensors())
def test_what_is_written_is_read(tensor: Tensor) -> None:
    found = reader().read(write_inline(tensor, "t"), "t")
    assert found.dtype is tensor.dtype and equal(found.array(), tensor.array())


@given(tensors())
def test_raw_data_agrees_with_onnx(tensor: Tensor) -> None:
    proto = write_inline(tensor, "t")
    theirs = numpy_helper.to_array(proto)
    assert equal(reader().read(proto, "t").array(), theirs)


@given(tensors(tuple(d for d in dtypes.ALL if d.kind != "string")))
def test_typed_fields_agree_with_onnx(tensor: Tensor) -> None:
    values = tensor.array().reshape(-1)
    proto = helper.make_tensor(
        "t", tensor.dtype.onnx, tensor.shape, values.tolist() if tensor.dtype.bits >= 16 else values
    )
    theirs = numpy_helper.to_array(proto)
    ours = reader().read(proto, "t").array()
    if tensor.dtype.kind in ("float", "complex"):
        np.testing.assert_array_equal(ours.astype(np.complex128), theirs.astype(np.complex128))
    else:
        assert equal(ours, theirs)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_sizes_are_checked_before_anything_is_allocated(dtype: DType) -> None:
    start = time.monotonic()
    for dims in ((1 << 62,), (1 << 31, 1 << 31), (1 << 62, 1 << 62, 7)):
        for filled in ({"raw_data": b"\0" * 16}, {"int32_data": [1, 2]}, {}):
            proto = onnx.TensorProto(name="huge", data_type=dtype.onnx, dims=dims, **filled)
            with pytest.raises(ModelError, match="'huge'"):
                reader().read(proto, "huge")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data_type": 1, "dims": [-1], "raw_data": b""}, "negative extent"),
        ({"data_type": 1, "dims": [1] * 65, "raw_data": b"1234"}, "has rank 65"),
        ({"data_type": 99, "dims": [1]}, "unknown data type number 99"),
        ({"data_type": 0, "dims": [1]}, "unknown data type number 0"),
        ({"data_type": 1, "dims": [3], "raw_data": b"1234"}, "needs 12 bytes of data and has 4"),
        ({"data_type": 1, "dims": [3], "float_data": [1.0]}, "needs 3 entries in float_data and has 1"),
        ({"data_type": 1, "dims": [3]}, "holds no data"),
        ({"data_type": 8, "dims": [2], "string_data": [b"a"]}, "needs 2 strings"),
        ({"data_type": 1, "dims": [1], "segment": {"begin": 0, "end": 1}}, "segments"),
    ],
)
def test_data_that_does_not_fit(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        reader().read(onnx.TensorProto(name="t", **fields), "t")


def sparse(values: Any, indices: Any, dims: list[int]) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(
        values=numpy_helper.from_array(np.asarray(values, np.float32), "v"),
        indices=numpy_helper.from_array(np.asarray(indices, np.int64)),
        dims=dims,
    )


def test_sparse_tensors_become_dense() -> None:
    expected = np.zeros((2, 3), np.float32)
    expected[0, 1], expected[1, 2] = 5, 7
    for indices in ([1, 5], [[0, 1], [1, 2]]):
        np.testing.assert_array_equal(reader().read_sparse(sparse([5, 7], indices, [2, 3]), "s").array(), expected)


@pytest.mark.parametrize(
    ("indices", "dims", "words"),
    [
        ([6], [2, 3], "outside its shape"),
        ([[0, 3]], [2, 3], "outside its shape"),
        ([[-1, 0]], [2, 3], "outside its shape"),
        ([0, 1], [2, 3], "has indices"),
        ([0], [1 << 40], "dense form"),
    ],
)
def test_bad_sparse_tensors(indices: Any, dims: list[int], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        reader().read_sparse(sparse([5], indices, dims), "s")


def external(location: str, count: int = 4, **entries: str) -> onnx.TensorProto:
    proto = onnx.TensorProto(name="w", data_type=1, dims=[count], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        proto.external_data.add(key=key, value=value)
    return proto


def test_external_data_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"\0" * 8 + np.arange(4, dtype=np.float32).tobytes())
    found = reader(tmp_path).read(external("sub/w.bin", offset="8", length="16"), "w")
    np.testing.assert_array_equal(found.array(), np.arange(4, dtype=np.float32))
    np.testing.assert_array_equal(
        reader(tmp_path).read(external("./sub/w.bin", offset="8"), "w").array(), found.array()
    )


def test_external_data_cannot_reach_other_files(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"\0" * 16)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "up").symlink_to(tmp_path)
    (folder / "dir").mkdir()
    os.mkfifo(folder / "pipe")
    for location, words in {
        "../secret": "not a path inside",
        "dir/../../secret": "not a path inside",
        str(outside): "not a path inside",
        "..\\secret": "not a path inside",
        "C:secret": "not a path inside",
        "a\0b": "not a path inside",
        "link": "leaves the model's folder",
        "up/secret": "leaves the model's folder",
        "dir": "no regular file",
        "pipe": "no regular file",
        "absent": "no such file",
        "": "without a location",
    }.items():
        with pytest.raises(ModelError, match=words):
            reader(folder).read(external(location), "w")


@pytest.mark.parametrize(
    ("count", "entries", "words"),
    [
        (4, {"offset": "1"}, "has 16"),
        (4, {"offset": "-1"}, "offset '-1'"),
        (4, {"offset": "9" * 19}, "has 16"),
        (4, {"offset": "1e3"}, "offset '1e3'"),
        (4, {"length": "12"}, "length of 12"),
        (5, {}, "needs 20 bytes"),
        (1 << 60, {}, "needs"),
    ],
)
def test_external_data_must_be_there(count: int, entries: dict[str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\0" * 16)
    with pytest.raises(ModelError, match=words):
        reader(tmp_path).read(external("w", count, **entries), "w")


def test_bytes_have_no_folder() -> None:
    with pytest.raises(ModelError, match="has no folder"):
        reader().read(external("w"), "w")
