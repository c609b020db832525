"""The functions of a convolution on a GPU, written out, and how they are launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.triton.assemble import arguments_of, build_kernel
from graphc.backends.triton.conv_plan import Plan
from graphc.backends.triton.conv_windows import inside_image, is_wide, window_facts
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.pixels import epilogue_of
from graphc.backends.triton.scope import Code
from graphc.backends.triton.tiles import power_above
from graphc.backends.triton.zero_points import ZeroPoints
from graphc.ir import Graph, dtypes
from graphc.package.cuda import Integer
from graphc.target import CudaTarget

_SUM_ROWS, _SUM_COLUMNS = 32, 64
"""Block of results that one block of the second launch adds up."""


class ConvWriter:
    """Writes the functions of one convolution."""

    def __init__(self, body: Graph, plan: Plan) -> None:
        self.body = body
        self.plan = plan
        self.epilogue = epilogue_of(body, plan.problem.anchor)
        self.sum_type = "int32" if plan.is_integer else "float32"
        # The pointers of the second launch are among those of the first.
        self.reads: set[int] = {plan.problem.data, plan.problem.weights}
        self.stored = [f"out{number}" for number in range(len(body.outputs))]

    def kernel(self, target: CudaTarget) -> Kernel:
        """The kernel."""
        plan, problem = self.plan, self.plan.problem
        split = plan.parts > 1
        parts = [self._product(), *([self._sum()] if split else [])]
        reads = sorted(self.reads)
        return build_kernel(
            "conv",
            self.body,
            target,
            [self._with_pointers(launch, names, reads) for launch, names in parts],
            flops=2 * problem.macs,
            schedule=self._describe(),
            reads=reads,
            packed={problem.weights: (plan.weights.bytes, plan.weights.packing())},
            workspaces=[4 * plan.parts * plan.pixels * problem.outputs] if split else [],
        )

    def _with_pointers(self, launch: FunctionLaunch, names: Sequence[str], reads: Sequence[int]) -> FunctionLaunch:
        """A launch with the pointers called `names` in front of its other arguments."""
        kinds = [value.tensor_type for value in self.body.inputs]
        outputs = [value.tensor_type for value in self.body.outputs]
        weights = self.plan.problem.weights
        if self.plan.is_integer:
            kinds[weights] = kinds[weights].with_dtype(dtypes.INT8)
        pointers = arguments_of(names, reads, kinds, outputs, ["*fp32"])
        function = launch.function
        return replace(launch, function=replace(function, arguments=(*pointers, *function.arguments)))

    def _describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"tile": str(self.plan.tile)}
        if self.plan.weights.flat:
            facts["steps"] = "across taps"
        if self.plan.weights.joined > 1:
            facts["groups"] = f"{self.plan.weights.joined} joined"
        return facts

    def _product(self) -> tuple[FunctionLaunch, list[str]]:
        """The launch that multiplies, and the names of its pointers."""
        plan, problem, weights, tile = self.plan, self.plan.problem, self.plan.weights, self.plan.tile
        masked = (plan.pixels % tile.rows != 0, weights.height != weights.made)
        code = Code()
        renderer = self.epilogue.renderer(code)
        scope = self.epilogue.scope(plan.pixels, problem.outputs, masked=masked)
        zeros = ZeroPoints(code, renderer, scope, self.body, problem.anchor) if plan.is_integer else None
        zero = zeros.data() if zeros is not None else None
        before = code.take()
        if zeros is not None:
            zeros.correct(f"in{problem.weights}", weights)
        if plan.parts == 1:
            self.epilogue.store(renderer, scope)
        after = code.take()
        self.reads |= renderer.reads
        names = [f"in{number}" for number in sorted({*renderer.reads, problem.data, problem.weights})]
        names += self.stored if plan.parts == 1 else ["workspace0"]
        text = render_module(
            "conv",
            code.functions,
            name="conv",
            parameters=names,
            **window_facts(problem, plan.data),
            shape=weights,
            masked_m=masked[0],
            masked_n=masked[1],
            inside=self._inside(),
            before=before,
            zero=zero,
            data_unsigned=plan.data.dtype == dtypes.UINT8,
            sums_rows=zeros is not None and zeros.has_weights,
            sum_type=self.sum_type,
            precision=plan.precision,
            parts=plan.parts,
            part_steps=plan.part_steps,
            partial_wide=self._partial_is_wide,
            after=after,
        )
        blocks = (("BLOCK_M", tile.rows), ("BLOCK_N", tile.columns), ("BLOCK_K", tile.depth))
        # The number of steps comes at run time: a loop whose length is known would be unrolled whole.
        steps = Argument("steps", "i32", Integer(weights.steps), multiple=1)
        function = Function(text, "conv", (steps,), blocks, warps=tile.warps, stages=tile.stages)
        tiles = -(-plan.pixels // tile.rows) * (weights.height // weights.rows)
        return FunctionLaunch(function, (tiles, weights.groups, plan.parts)), names

    def _inside(self) -> list[str]:
        """Conditions under which an element of the matrix of pixels is in the image."""
        weights, plan = self.plan.weights, self.plan
        found = ["inside_m"] if plan.pixels % plan.tile.rows else []
        found += inside_image(plan.problem)
        if weights.flat:
            taps = weights.taps[0] * weights.taps[1]
            found += [f"(place < {taps * weights.channels})"] if weights.width != taps * weights.channels else []
        elif weights.channels % weights.depth:
            found.append(f"(channel + k[None, :] < {weights.channels})")
        return found

    @property
    def _partial_is_wide(self) -> bool:
        return is_wide(self.plan.parts * self.plan.pixels * self.plan.problem.outputs)

    def _sum(self) -> tuple[FunctionLaunch, list[str]]:
        """The launch that adds the parts up and does what follows, and the names of its pointers."""
        plan, outputs = self.plan, self.plan.problem.outputs
        rows, columns = min(_SUM_ROWS, power_above(plan.pixels)), min(_SUM_COLUMNS, power_above(outputs))
        masked = (plan.pixels % rows != 0, outputs % columns != 0)
        code = Code()
        renderer = self.epilogue.renderer(code)
        self.epilogue.store(renderer, self.epilogue.scope(plan.pixels, outputs, masked=masked))
        self.reads |= renderer.reads
        names = [*(f"in{number}" for number in sorted(renderer.reads)), *self.stored, "workspace0"]
        text = render_module(
            "conv_sum",
            code.functions,
            name="conv_sum",
            parameters=names,
            pixels=plan.pixels,
            outputs=outputs,
            column_tiles=-(-outputs // columns),
            masked_m=masked[0],
            masked_n=masked[1],
            partial_wide=self._partial_is_wide,
            after=code.take(),
        )
        parts = Argument("parts", "i32", Integer(plan.parts), multiple=1)
        function = Function(text, "conv_sum", (parts,), (("BLOCK_M", rows), ("BLOCK_N", columns)), warps=4, stages=1)
        return FunctionLaunch(function, (-(-plan.pixels // rows) * -(-outputs // columns), 1, 1)), names
