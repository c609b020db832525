"""What one launch computes, from its problem to a function: shared by the templates that have no anchor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.backends.problem import Problem
from graphc.backends.triton.assemble import arguments_of
from graphc.backends.triton.element_types import pointer_type
from graphc.backends.triton.function import Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.render import Renderer
from graphc.ir import Graph, TensorType


@dataclass(frozen=True)
class Stage:
    """One launch: a problem, and the names of the pointers that it reads and writes.

    Args:
        problem: What is computed. Its inputs after the body's are workspaces.
        outputs: Names of the pointers to its outputs: `out` or `workspace` and a number.
    """

    problem: Problem
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Draft:
    """The written body of a function.

    Args:
        name: Of the function.
        stage: What it computes.
        renderer: That wrote it.
        programs: Blocks of the grid.
        warps: Warps of a block.
    """

    name: str
    stage: Stage
    renderer: Renderer
    programs: int
    warps: int

    def launch(self, body: Graph, reads: Sequence[int], workspaces: Sequence[TensorType]) -> FunctionLaunch:
        """The launch of the function.

        Args:
            body: The region's body.
            reads: Inputs that the kernel reads, in the order of its operands.
            workspaces: What its workspaces hold.
        """
        renderer, stage = self.renderer, self.stage
        names = [
            *(renderer.name_of(number) for number in sorted(renderer.reads)),
            *stage.outputs,
            *(["status"] if renderer.reports else []),
        ]
        outputs = [value.tensor_type for value in body.outputs]
        for name, kind in zip(stage.outputs, stage.problem.outputs, strict=True):
            if name.startswith("out"):
                outputs[int(name.removeprefix("out"))] = kind
        text = render_module(
            "function",
            renderer.code.functions,
            name=self.name,
            parameters=names,
            body=renderer.code.text,
        )
        pointers = [pointer_type(kind.dtype) for kind in workspaces]
        arguments = arguments_of(names, reads, stage.problem.inputs, outputs, pointers)
        return FunctionLaunch(Function(text, self.name, arguments, warps=self.warps, stages=1), (self.programs, 1, 1))


def names_of(count: int, workspaces: int) -> Mapping[int, str]:
    """Names of the pointers to inputs that are workspaces.

    Args:
        count: Inputs of the body, before them.
        workspaces: How many there are.
    """
    return {count + number: f"workspace{number}" for number in range(workspaces)}
