"""What a compile is told of precision reaches the kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphc.backends.triton.disassembly import TENSOR_CORE, count, instructions
from graphc.compiler.driver import lower_model
from graphc.compiler.options import CompileOptions
from graphc.package.cuda import CudaObject


def model(kind: str) -> bytes:
    generator = np.random.default_rng(0)
    if kind == "MatMul":
        shapes, weights = ([64, 64], [64, 64]), generator.standard_normal((64, 64), np.float32)
    else:
        shapes, weights = ([1, 32, 8, 8], [1, 32, 6, 6]), generator.standard_normal((32, 32, 3, 3), np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xy", shapes, strict=True))
    node = helper.make_node(kind, ["x", "w"], ["y"])
    graph = helper.make_graph([node], "one", [x], [y], [numpy_helper.from_array(weights, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        ("fp32", "MatMul"),
        ("tf32", "MatMul"),
        pytest.param("fp16", "MatMul", marks=pytest.mark.slow),
        pytest.param("fp32", "Conv", marks=pytest.mark.slow),
        ("tf32", "Conv"),
        pytest.param("fp16", "Conv", marks=pytest.mark.slow),
    ],
)
def test_products_are_on_tensor_cores_where_that_is_asked_for(precision: str, kind: str) -> None:
    options = CompileOptions(precision=precision)
    (program,) = lower_model(model(kind), target="cuda:sm_80", options=options).programs
    used = 0
    for kernel in program.kernels.values():
        cubins = CudaObject.from_bytes(kernel.compile()).cubins.values()
        used += sum(count(instructions(cubin), *TENSOR_CORE) for cubin in cubins)
    assert (used > 0) == (precision != "fp32")
