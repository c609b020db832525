"""Types, dtypes and constants."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given

from graphc.errors import OptionError
from graphc.ir import MapType, OptionalType, SequenceType, Tensor, TensorType, blocked, dtypes, symbol
from tests.ir.strategies import tensors


def test_dtypes_are_onnx_s() -> None:
    known = {number: name for name, number in onnx.TensorProto.DataType.items() if name != "UNDEFINED"}
    assert {dtype.onnx for dtype in dtypes.ALL} == set(known)
    for dtype in dtypes.ALL:
        if dtype is not dtypes.STRING:
            assert dtype.numpy == onnx.helper.tensor_dtype_to_np_dtype(dtype.onnx)
        assert known[dtype.onnx].lower().replace("_", "") in (
            dtype.name.replace("_", ""),
            {"float32": "float", "float64": "double"}.get(dtype.name, ""),
            dtype.name.replace("_", "").removesuffix("fn").removesuffix("fnu"),
        )


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_dtypes_are_found_by_each_of_their_names(dtype: dtypes.DType) -> None:
    assert dtypes.from_name(dtype.name) is dtype
    assert dtypes.from_onnx(dtype.onnx) is dtype
    assert dtypes.from_numpy(dtype.numpy) is dtype
    assert dtype.bits <= 8 * dtype.itemsize
    assert (dtype.is_float, dtype.is_integer) == (dtype.kind == "float", dtype.kind in ("int", "uint"))


def test_dtypes_that_are_not() -> None:
    assert dtypes.from_numpy(np.dtype(">f4")) is dtypes.FLOAT32
    assert dtypes.from_numpy(np.dtype("U5")) is dtypes.STRING
    assert dtypes.from_numpy(ml_dtypes.bfloat16) is dtypes.BFLOAT16
    with pytest.raises(OptionError, match="unknown dtype 'float33'; known: bfloat16, bool"):
        dtypes.from_name("float33")
    with pytest.raises(OptionError, match="unknown ONNX data type number 99"):
        dtypes.from_onnx(99)
    with pytest.raises(OptionError, match="datetime64"):
        dtypes.from_numpy(np.dtype("datetime64[s]"))


def test_types_say_what_they_are() -> None:
    n = symbol("n")
    static = TensorType(dtypes.FLOAT32, (2, 3))
    dynamic = TensorType(dtypes.INT8, (n, n + 1), blocked(1, 16))
    unknown = TensorType(dtypes.BOOL, None)
    assert (str(static), str(TensorType(dtypes.FLOAT32, ()))) == ("float32[2x3]", "float32[]")
    assert (str(dynamic), str(unknown)) == ("int8[n, n + 1]{block=1x16}", "bool[?]")
    assert str(MapType(dtypes.INT64, SequenceType(OptionalType(static)))) == "map(int64, seq(optional(float32[2x3])))"
    assert static.is_static and not dynamic.is_static and not unknown.is_static
    assert (static.rank, unknown.rank) == (2, None)
    assert static.numel == 6 and dynamic.numel == n * (n + 1)
    assert static.static_shape == (2, 3)
    assert dynamic.symbols() == {"n"} and unknown.symbols() == frozenset()
    assert dynamic.with_shape([4]) == TensorType(dtypes.INT8, (4,))
    assert static.with_dtype(dtypes.INT8).with_layout(blocked(1, 2)).storage_bytes == 2 * 2 * 2


def test_a_tensor_is_read_when_asked_for() -> None:
    reads = []

    def load() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        reads.append(1)
        return np.ones((2, 3), np.float32)

    lazy = Tensor(dtypes.FLOAT32, (2, 3), load)
    assert (lazy.size, lazy.nbytes, repr(lazy)) == (6, 24, "Tensor(float32[2, 3])")
    assert not reads
    held = lazy.array()
    assert held.sum() == 6 and lazy.array() is held
    assert len(reads) == 1, "what somebody holds is not read again"
    del held
    assert lazy.array().shape == (2, 3)
    assert len(reads) == 2, "nobody held it: it was let go"
    kept = Tensor(dtypes.FLOAT32, (2, 3), load, keep=True)
    assert kept.array() is kept.array()
    assert len(reads) == 3
    assert lazy == kept and hash(lazy) == hash(kept)


@given(tensors())
def test_tensors_are_equal_by_their_bits(tensor: Tensor) -> None:
    copy = Tensor(tensor.dtype, tensor.shape, lambda: tensor.array().copy())
    assert tensor == copy and tensor.digest() == copy.digest()
    assert tensor != Tensor(tensor.dtype, (*tensor.shape, 1), lambda: tensor.array()[..., None])
    if tensor.size and tensor.dtype is not dtypes.STRING:
        changed = tensor.array().copy()
        changed.reshape(-1).view(np.uint8)[0] ^= 1
        assert tensor != Tensor.of(changed, tensor.dtype)


def test_tensors_of_plain_python() -> None:
    assert Tensor.of([[1, 2]]).dtype is dtypes.INT64
    assert Tensor.of(1.0, dtypes.BFLOAT16).array().dtype == ml_dtypes.bfloat16
    assert Tensor.of(["a", "b"]).dtype is dtypes.STRING
    assert Tensor.of(np.ones((3, 2)).T).array().flags.c_contiguous
    assert Tensor.of(2**40).size == 1
