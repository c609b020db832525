"""Kernels of the CUDA backend, interpreted and compared with what their regions mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphc.backends.base import Kernel, Operand
from graphc.backends.triton.cubin import compilation_of
from graphc.errors import ExecutionError
from graphc.ir import Graph, TensorType
from graphc.ir.symbolic import evaluate
from graphc.ops.evaluate import evaluate_graph
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.oracle import compare_arrays, graph_tolerance
from graphc.testing.triton.interpreter import interpret
from graphc.testing.triton.watched_memory import CANARY

Array: TypeAlias = np.ndarray[Any, Any]
Lower: TypeAlias = Callable[[Graph, CudaTarget], Kernel]


def check_kernel(
    graph: Graph,
    arrays: Sequence[Array],
    lower: Lower,
    target: CudaTarget = GPUS["sm_90"],
    *,
    bindings: Mapping[str, int] | None = None,
    tolerance: float | None = None,
    races: bool = True,
) -> Kernel:
    """Lowers a region's body, interprets its kernel and compares each output with the operators' NumPy meaning.

    Args:
        graph: The body.
        arrays: Its inputs, logical.
        lower: The template under test, or a backend's `lower`.
        target: Lowered for.
        bindings: Values of the body's symbols.
        tolerance: Largest error over the output's largest magnitude; by dtype if None.
        races: Whether a program must keep off what another program of the same launch has written.

    Returns:
        The kernel, for further questions.

    Raises:
        DifferenceError: An output is something else.
        ExecutionError: The kernel fails, touches what it must not, or refuses the data.
    """
    kernel = lower(graph, target)
    found = run_kernel(kernel, graph, arrays, bindings, races=races)
    allowed = tolerance or graph_tolerance(graph)
    for value, wanted, stored in zip(graph.outputs, evaluate_graph(graph, list(arrays)), found, strict=True):
        want, layout = np.asarray(wanted), value.tensor_type.layout
        compare_arrays(f"output %{value.name}", want, layout.unpack(stored, want.shape), allowed)
        if layout.fill is not None:
            compare_arrays(f"output %{value.name} with its padding", layout.pack(want), stored, allowed)
    return kernel


def run_kernel(
    kernel: Kernel,
    graph: Graph,
    arrays: Sequence[Array],
    bindings: Mapping[str, int] | None = None,
    *,
    races: bool = True,
) -> list[Array]:
    """The storage of each output after one run of a kernel, interpreted; outputs and workspaces are poisoned before.

    Args:
        kernel: Of the body.
        graph: The body.
        arrays: Its inputs, logical.
        bindings: Values of the body's symbols.
        races: Whether a program must keep off what another program of the same launch has written.

    Raises:
        ExecutionError: The kernel fails, touches what it must not, or refuses the data.
    """
    bindings = bindings or {}
    buffers: list[Array] = []
    for operand in kernel.operands:
        if operand.kind == "input":
            buffers.append(stored_input(operand, graph.inputs[operand.index].tensor_type, arrays[operand.index]))
        elif operand.kind == "output":
            kind = graph.outputs[operand.index].tensor_type
            shape = tuple(evaluate(dim, bindings) for dim in kind.layout.storage_shape(kind.dims))
            buffers.append(_poisoned(shape, kind.dtype.numpy))
        else:
            buffers.append(_poisoned((evaluate(operand.size, bindings),), np.dtype(np.uint8)))
    after = run_buffers(kernel, buffers, bindings, races=races)
    outputs = {
        operand.index: array for operand, array in zip(kernel.operands, after, strict=True) if operand.kind == "output"
    }
    return [outputs[number] for number in range(len(graph.outputs))]


def run_buffers(
    kernel: Kernel, buffers: Sequence[Array], bindings: Mapping[str, int], *, races: bool = True
) -> Sequence[Array]:
    """What a kernel's operands hold after one run.

    Args:
        kernel: Of this backend.
        buffers: What they hold before.
        bindings: Values of the model's symbols.
        races: Whether a program must keep off what another program of the same launch has written.

    Raises:
        ExecutionError: The kernel fails, touches what it must not, or refuses the data.
    """
    compilation = compilation_of(kernel)
    dims = {name: evaluate(dim, bindings) for name, dim in zip(compilation.dims, kernel.dims, strict=True)}
    for position, (operand, buffer) in enumerate(zip(kernel.operands, buffers, strict=True)):
        size = evaluate(operand.size, bindings)
        if size != buffer.nbytes:
            raise ExecutionError(
                f"operand {position} of {kernel.template} ({operand.kind} {operand.index}) has {buffer.nbytes} bytes;"
                f" the kernel says {size}"
            )
    done = interpret(compilation.launches, buffers, dims, races=races)
    if done.status:
        raise ExecutionError(f"{kernel.template} refuses its data: status {done.status}")
    for position, (operand, before, after) in enumerate(zip(kernel.operands, buffers, done.arrays, strict=True)):
        if operand.kind == "input" and before.tobytes() != after.tobytes():
            raise ExecutionError(f"{kernel.template} writes to operand {position}, which is an input")
    return done.arrays


def stored_input(operand: Operand, kind: TensorType, array: Array) -> Array:
    """What an input's memory holds: packed, or laid out with undefined padding poisoned."""
    if operand.packing is not None:
        return np.ascontiguousarray(operand.packing.apply(array))
    undefined = np.nan if array.dtype.kind == "f" else 0
    return np.ascontiguousarray(kind.layout.pack(np.ascontiguousarray(array), undefined=undefined))


def _poisoned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    whole = np.empty(shape, dtype)
    whole.reshape(-1).view(np.uint8)[...] = CANARY
    return whole
