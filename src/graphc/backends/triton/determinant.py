"""Determinants of square matrices, by elimination with the largest pivot of each column; a block of threads each."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.element_types import compute_dtype
from graphc.backends.triton.assemble import arguments_of, build_kernel, number_argument
from graphc.backends.triton.element_types import from_storage, storage_dtype, to_storage, triton_name
from graphc.backends.triton.function import Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.scope import Code
from graphc.backends.triton.tiles import power_above
from graphc.errors import BackendError
from graphc.ir import Graph
from graphc.target.cuda import CudaTarget

MOST_ROWS = 64
"""Rows of a matrix that a block of threads holds in registers."""


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a Det.

    Raises:
        BackendError: The matrix is a constant, not of floats, or too large for registers.
    """
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    x = node.inputs[0]
    if x not in body.inputs or not x.tensor_type.dtype.is_float:
        raise BackendError("no matrix of floats to take the determinant of", nodes=node.origins)
    kind = x.tensor_type
    *batch, size, _ = kind.static_shape
    if size > MOST_ROWS or prod(kind.static_shape) >= 1 << 31:
        raise BackendError(f"the determinant of matrices of {size} rows", nodes=node.origins)
    code = Code()
    value = from_storage(code, "stored", kind.dtype)
    narrowed = to_storage(code, "result", kind.dtype)
    outputs = [value.tensor_type for value in body.outputs]
    arguments = (*arguments_of(["in0", "out0"], [0], [kind], outputs), number_argument("size", size))
    text = render_module(
        "determinant",
        code.functions,
        arguments=[argument.name for argument in arguments],
        kind=triton_name(compute_dtype(kind.dtype)),
        narrowed=narrowed,
        other="0.0" if storage_dtype(kind.dtype).is_float else "0",
        padded=power_above(max(size, 2)),
        size=size,
        value=value,
    )
    launch = FunctionLaunch(Function(text, "determinant", arguments), (prod(batch), 1, 1))
    return build_kernel(
        "determinant",
        body,
        target,
        [launch] if prod(batch) else [],
        flops=2 * prod(batch) * size**3 // 3,
        schedule={"rows": size},
    )
