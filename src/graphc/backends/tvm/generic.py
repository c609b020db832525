"""The template that takes any region whose operators all have tensor expressions."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.base import Kernel
from graphc.backends.regions import Expander
from graphc.backends.tvm import nest
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.moved import as_bits, is_wide
from graphc.backends.tvm.problem import Problem, work_of
from graphc.backends.tvm.tir import KernelBuilder
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Layout
from graphc.ir.symbolic import minimum, multiply
from graphc.ops.expr import axes_of
from graphc.target import Target


def lower(body: Graph, target: Target) -> Kernel:
    """The kernel of a body without an anchor.

    Raises:
        BackendError: Some operator has no tensor expression.
    """
    count = len(body.inputs)
    # One nest for all outputs that are stored alike: what they share is computed once.
    groups: dict[tuple[tuple[Dim, ...], Layout, bool], list[int]] = {}
    for number, value in enumerate(body.outputs):
        kind = value.tensor_type
        groups.setdefault((kind.dims, kind.layout, is_wide(kind.dtype)), []).append(number)
    problems = [(as_bits(build_problem(body, numbers)), numbers) for numbers in groups.values()]

    def emit(builder: KernelBuilder) -> None:
        for problem, numbers in problems:
            nest.emit(builder, problem, [*range(count), *(count + number for number in numbers)])

    flops: Dim = 0
    reads: dict[int, Dim] = {}
    for problem, _ in problems:
        work = work_of(problem)
        flops = flops + work.operations
        reads = {number: reads.get(number, 0) + work.reads.get(number, 0) for number in {*reads, *work.reads}}
    # A gather touches a few rows of a table, a slice a part of its input.
    touched = {
        number: minimum(
            value.tensor_type.storage_bytes, multiply(reads.get(number, 0), value.tensor_type.dtype.itemsize)
        )
        for number, value in enumerate(body.inputs)
    }
    return build_kernel("generic", body, target, [], emit, flops=flops, touched=touched, schedule={})


def build_problem(body: Graph, numbers: Sequence[int] | None = None) -> Problem:
    """Outputs of a body as scalars over one set of axes.

    Args:
        body: The body.
        numbers: Which outputs, all of one shape and layout; every one if None.

    Raises:
        BackendError: They differ in shape or layout.
    """
    outputs = [body.outputs[number] for number in (range(len(body.outputs)) if numbers is None else numbers)]
    shapes = {(value.tensor_type.dims, value.tensor_type.layout) for value in outputs}
    if len(shapes) != 1:
        kinds = sorted(str(value.type) for value in outputs)
        raise BackendError(f"one loop nest cannot write outputs of types {', '.join(kinds)}")
    expander = Expander(body)
    axes = axes_of(outputs[0].tensor_type.dims)
    index = [axis.index for axis in axes]
    return Problem(
        axes,
        tuple(expander.element(value, index) for value in outputs),
        tuple(value.tensor_type for value in body.inputs),
        tuple(value.tensor_type for value in outputs),
    )
