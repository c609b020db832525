"""The template that takes any region whose operators all have tensor expressions."""

from __future__ import annotations

from graphc.backends.base import Kernel
from graphc.backends.moved import as_bits
from graphc.backends.problem import build_problem, groups_of, touched_of, work_of
from graphc.backends.tvm import nest
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.tir import KernelBuilder
from graphc.ir import Dim, Graph
from graphc.target import Target


def lower(body: Graph, target: Target) -> Kernel:
    """The kernel of a body without an anchor.

    Raises:
        BackendError: Some operator has no tensor expression.
    """
    count = len(body.inputs)
    problems = [(as_bits(build_problem(body, numbers)), numbers) for numbers in groups_of(body)]

    def emit(builder: KernelBuilder) -> None:
        for problem, numbers in problems:
            nest.emit(builder, problem, [*range(count), *(count + number for number in numbers)])

    works = [work_of(problem) for problem, _ in problems]
    flops: Dim = 0
    for work in works:
        flops = flops + work.operations
    touched = touched_of(body, works)
    return build_kernel("generic", body, target, [], emit, flops=flops, touched=touched, schedule={})
