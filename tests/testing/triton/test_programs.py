from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from graphc.backends.base import Kernel, Operand
from graphc.backends.regions import body_of
from graphc.backends.triton.cubin import Compilation
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.compiler.options import CompileOptions
from graphc.compiler.program import Program, build_program
from graphc.errors import ExecutionError
from graphc.ir import Builder, Graph, Node, TensorType, Value, dtypes
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_graph
from graphc.package.cuda import Integer, Pointer
from graphc.target import CudaTarget, Verdict, accepted, refused
from graphc.target.cuda import GPUS
from graphc.testing.triton.programs import interpret_program

TEXT = """\
import triton
import triton.language as tl


@triton.jit
def kernel(x, scratch, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    tl.store(scratch + i, value, mask=i < n)
    tl.store(y + i, STATEMENT, mask=i < n)
"""
STATEMENTS = {"Neg": "-value", "Relu": "tl.maximum(value, 0.0)", "Exp": "value"}


class SmallBackend:
    """Kernels for three operators; that of one of them is wrong."""

    name = "small"
    kinds = ("cuda",)
    runs_control = False

    def supports(self, node: Node, target: CudaTarget) -> Verdict:
        return accepted() if node.op_type in STATEMENTS else refused("it is not there")

    def lower(self, region: Node, target: CudaTarget, options: Mapping[str, Any]) -> Kernel:
        (node,) = body_of(region).nodes
        size = node.output.tensor_type.storage_bytes
        assert isinstance(size, int)
        pointers = [Argument(name, "*fp32", Pointer(at)) for name, at in (("x", 0), ("scratch", 2), ("y", 1))]
        arguments = (*pointers, Argument("n", "i32", Integer(size // 4), 1))
        function = Function(TEXT.replace("STATEMENT", STATEMENTS[node.op_type]), "kernel", arguments, (("BLOCK", 64),))
        launches = (FunctionLaunch(function, (-(-size // 256), 1, 1)),)
        operands = (Operand("input", 0, size), Operand("output", 0, size), Operand("workspace", 0, size))
        return Kernel("0", "small", operands, (), 0, 0, {}, Compilation(launches, target))


def program_of(make: Any, *shapes: tuple[int, ...]) -> tuple[Graph, Program]:
    graph = Graph("model", opset=23)
    values = [graph.add_input(f"x{number}", TensorType(dtypes.FLOAT32, shape)) for number, shape in enumerate(shapes)]
    made: Value | Sequence[Value] = make(Builder(graph), *values)
    graph.outputs = [made] if isinstance(made, Value) else list(made)
    infer_graph(graph)
    options = CompileOptions(passes="dce")
    return graph, build_program(graph.clone(), {}, GPUS["sm_80"], SmallBackend(), options)


def test_kernels_and_host_steps_take_turns_in_one_arena() -> None:
    def make(b: Builder, x: Value, y: Value) -> list[Value]:
        first = b.op("Relu", b.op("Sin", b.op("Neg", x)))
        second = b.op("MatMul", first, y)
        third = b.op("Reshape", b.op("Neg", second), b.constant(np.array([-1])))
        return [third, b.op("Concat", b.op("Relu", x), first, axis=0), x, third]

    graph, program = program_of(make, (6, 50), (50, 7))
    assert len(program.kernels) == 4 and program.plan.peak > 0
    generator = np.random.default_rng(0)
    inputs = [generator.standard_normal(shape).astype(np.float32) for shape in ((6, 50), (50, 7))]
    for wanted, found in zip(evaluate_graph(graph, inputs), interpret_program(program, inputs), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_sequences_are_held_beside_the_arena() -> None:
    def make(b: Builder, x: Value) -> Value:
        parts = b.op("SplitToSequence", b.op("Neg", x), axis=0, keepdims=1)
        return b.op("ConcatFromSequence", parts, axis=1)

    graph, program = program_of(make, (3, 4))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(interpret_program(program, [x])[0], evaluate_graph(graph, [x])[0])


def test_a_wrong_kernel_shows_and_a_failing_step_is_named() -> None:
    graph, program = program_of(lambda b, x: b.op("Exp", x), (5,))
    x = np.ones(5, np.float32)
    assert not np.allclose(interpret_program(program, [x])[0], evaluate_graph(graph, [x])[0])
    _, program = program_of(
        lambda b, x: b.op("Gather", b.op("Neg", x, name="minus"), b.op("Cast", x, to=7), name="taken"), (5,)
    )
    with pytest.raises(ExecutionError, match="taken"):
        interpret_program(program, [x + 100])
