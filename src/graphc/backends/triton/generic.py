"""The template that takes any region whose operators all have tensor expressions: an element a place of a block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from graphc.backends.base import Kernel
from graphc.backends.moved import as_bits
from graphc.backends.problem import Problem, build_problem, groups_of, merged, touched_of, work_of
from graphc.backends.triton.assemble import arguments_of, build_kernel
from graphc.backends.triton.function import Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.render import Renderer
from graphc.backends.triton.scope import Code
from graphc.backends.triton.tiles import THREADS, enter, tile_of
from graphc.backends.windows import resolved
from graphc.ir import Dim, Graph
from graphc.ops.expr import Load
from graphc.target import CudaTarget
from graphc.target.cuda import WARP


def lower(body: Graph, target: CudaTarget) -> Kernel:
    """The kernel of a body without an anchor: a launch for all outputs that are stored alike.

    Raises:
        BackendError: Some operator has no tensor expression, or a type no form on GPUs.
    """
    problems = [(as_bits(build_problem(body, numbers)), numbers) for numbers in groups_of(body)]
    reads = sorted({node.input for problem, _ in problems for node in problem.scalars() if isinstance(node, Load)})
    works = [work_of(problem) for problem, _ in problems]
    flops: Dim = 0
    for work in works:
        flops = flops + work.operations
    launches = [launch_of(problem, numbers, reads, body, target) for problem, numbers in problems]
    return build_kernel(
        "generic",
        body,
        target,
        launches,
        flops=flops,
        schedule={},
        reads=reads,
        touched=touched_of(body, works),
    )


def launch_of(
    problem: Problem, numbers: Sequence[int], reads: Sequence[int], body: Graph, target: CudaTarget
) -> FunctionLaunch:
    """A launch that computes some of a body's outputs, all of one shape.

    Args:
        problem: Their elements.
        numbers: Which outputs.
        reads: Inputs that the kernel reads, in the order of its operands.
        body: The region's body.
        target: The GPU.
    """
    problem = merged(problem)
    problem = replace(problem, elements=tuple(resolved(e, problem.axes, {}) for e in problem.elements))
    tile = tile_of(problem, target)
    code = Code()
    renderer = Renderer(code, problem.inputs)
    scope = enter(code, tile)
    index = [axis.index for axis in problem.axes]
    for number, element, kind in zip(numbers, problem.elements, problem.outputs, strict=True):
        renderer.store(element, kind, f"out{number}", index, scope)
    names = [
        *(f"in{number}" for number in sorted(renderer.reads)),
        *(f"out{number}" for number in numbers),
        *(["status"] if renderer.reports else []),
    ]
    outputs = [value.tensor_type for value in body.outputs]
    for number, kind in zip(numbers, problem.outputs, strict=True):
        outputs[number] = kind
    function = Function(
        render_module("generic", code.functions, name="generic", parameters=names, body=code.text),
        "generic",
        arguments_of(names, reads, problem.inputs, outputs),
        warps=max(1, min(THREADS, math.prod(tile.shape)) // WARP),
        stages=1,
    )
    return FunctionLaunch(function, (tile.programs, 1, 1))
