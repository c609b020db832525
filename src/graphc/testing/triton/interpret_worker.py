"""Interprets launches. Runs in a worker whose environment says `TRITON_INTERPRET=1` before Triton is imported.

Such a process cannot compile, and one that compiles cannot interpret. No torch: a pointer is a tensor of Triton's own
whose data is an address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter

from graphc.backends.triton import wire
from graphc.backends.triton.worker_main import describe, load_function, serve
from graphc.testing.triton import corrections, device_library
from graphc.testing.triton.watched_memory import AccessError, WatchedMemory

_INTEGERS = {"i32": (tl.int32, np.int32), "i64": (tl.int64, np.int64)}

_memory: WatchedMemory | None = None


def interpret(header: dict[str, Any], blobs: list[bytes]) -> wire.Message:
    """Runs launches over the buffers given; answers them as they are afterwards, and the status word."""
    global _memory
    status = len(blobs)
    names = [*(f"argument {number}" for number in range(status)), "the status word"]
    memory = _memory = WatchedMemory([*blobs, bytes(4)], names, races=header["races"], shared=frozenset([status]))
    for number, launch in enumerate(header["launches"]):
        memory.begin_launch()
        try:
            with np.errstate(all="ignore"):
                _run(launch, memory, status)
            memory.check_canaries()
        except Exception as error:
            grid = interpreter.interpreter_builder.grid_idx
            where = f"launch {number} of {launch['name']}, program {tuple(grid)} of {tuple(launch['grid'])}"
            return {"error": f"{where}: {describe(error)}"}, []
    word = int(np.frombuffer(memory.read(status), np.int32)[0])
    return {"status": word}, [memory.read(number) for number in range(status)]


def _run(launch: dict[str, Any], memory: WatchedMemory, status: int) -> None:
    function = load_function(launch["text"], launch["name"])
    values = []
    for name, kind, multiple, what, number, offset in launch["arguments"]:
        if what == "integer":
            if number % multiple:
                raise AccessError(f"{name} = {number} is said to be a multiple of {multiple}")
            dtype, numpy_dtype = _INTEGERS[kind]
            values.append(_tensor(np.array([number], numpy_dtype), dtype))
        else:
            address = memory.address(status if what == "status" else number) + offset
            if address % multiple:
                raise AccessError(f"{name} is said to be a multiple of {multiple} and is argument {number} + {offset}")
            values.append(_tensor(np.array([address], np.uint64), tl.str_to_ty(kind, None)))
    grid = tuple(launch["grid"])
    if all(grid):
        interpreter.interpreter_builder.grid_idx = (0, 0, 0)
        function[grid](*values, **launch["constants"])


def _tensor(data: np.ndarray[Any, Any], dtype: Any) -> Any:
    return tl.tensor(interpreter.TensorHandle(data, dtype), dtype)


def _watch() -> None:
    """Has every access to memory looked at."""
    builder = interpreter.interpreter_builder

    def size_of(pointer: Any) -> int:
        return int(interpreter._get_np_dtype(pointer.get_element_ty()).itemsize)

    def enter() -> WatchedMemory:
        assert _memory is not None
        x, y, z = builder.grid_idx
        _, height, depth = builder.grid_dim
        _memory.program = (x * height + y) * depth + z
        return _memory

    def before(name: str, look: Callable[..., None]) -> None:
        original = getattr(builder, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            look(*arguments)
            return original(*arguments, **options)

        setattr(builder, name, watched)

    before("create_masked_load", lambda p, mask, *_: enter().load(p.data, mask.data, size_of(p)))
    before("create_masked_store", lambda p, value, mask, *_: enter().store(p.data, mask.data, size_of(p), value.data))
    before("create_atomic_rmw", lambda _, p, value, mask, *__: enter().update(p.data, mask.data, size_of(p)))
    before("create_atomic_cas", lambda p, *_: enter().update(p.data, None, size_of(p)))


if __name__ == "__main__":
    assert triton.knobs.runtime.interpret, "TRITON_INTERPRET=1 must be set before Triton is imported"
    corrections.apply()
    device_library.install()
    _watch()
    serve(interpret)
