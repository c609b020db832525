"""The template that takes any region whose operators all have tensor expressions."""

from __future__ import annotations

from graphc.backends.base import Kernel
from graphc.backends.moved import as_bits, is_wide
from graphc.backends.problem import build_problem, work_of
from graphc.backends.tvm import nest
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.tir import KernelBuilder
from graphc.ir import Dim, Graph, Layout
from graphc.ir.symbolic import minimum, multiply
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
