"""Runs one lowered kernel alone and compares it with the body's NumPy meaning.

Inputs end at a page that cannot be read, so a read past the end is a crash that faulthandler names; padding that the
layout leaves undefined is NaN. Outputs and workspaces start as NaN between canaries. Parallel loops run in 3 chunks.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphc.backends.base import Kernel, Operand
from graphc.backends.tvm.link import find_linker
from graphc.ir import Graph, TensorType, dtypes
from graphc.ir.symbolic import evaluate
from graphc.ops.evaluate import evaluate_graph
from graphc.target import Target, detect_host, parse_target

Array = np.ndarray[Any, Any]
Lower = Callable[[Graph, Target], Kernel]

HOST = detect_host()
TARGETS = [HOST] if HOST.vector_bytes == 32 else [HOST, parse_target("cpu:x86-64-v3")]
"""Every vector width of this machine that kernels are generated for."""
ARM = parse_target("cpu:aarch64")

_CANARY = 256
_STUB = r"""
#include <stdint.h>
typedef struct { void* sync_handle; int32_t num_task; } Env;
static int launch(int (*task)(int, Env*, void*), void* data, int tasks) {
  Env env = {0, 3};
  int status = 0;
  for (int i = 0; i < 3; i++) status |= task(i, &env, data);
  return status;
}
int (*__TVMBackendParallelLaunch)(int (*)(int, Env*, void*), void*, int) = launch;
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {}
"""


def check(
    graph: Graph,
    arrays: Sequence[Array],
    lower: Lower,
    target: Target = HOST,
    *,
    rtol: float = 1e-5,
) -> Kernel:
    """Compiles the body, runs it and compares every output with the evaluator; answers the kernel.

    Args:
        graph: The body.
        arrays: Its inputs, logical.
        lower: The template under test.
        target: A CPU whose code runs here.
        rtol: Largest error, relative to the output's largest magnitude.
    """
    kernel = lower(graph, target)
    expected = evaluate_graph(graph, arrays)
    _compare(run(kernel, graph, arrays), expected, graph, rtol)
    return kernel


def _compare(results: Sequence[Array], expected: Sequence[Any], graph: Graph, rtol: float) -> None:
    """Every output's elements, and what its layout says of its padding."""
    for found, reference, value in zip(results, expected, graph.outputs, strict=True):
        want = np.asarray(reference)
        logical = value.tensor_type.layout.unpack(found, want.shape)
        assert logical.shape == want.shape
        assert logical.dtype == value.tensor_type.dtype.numpy
        _assert_close(logical, want, rtol)
        if value.tensor_type.layout.fill is not None:
            _assert_close(found, value.tensor_type.layout.pack(want), rtol)


def _assert_close(found: Array, want: Array, rtol: float) -> None:
    if not dtypes.from_numpy(want.dtype).is_float:
        np.testing.assert_array_equal(found, want)
        return
    exact = want.astype(np.float64)
    scale = float(np.max(np.abs(exact[np.isfinite(exact)]), initial=0)) or 1.0
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=0, atol=rtol * scale)


def check_open(
    graph: Graph,
    feeds: Sequence[tuple[Mapping[str, int], Sequence[Array]]],
    lower: Lower,
    target: Target = HOST,
    *,
    rtol: float = 1e-5,
) -> Kernel:
    """As `check`, for a body over symbols: one kernel, run at each binding with its inputs."""
    kernel = lower(graph, target)
    function = load(kernel)
    for bindings, arrays in feeds:
        expected = evaluate_graph(graph, arrays)
        _compare(run(kernel, graph, arrays, bindings, function), expected, graph, rtol)
    return kernel


def run(
    kernel: Kernel,
    graph: Graph,
    arrays: Sequence[Array],
    bindings: Mapping[str, int] | None = None,
    function: Any = None,
) -> list[Array]:
    """The storage of each output after one run; asserts that nothing else was touched."""
    bindings = bindings or {}
    function = function or load(kernel)
    table = np.array([evaluate(dim, bindings) for dim in kernel.dims], np.int64)
    keep: list[Any] = []
    pointers: list[int] = []
    outputs: dict[int, Array] = {}
    guarded: list[Array] = []
    for operand in kernel.operands:
        if operand.kind == "input":
            storage = stored_input(operand, graph.inputs[operand.index].tensor_type, arrays[operand.index])
            view, memory = _before_a_hole(storage)
            keep += [view, memory]
            pointers.append(view.ctypes.data)
            continue
        if operand.kind == "output":
            type_ = graph.outputs[operand.index].tensor_type
            shape = tuple(evaluate(d, bindings) for d in type_.layout.storage_shape(type_.dims))
            dtype = type_.dtype.numpy
        else:
            shape, dtype = (evaluate(operand.size, bindings) // 4,), np.dtype(np.float32)
        size = int(np.prod(shape)) * dtype.itemsize
        assert evaluate(operand.size, bindings) == size, f"{operand} of {size} bytes"
        memory = np.full(size + 2 * _CANARY, 0xC5, np.uint8)
        inside = memory[_CANARY : _CANARY + size].view(dtype).reshape(shape)
        inside.fill(np.nan if dtype.kind == "f" else 0x55)
        guarded.append(memory)
        pointers.append(inside.ctypes.data)
        if operand.kind == "output":
            outputs[operand.index] = inside
    status = function(ctypes.c_void_p(table.ctypes.data), *map(ctypes.c_void_p, pointers))
    assert status == 0
    for memory in guarded:
        assert (memory[:_CANARY] == 0xC5).all(), "wrote before an operand"
        assert (memory[-_CANARY:] == 0xC5).all(), "wrote past an operand"
    return [outputs[i] for i in range(len(graph.outputs))]


def stored_input(operand: Operand, type_: TensorType, array: Array) -> Array:
    """What an input's memory holds: packed, or laid out with undefined padding poisoned."""
    if operand.packing is not None:
        packed = np.ascontiguousarray(operand.packing.apply(array))
        assert operand.size == packed.nbytes, f"{operand} is packed to {packed.nbytes} bytes"
        return packed
    undefined = np.nan if array.dtype.kind == "f" else 0
    return np.ascontiguousarray(type_.layout.pack(np.ascontiguousarray(array), undefined=undefined))


def _before_a_hole(array: Array) -> tuple[Array, mmap.mmap]:
    """A copy that ends where memory that cannot be read begins."""
    page = mmap.PAGESIZE
    size = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, size + page)
    whole = np.frombuffer(memory, np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    status = protect(ctypes.c_void_p(whole.ctypes.data + size), ctypes.c_size_t(page), 0)
    assert status == 0
    view = whole[size - array.nbytes : size].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view, memory


@functools.lru_cache(maxsize=256)
def _stub() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="graphc-test-"))
    (folder / "stub.c").write_text(_STUB)
    command = [*find_linker().command, "-O1", "-fPIC", "-c", str(folder / "stub.c"), "-o", str(folder / "stub.o")]
    subprocess.run(command, check=True, timeout=100)
    return folder / "stub.o"


def load(kernel: Kernel) -> Any:
    """The kernel as a callable of the dimension table and its operands' addresses."""
    return load_object(kernel.compile(), kernel.symbol)


def load_object(code: bytes, symbol: str) -> Any:
    """A function of an object, as a callable."""
    with tempfile.TemporaryDirectory(prefix="graphc-test-") as folder:
        Path(folder, "kernel.o").write_bytes(code)
        library = Path(folder, "kernel.so")
        command = [*find_linker().command, "-shared", f"{folder}/kernel.o", str(_stub()), "-lm", "-o", str(library)]
        subprocess.run(command, check=True, timeout=100)
        function = getattr(ctypes.CDLL(str(library)), symbol)
    function.restype = ctypes.c_int32
    return function
