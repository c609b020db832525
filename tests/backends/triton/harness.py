"""Bodies to lower, and what the machine code of a kernel looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.backends.base import Kernel
from graphc.backends.triton.cubin import compilation_of, compile_function
from graphc.backends.triton.disassembly import instructions
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ops.inference import infer_graph
from graphc.target.cuda import CudaTarget

Array = np.ndarray[Any, Any]
Make = Callable[..., "Value | Sequence[Value]"]


def body(inputs: Sequence[Array | TensorType], make: Make, *, opset: int = 24) -> Graph:
    """A region's body over inputs of these types, made by `make(builder, *values)`."""
    graph = Graph("body", opset=opset)
    types = [t if isinstance(t, TensorType) else TensorType(dtypes.from_numpy(t.dtype), t.shape) for t in inputs]
    values = [graph.add_input(f"x{i}", type_) for i, type_ in enumerate(types)]
    made = make(Builder(graph), *values)
    graph.outputs = [made] if isinstance(made, Value) else list(made)
    infer_graph(graph)
    return graph


def machine_code(kernel: Kernel, target: CudaTarget) -> list[Mapping[str, int]]:
    """Compiles every function of a kernel; answers how often each instruction is in it.

    Fails where one spills registers, or needs more shared memory than a block may have.
    """
    found = []
    for launch in compilation_of(kernel).launches:
        made = compile_function(launch.function, target)
        assert made.stack == 0, f"{launch.function.name} spills {made.stack} bytes"
        assert made.shared <= target.shared_bytes
        found.append(instructions(made.cubin))
    return found
