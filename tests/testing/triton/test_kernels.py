from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphc.backends.base import Kernel, Operand
from graphc.backends.triton.cubin import Compilation, compilation_of
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.errors import BackendError, ExecutionError
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ir.symbolic import symbol
from graphc.ops.inference import infer_graph
from graphc.package.cuda import CudaObject, Integer, Pointer, Status
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.oracle import DifferenceError
from graphc.testing.triton.kernels import check_kernel, run_kernel

TEXT = """\
import triton
import triton.language as tl


@triton.jit
def kernel(x, y, status, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    STATEMENT
"""
ADD = "tl.store(y + i, value + value, mask=i < n)"


def body(shape: tuple[int, ...] = (5, 30)) -> Graph:
    graph = Graph("body", opset=23)
    x = graph.add_input("x", TensorType(dtypes.FLOAT32, (symbol("rows"), shape[1]) if not shape[0] else shape))
    graph.outputs = [Builder(graph).op("Add", x, x)]
    infer_graph(graph)
    return graph


def lower(graph: Graph, target: CudaTarget, statement: str = ADD) -> Kernel:
    size = graph.inputs[0].tensor_type.storage_bytes
    arguments = (
        Argument("x", "*fp32", Pointer(0)),
        Argument("y", "*fp32", Pointer(1)),
        Argument("status", "*i32", Status()),
        Argument("n", "i32", Integer(size // 4 if isinstance(size, int) else "30*d0"), 1),
    )
    function = Function(TEXT.replace("STATEMENT", statement), "kernel", arguments, (("BLOCK", 64),))
    launch = FunctionLaunch(function, ((size // 4 + 63) // 64, 1, 1))
    names = tuple(sorted(graph.inputs[0].tensor_type.symbols()))
    return Kernel(
        key="0" * 64,
        template="double",
        operands=(Operand("input", 0, size), Operand("output", 0, size)),
        dims=tuple(map(symbol, names)),
        flops=1,
        bytes=1,
        schedule={},
        compile=Compilation((launch,), target, names),
    )


def test_a_kernel_that_is_right() -> None:
    x = np.random.default_rng(0).standard_normal((5, 30), np.float32)
    kernel = check_kernel(body(), [x], lower)
    (launch,) = CudaObject.from_bytes(kernel.compile()).kernel.launches
    assert launch.grid == (3, 1, 1) and compilation_of(kernel).target is GPUS["sm_90"]


@pytest.mark.parametrize("rows", [1, 7, 20])
def test_one_kernel_for_any_extent(rows: int) -> None:
    x = np.random.default_rng(0).standard_normal((rows, 30), np.float32)
    check_kernel(body((0, 30)), [x], lower, bindings={"rows": rows})


@pytest.mark.parametrize(
    ("statement", "error", "said"),
    [
        ("tl.store(y + i, value + 1, mask=i < n)", DifferenceError, "differs at"),
        ("tl.store(y + i, value + value, mask=i < n - 1)", DifferenceError, "differs at 1 of 150"),
        (ADD.replace("i < n", "i <= n"), ExecutionError, r"stores 4 bytes at argument 1 \+ 600"),
        ("tl.store(x + i, value + value, mask=i < n)", ExecutionError, "writes to operand 0, which is an input"),
        (ADD + "\n    tl.store(status, 3)", ExecutionError, "refuses its data: status 3"),
    ],
)
def test_one_that_is_not(statement: str, error: type[Exception], said: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 30), np.float32)
    with pytest.raises(error, match=said):
        check_kernel(body(), [x], lambda graph, target: lower(graph, target, statement))


def test_operands_have_the_sizes_that_the_kernel_says() -> None:
    kernel = lower(body(), GPUS["sm_90"])
    wrong = replace(kernel, operands=(Operand("input", 0, 596), kernel.operands[1]))
    with pytest.raises(ExecutionError, match=r"operand 0 of double \(input 0\) has 600 bytes; the kernel says 596"):
        run_kernel(wrong, body(), [np.zeros((5, 30), np.float32)])


def test_kernels_of_other_backends_are_refused() -> None:
    other = replace(lower(body(), GPUS["sm_90"]), compile=lambda: b"")
    with pytest.raises(BackendError, match="graphc_double_0000000000000000 is none of Triton's"):
        run_kernel(other, body(), [np.zeros((5, 30), np.float32)])
