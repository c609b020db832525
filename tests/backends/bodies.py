"""Bodies of regions for tests of backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ops.inference import infer_graph

Array = np.ndarray[Any, Any]
Make = Callable[..., "Value | Sequence[Value]"]


def body(inputs: Sequence[Array | TensorType], make: Make, *, opset: int = 23) -> Graph:
    """A region's body over inputs of these types, made by `make(builder, *values)`."""
    graph = Graph("body", opset=opset)
    types = [t if isinstance(t, TensorType) else TensorType(dtypes.from_numpy(t.dtype), t.shape) for t in inputs]
    values = [graph.add_input(f"x{i}", type_) for i, type_ in enumerate(types)]
    made = make(Builder(graph), *values)
    graph.outputs = [made] if isinstance(made, Value) else list(made)
    infer_graph(graph)
    return graph
