"""The template that takes any region whose operators all have tensor expressions: an element a place of a block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from graphc.backends.base import Kernel
from graphc.backends.merging import merged
from graphc.backends.moved import as_bits
from graphc.backends.problem import build_problem, groups_of, touched_of, work_of
from graphc.backends.triton.assemble import build_kernel
from graphc.backends.triton.drafts import Draft, Stage
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
    # What has no elements needs no launch.
    groups = [numbers for numbers in groups_of(body) if body.outputs[numbers[0]].tensor_type.numel != 0]
    problems = [(as_bits(build_problem(body, numbers)), numbers) for numbers in groups]
    reads = sorted({node.input for problem, _ in problems for node in problem.scalars() if isinstance(node, Load)})
    works = [work_of(problem) for problem, _ in problems]
    flops: Dim = 0
    for work in works:
        flops = flops + work.operations
    drafts = [draft(Stage(problem, tuple(f"out{n}" for n in numbers)), target, {}) for problem, numbers in problems]
    return build_kernel(
        "generic",
        body,
        target,
        [found.launch(body, reads, ()) for found in drafts],
        flops=flops,
        schedule={},
        reads=reads,
        touched=touched_of(body, works),
    )


def draft(stage: Stage, target: CudaTarget, names: Mapping[int, str]) -> Draft:
    """A function that computes an element at each place of a block.

    Args:
        stage: What it computes; outputs of one shape.
        target: The GPU.
        names: Of pointers to inputs that are called otherwise than `in` and their number.
    """
    problem = merged(stage.problem)
    problem = replace(problem, elements=tuple(resolved(e, problem.axes, {}) for e in problem.elements))
    tile = tile_of(problem, target)
    renderer = Renderer(Code(), problem.inputs, names=names)
    scope = enter(renderer.code, tile)
    index = [axis.index for axis in problem.axes]
    for name, element, kind in zip(stage.outputs, problem.elements, problem.outputs, strict=True):
        renderer.store(element, kind, name, index, scope)
    warps = max(1, min(THREADS, math.prod(tile.shape)) // WARP)
    return Draft("generic", replace(stage, problem=problem), renderer, tile.programs, warps)
