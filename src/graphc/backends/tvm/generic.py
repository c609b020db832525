"""The template that takes any region whose operators all have tensor expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.backends.base import Kernel, Operand, content_key
from graphc.backends.regions import Expander, signature
from graphc.backends.tvm import nest, objects
from graphc.backends.tvm.problem import Problem
from graphc.backends.tvm.tir import KernelBuilder
from graphc.errors import BackendError
from graphc.ir import Dim, Graph
from graphc.ir.symbolic import product
from graphc.ops.expr import axes_of
from graphc.target import Target


def lower(body: Graph, target: Target) -> Kernel:
    """The kernel of a body without an anchor.

    Raises:
        BackendError: Some operator has no tensor expression.
    """
    key = content_key(["generic", signature(body), target, objects.versions()])
    inputs = tuple(value.tensor_type for value in body.inputs)
    outputs = tuple(value.tensor_type for value in body.outputs)
    # One nest for all outputs of a shape: what they share is computed once.
    groups: dict[tuple[Dim, ...], list[int]] = {}
    for number, value in enumerate(body.outputs):
        groups.setdefault(value.tensor_type.dims, []).append(number)
    problems = [(build_problem(body, numbers), numbers) for numbers in groups.values()]
    symbol = f"graphc_generic_{key[:16]}"

    def emit() -> Any:
        builder = KernelBuilder(
            symbol, [t.dtype for t in (*inputs, *outputs)], vector_bytes=target.vector_bytes, bounds=body.bounds
        )
        with builder:
            for problem, numbers in problems:
                nest.emit(builder, problem, [*range(len(inputs)), *(len(inputs) + number for number in numbers)])
        return builder.function

    return Kernel(
        key=key,
        template="generic",
        operands=(
            *(Operand("input", i, t.storage_bytes) for i, t in enumerate(inputs)),
            *(Operand("output", i, t.storage_bytes) for i, t in enumerate(outputs)),
        ),
        dims=(),
        flops=sum((product(shape) for shape in groups), 0),
        bytes=sum((t.storage_bytes for t in (*inputs, *outputs)), 0),
        schedule={},
        compile=lambda: objects.compile_function(emit(), symbol, target),
    )


def build_problem(body: Graph, numbers: Sequence[int] | None = None) -> Problem:
    """Outputs of a body as scalars over one set of axes.

    Args:
        body: The body.
        numbers: Which outputs, all of one shape; every one if None.

    Raises:
        BackendError: They differ in shape.
    """
    outputs = [body.outputs[number] for number in (range(len(body.outputs)) if numbers is None else numbers)]
    shapes = {value.tensor_type.dims for value in outputs}
    if len(shapes) != 1:
        raise BackendError(f"one loop nest cannot write outputs of shapes {sorted(map(str, shapes))}")
    expander = Expander(body)
    axes = axes_of(outputs[0].tensor_type.dims)
    index = [axis.index for axis in axes]
    return Problem(
        axes,
        tuple(expander.element(value, index) for value in outputs),
        tuple(value.tensor_type for value in body.inputs),
        tuple(value.tensor_type for value in outputs),
    )
