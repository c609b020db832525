"""Tensors of the protocol against those of its own client."""

from __future__ import annotations

import json
import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient import utils

from graphc.errors import RequestError, RequestTooLargeError, UnsupportedError
from graphc.serve.protocol import json_tensors, json_text, tensors
from graphc.serve.protocol.datatypes import BYTES, NAMES, datatype_of, datatype_of_name, numpy_of
from graphc.serve.protocol.limits import DEFAULT_LIMITS

NUMERIC = [name for name in NAMES if name != BYTES]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw, names=tuple(NUMERIC)):
    dtype = numpy_of(draw(st.sampled_from(names)))
    shape = draw(SHAPES)
    octets = draw(st.binary(min_size=(size := math.prod(shape) * dtype.itemsize), max_size=size))
    return np.frombuffer(octets, dtype).reshape(shape)


@st.composite
def string_arrays(draw, items):
    shape = draw(SHAPES)
    array = np.empty(math.prod(shape), object)
    array[:] = draw(st.lists(items, min_size=array.size, max_size=array.size))
    return array.reshape(shape)


def test_datatypes_are_those_of_the_client():
    for name in NAMES:
        assert utils.triton_to_np_dtype(name) == numpy_of(name)
        assert utils.np_to_triton_dtype(numpy_of(name)) == name == datatype_of(numpy_of(name))
    assert datatype_of_name("bfloat16") == "BF16" and datatype_of_name("string") == "BYTES"
    assert datatype_of_name("bool") == "BOOL"


@pytest.mark.parametrize("name", ["fp32", "", "STRING", None, 3, [], {}])
def test_unknown_datatype(name):
    with pytest.raises(RequestError, match="unknown datatype"):
        numpy_of(name)


def test_no_datatype():
    with pytest.raises(UnsupportedError, match="complex64"):
        datatype_of(np.dtype(np.complex64))


@given(arrays())
def test_bytes_of_numbers(array):
    name = datatype_of(array.dtype)
    found = tensors.decode("x", name, array.shape, array.tobytes())
    assert found.dtype == array.dtype and found.shape == array.shape
    if name != "BOOL":
        assert found.tobytes() == array.tobytes()
    assert bytes(tensors.encode(array)) == array.tobytes()


@given(string_arrays(st.binary(max_size=9)))
def test_bytes_of_strings_are_the_clients(array):
    written = utils.serialize_byte_tensor(array)
    octets = written.item() if written.size else b""
    found = tensors.decode("x", BYTES, array.shape, octets)
    assert found.shape == array.shape and all(type(item) is str for item in found.ravel())
    assert tensors.encode(found) == octets == tensors.encode(array)
    again = utils.deserialize_bytes_tensor(tensors.encode(found))
    assert again.tolist() == array.ravel().tolist()


@given(st.lists(st.binary(max_size=9000), min_size=1, max_size=8), st.integers(0, 1000))
def test_parts_are_joined_where_a_tensor_begins(parts, place):
    found = tensors.joined(parts, place)
    assert bytes(found) == b"".join(parts)
    if place + 64 <= len(found) >= 16 << 10:
        assert np.frombuffer(found, np.uint8)[place:].ctypes.data % 64 == 0


def test_decoding_copies_nothing():
    data = np.arange(6, dtype=np.float32).tobytes()
    assert np.shares_memory(tensors.decode("x", "FP32", (2, 3), data), np.frombuffer(data, np.uint8))
    array = np.arange(6, dtype=ml_dtypes.bfloat16)
    assert np.shares_memory(np.frombuffer(tensors.encode(array), np.uint8), array)


def test_encoding_strided_and_foreign_byte_order():
    array = np.arange(12, dtype=">i4").reshape(3, 4).T
    assert bytes(tensors.encode(array)) == array.astype("<i4").tobytes()


def test_a_bool_is_nothing_but_0_and_1():
    found = tensors.decode("x", "BOOL", (3,), b"\x00\x01\x80")
    assert found.tobytes() == b"\x00\x01\x01"


@given(st.binary(max_size=40), st.integers(0, 5))
def test_strings_from_strangers(data, count):
    try:
        found = tensors.decode("x", BYTES, (count,), data)
    except RequestError:
        return
    assert tensors.encode(found) == data


def test_strings_cannot_ask_for_more_than_came():
    with pytest.raises(RequestError, match="take at least"):
        tensors.decode("x", BYTES, (1 << 20,), b"\x00" * 64)
    with pytest.raises(RequestTooLargeError, match="limit of 9"):
        tensors.decode("x", BYTES, (10,), b"\x00" * 40, strings=9)
    with pytest.raises(RequestError, match="behind the tensor's end"):
        tensors.decode("x", BYTES, (1,), struct.pack("<I", 1 << 31) + b"abc")


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ([1 << 62, 1 << 62], RequestTooLargeError),
        ([0, 1 << 62], RequestTooLargeError),
        ([1] * 33, RequestTooLargeError),
        ([-1], RequestError),
        ([1.0], RequestError),
        ([True], RequestError),
        ("12", RequestError),
        (None, RequestError),
        ({"0": 1}, RequestError),
        ([None], RequestError),
    ],
)
def test_shapes_that_are_refused(shape, error):
    with pytest.raises(error):
        tensors.check_shape("x", shape, DEFAULT_LIMITS)


@given(arrays(), st.booleans())
def test_json_there_and_back(array, nested):
    name = datatype_of(array.dtype)
    if name == "BOOL":
        array = array.view(np.uint8) > 127
    text = json_text.dumps({"data": json_tensors.encode("x", array)})
    flat = json_text.loads(text, 8)["data"]
    assert len(flat) == array.size
    data = flat if not nested or not array.size else np.array(flat, object).reshape(array.shape).tolist()
    found = json_tensors.decode("x", name, array.shape, data)
    assert found.dtype == array.dtype
    if name == "BF16":
        # NumPy's comparison does not know the NaN of types that are not its own.
        found, array = found.astype(np.float32), array.astype(np.float32)
    np.testing.assert_array_equal(found, array)


@given(string_arrays(st.text(max_size=5)))
def test_json_strings(array):
    text = json_text.dumps(json_tensors.encode("x", array))
    assert json_tensors.decode("x", BYTES, array.shape, json_text.loads(text, 2)).tolist() == array.tolist()


def test_json_has_no_other_strings():
    for item in (b"\xff", "\udcff"):
        with pytest.raises(RequestError, match="ask for binary_data"):
            json_tensors.encode("y", np.array([item], object))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("INT8", [1], [128], "out of the range of INT8"),
        ("INT32", [1], [1.5], "whole numbers"),
        ("INT32", [1], [True], "whole numbers"),
        ("INT64", [1], [1 << 63], "out of the range"),
        ("UINT64", [1], [-1], "out of the range"),
        ("FP32", [1], [1e39], "out of the range of FP32"),
        ("FP16", [2], [1.0, 1e6], "out of the range of FP16"),
        ("FP32", [1], ["1"], "numbers"),
        ("FP32", [1], [None], "numbers"),
        ("BOOL", [1], [2], "true and false"),
        ("BYTES", [1], [1], "strings"),
        ("FP32", [2], [1], "has 2 values, got 1"),
        ("FP32", [2, 2], [[1, 2], [3]], "nested otherwise"),
        ("FP32", [2, 2], [[1, 2, 3, 4]], "nested otherwise"),
        ("FP32", [2, 2], [[1, 2], 3], "nested otherwise"),
        ("FP32", [2], [[1], [2]], "numbers"),
        ("FP32", [], [], "has 1 values, got 0"),
        ("FP32", [1], {}, "must be a list"),
        ("FP32", [1], "1", "must be a list"),
        ("FP32", [0, 2], [[]], "nested otherwise"),
    ],
)
def test_json_data_that_is_refused(datatype, shape, data, message):
    with pytest.raises(RequestError, match=message):
        json_tensors.decode("x", datatype, tuple(shape), data)


def test_scalars_need_no_list():
    assert json_tensors.decode("x", "FP32", (), 3).shape == ()


@given(
    st.recursive(
        st.none() | st.text(st.sampled_from('[]{}"\\a'), max_size=6) | st.integers(-(2**63), 2**64 - 1),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=20,
    ),
    st.integers(0, 8),
)
def test_depth_is_counted_as_json_nests(value, limit):
    def depth(item):
        parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        return 0 if parts is None else 1 + max(map(depth, parts), default=0)

    text = json.dumps(value).encode()
    if depth(value) <= limit:
        assert json_text.loads(text, limit) == value
    else:
        with pytest.raises(RequestTooLargeError, match=f"nests {depth(value)} deep"):
            json_text.loads(text, limit)


@pytest.mark.parametrize(
    "text",
    [b"[" * 1_000_000, b'{"a":' * 300_000, b'"' + b'\\"' * 1_000_000, b'"\\' * 500_000, b"[]" * 1_000_000],
    ids=["lists", "objects", "open string", "escapes", "many"],
)
@pytest.mark.timeout(5)
def test_json_is_scanned_in_linear_time(text):
    with pytest.raises(RequestError):
        json_text.loads(text, 40)


def test_numbers_that_json_lacks():
    found = json_tensors.decode("x", "FP32", (3,), json_text.loads(b"[NaN, Infinity, -Infinity]", 2))
    np.testing.assert_array_equal(found, [np.nan, np.inf, -np.inf])
    assert json_text.dumps(json_tensors.encode("y", found)) == b"[NaN, Infinity, -Infinity]"
    with pytest.raises(RequestError, match="not JSON"):
        json_text.loads(b"[NaN", 2)
