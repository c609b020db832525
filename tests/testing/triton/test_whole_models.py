"""Models that the CUDA pipeline, its backend and the planner made, run step by step without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest

from bench.zoo import load
from graphc.backends.triton.backend import TritonBackend
from graphc.compiler.driver import lower_model
from graphc.compiler.options import CompileOptions
from graphc.compiler.program import build_program
from graphc.ir import Graph
from graphc.target.cuda import GPUS
from graphc.testing import check_backend
from graphc.testing.oracle import compare_arrays
from graphc.testing.triton.programs import interpret_program

Array = np.ndarray[Any, Any]


def run(graph: Graph, inputs: Sequence[Array], precision: str = "fp32") -> list[Any]:
    program = build_program(graph, {}, GPUS["sm_90"], TritonBackend(), CompileOptions(precision=precision))
    return interpret_program(program, list(inputs))


def test_random_graphs() -> None:
    check_backend(run, examples=20, max_nodes=6)


@pytest.mark.slow
def test_many_random_graphs() -> None:
    check_backend(run, examples=150, max_nodes=12, seed=1)


@pytest.mark.parametrize(
    "name",
    [
        "mlp_4x64x64",
        pytest.param("decode_step", marks=pytest.mark.slow),
        pytest.param("lstm_step", marks=pytest.mark.slow),
        pytest.param("pointwise_chain", marks=pytest.mark.slow),
        pytest.param("silero_vad_static16k", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_models(name: str, precision: str) -> None:
    entry = load(name)
    inputs = entry.inputs()
    options = CompileOptions(precision=precision)
    shapes: dict[str, Any] = {name: array.shape for name, array in inputs.items()}
    (program,) = lower_model(entry.path, target="cuda:sm_80", dims=shapes, options=options).programs
    found = interpret_program(program, [inputs[value.name] for value in program.graph.inputs])
    expected = onnxruntime.InferenceSession(entry.path, providers=["CPUExecutionProvider"]).run(None, inputs)
    for wanted, got in zip(expected, found, strict=True):
        compare_arrays(name, wanted, got, 3e-2 if precision == "fp16" else 1e-4)
