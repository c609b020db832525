"""Kernels for tensor expressions, compiled ahead of time: what moves memory moves it in vectors, and nothing spills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc.backends.triton import templates
from graphc.backends.triton.cubin import compilation_of, compile_function
from graphc.backends.triton.disassembly import instructions
from graphc.ir import DType, TensorType, dtypes
from graphc.target.cuda import GPUS
from tests.backends.bodies import Make, body
from tests.backends.expression_cases import ints

HALF, SINGLE = dtypes.FLOAT16, dtypes.FLOAT32


def _norm(b: Any, x: Any, scale: Any, bias: Any) -> Any:
    return b.op("LayerNormalization", x, scale, bias, axis=-1)


def _groups(b: Any, x: Any, scale: Any, bias: Any) -> Any:
    return b.op("GroupNormalization", x, scale, bias, num_groups=32)


CASES: dict[str, tuple[Callable[[DType], list[TensorType]], Make]] = {
    "sum of two": (lambda d: [TensorType(d, (8, 1024, 1024))] * 2, lambda b, x, y: b.op("Add", x, y)),
    "bias": (
        lambda d: [TensorType(d, (8, 512, 1024)), TensorType(d, (1024,))],
        lambda b, x, y: b.op("Gelu", b.op("Add", x, y)),
    ),
    "channels": (
        lambda d: [TensorType(d, (8, 256, 56, 56)), TensorType(d, (1, 256, 1, 1))],
        lambda b, x, y: b.op("Mul", x, y),
    ),
    "softmax": (lambda d: [TensorType(d, (4096, 512))], lambda b, x: b.op("Softmax", x, axis=-1)),
    "long softmax": (lambda d: [TensorType(d, (640, 32768))], lambda b, x: b.op("Softmax", x, axis=-1)),
    "layer norm": (lambda d: [TensorType(d, shape) for shape in ((4096, 768), (768,), (768,))], _norm),
    "one long row": (lambda d: [TensorType(d, shape) for shape in ((1, 8192), (8192,), (8192,))], _norm),
    "group norm": (lambda d: [TensorType(d, shape) for shape in ((2, 320, 64, 64), (320,), (320,))], _groups),
    "transpose": (lambda d: [TensorType(d, (8, 512, 768))], lambda b, x: b.op("Transpose", x, perm=[0, 2, 1])),
    "heads": (lambda d: [TensorType(d, (8, 512, 12, 64))], lambda b, x: b.op("Transpose", x, perm=[0, 2, 1, 3])),
    "pixels last": (lambda d: [TensorType(d, (8, 256, 56, 56))], lambda b, x: b.op("Transpose", x, perm=[0, 2, 3, 1])),
    "concat": (
        lambda d: [TensorType(d, (8, 64, 56, 56)), TensorType(d, (8, 128, 56, 56))],
        lambda b, *x: b.op("Concat", *x, axis=1),
    ),
    "columns": (
        lambda d: [TensorType(d, (4096, 4096))],
        lambda b, x: b.op("ReduceSum", x, b.constant(ints(0)), keepdims=0),
    ),
    "embedding": (
        lambda d: [TensorType(d, (30522, 768)), TensorType(dtypes.INT64, (8, 512))],
        lambda b, x, i: b.op("Gather", x, i, axis=0),
    ),
}

FAST = ("layer norm", HALF, "sm_90")
SLOW = [(name, dtype, architecture) for name in CASES for dtype, architecture in ((HALF, "sm_80"), (SINGLE, "sm_90"))]


@pytest.mark.parametrize(
    ("name", "dtype", "architecture"), [FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_memory_is_moved_in_vectors(name: str, dtype: DType, architecture: str) -> None:
    types, make = CASES[name]
    target = GPUS[architecture]
    kernel = templates.lower(body(types(dtype), make), target, frozenset(), {})
    found: dict[str, int] = {}
    for launch in compilation_of(kernel).launches:
        compiled = compile_function(launch.function, target)
        assert compiled.stack == 0, "registers are spilled"
        for instruction, count in instructions(compiled.cubin).items():
            found[instruction] = found.get(instruction, 0) + count
    assert found.get("LDG.E.128", 0) > 0, "loads are narrower than 16 bytes"
    assert found.get("STG.E.128", 0) > 0 or name == "columns", "stores are narrower than 16 bytes"


def _functions(dtype: DType) -> list[str]:
    every = [
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Tanh",
        "Sigmoid",
        "Erf",
        "Floor",
        "Ceil",
        "Round",
        "Abs",
        "Sign",
        "Neg",
    ]
    return every if dtype.bits <= 16 else [*every, "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [HALF, dtypes.BFLOAT16, SINGLE, dtypes.FLOAT64], ids=str)
def test_functions_of_every_float_compile(dtype: DType) -> None:
    x = np.ones(300, dtype.numpy)

    def make(b: Any, x: Any) -> list[Any]:
        made = [b.op(name, x) for name in _functions(dtype)]
        pairs = [b.op(name, x, made[0]) for name in ("Div", "Pow", "Max", "Less")]
        return [*made, *pairs, b.op("Mod", x, made[1], fmod=1)]

    kernel = templates.lower(body([x], make, opset=24), GPUS["sm_80"], frozenset(), {})
    for launch in compilation_of(kernel).launches:
        assert compile_function(launch.function, GPUS["sm_80"]).cubin[:4] == b"\x7fELF"
