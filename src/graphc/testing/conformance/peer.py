"""ONNX Runtime on a case of the suite, all dtypes included: some of them its Python interface does not carry."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnx

from graphc.errors import ToolchainError
from graphc.frontend.packing import pack_codes, unpack_codes
from graphc.ir import dtypes
from graphc.testing.conformance.cases import Case, datum

_FOREIGN = frozenset(dtype for dtype in dtypes.ALL if dtype.numpy.isbuiltin != 1)
"""Dtypes that NumPy itself does not have."""


def run_case(case: Case) -> list[list[Any]]:
    """Outputs for each data set of a case.

    Raises:
        ToolchainError: onnxruntime is not installed.
        Exception: Whatever ONNX Runtime raises.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ToolchainError("onnxruntime is not installed", hint="pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # The suite is written in operator sets that ONNX Runtime calls unreleased.
    options.add_session_config_entry("session.allow_released_opsets_only", "0")
    session = onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
    foreign = any(_is_foreign(info) for graph in [case.proto().graph] for info in (*graph.input, *graph.output))
    return [(_run_bound if foreign else _run)(session, inputs) for inputs, _ in case.data_sets]


def _is_foreign(info: onnx.ValueInfoProto) -> bool:
    kind = info.type.tensor_type.elem_type if info.type.HasField("tensor_type") else 0
    return kind != 0 and dtypes.from_onnx(kind) in _FOREIGN


def _run(session: Any, inputs: Any) -> list[Any]:
    feeds = dict(zip((info.name for info in session.get_inputs()), inputs, strict=False))
    return [datum(output) for output in session.run(None, feeds)]


def _run_bound(session: Any, inputs: Any) -> list[Any]:
    """Through memory that both sides agree on."""
    binding = session.io_binding()
    for info, given in zip(session.get_inputs(), inputs, strict=False):
        if dtypes.from_numpy(given.dtype) in _FOREIGN:
            binding.bind_ortvalue_input(info.name, _to_ort(given))
        else:
            binding.bind_cpu_input(info.name, given)
    for info in session.get_outputs():
        binding.bind_output(info.name)
    session.run_with_iobinding(binding)
    return [_from_ort(value) for value in binding.get_outputs()]


def _to_ort(given: np.ndarray[Any, Any]) -> Any:
    from onnxruntime import OrtValue

    dtype = dtypes.from_numpy(given.dtype)
    value = OrtValue.ortvalue_from_shape_and_type(list(given.shape), dtype.onnx)
    content = np.ascontiguousarray(given).tobytes()
    if dtype.bits < 8:
        content = pack_codes(np.frombuffer(content, np.uint8) & (2**dtype.bits - 1), dtype.bits)
    ctypes.memmove(value.data_ptr(), content, len(content))
    return value


def _from_ort(value: Any) -> Any:
    dtype = dtypes.from_onnx(value.element_type())
    if dtype not in _FOREIGN:
        return datum(value.numpy())
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    if dtype.bits < 8:
        content = unpack_codes(content, dtype.bits, int(np.prod(value.shape()))).tobytes()
        content = _signed(content, dtype.bits) if dtype.kind == "int" else content
    return np.frombuffer(content, dtype.numpy).reshape(value.shape())


def _signed(codes: bytes, bits: int) -> bytes:
    """Codes of signed integers, one a byte, with their sign carried to the byte's end."""
    shift = 8 - bits
    return (np.frombuffer(codes, np.int8) << shift >> shift).tobytes()
