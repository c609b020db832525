"""Models compiled for GPUs by Triton, where there is neither a GPU nor TVM: the same bytes in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from graphc.compiler import CompileOptions, lower_model
from graphc.frontend import export_model
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops.inference import infer_node
from graphc.package import Package

pytest.importorskip("triton")

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
small (float[6, 32] x) => (float[6, 32] y, float[6] z) <float[32] b = {BIAS}> {
  a = Add(x, b)
  y = Softmax<axis = 1>(a)
  s = Sigmoid(a)
  axes = Constant<value = int64[1] {1}>()
  z = ReduceSum<keepdims = 0>(s, axes)
}""".replace("BIAS", ", ".join(map(str, range(32))))
SCRIPT = """
import sys
sys.modules["tvm"] = None
from pathlib import Path
from graphc.compiler import CompileOptions, compile_package
options = CompileOptions(jobs=int(sys.argv[3]), require_compiled=True)
compile_package(Path(sys.argv[1]), sys.argv[2], target=sys.argv[4], options=options)
assert not any(name.startswith("tvm.") for name in sys.modules)
"""


def compiled(folder: Path, name: str, target: str, jobs: int = 2) -> Path:
    """The package that a process of its own makes, which cannot import TVM and has no cache."""
    onnx.save(onnx.parser.parse_model(MODEL), folder / "m.onnx")
    environment = {**os.environ, "PYTHONHASHSEED": str(jobs), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(folder / "m.onnx"), str(folder / name), str(jobs), target]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return folder / name


def test_models_compile_where_tvm_is_not_installed(tmp_path: Path) -> None:
    package = Package(compiled(tmp_path, "m.graphc", "cuda:sm_90"))
    assert sorted(package.manifest.versions) == ["graphc", "onnx", "triton"]
    launches = list(package.cuda("sm_90").launches)
    assert launches and all(package.cubin("sm_90", launch.cubin)[:4] == b"\x7fELF" for launch in launches)
    assert not package.manifest.host_steps


@pytest.mark.slow
def test_packages_are_equal_byte_by_byte_in_every_process(tmp_path: Path) -> None:
    first, second = (
        compiled(tmp_path, f"{jobs}.graphc", "cuda:sm_80,cuda:sm_90", jobs).read_bytes() for jobs in (1, 2)
    )
    assert first == second


def test_tf32_is_for_products_of_float32_alone() -> None:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (64, 64)))], opset=23)
    b = Builder(graph, infer=infer_node)
    weights = b.constant(np.ones((64, 64), np.float32))
    graph.outputs = [b.op("MatMul", graph.inputs[0], weights), b.op("Exp", graph.inputs[0])]

    def keys(precision: str) -> dict[str, str]:
        options = CompileOptions(precision=precision)
        (program,) = lower_model(export_model(graph), target="cuda:sm_90", options=options).programs
        return {node.op_type: kernel.key for node, kernel in program.kernels.items()}

    exact, rounded = keys("fp32"), keys("tf32")
    assert exact["Exp"] == rounded["Exp"] and exact["MatMul"] != rounded["MatMul"]
