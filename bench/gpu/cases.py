"""What is timed: single kernels as models of one region, and the whole models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.inference import infer_graph

Group: TypeAlias = Literal["matmul", "attention", "conv", "memory"]
Make: TypeAlias = Callable[..., Value]

_TYPES = {"fp16": dtypes.FLOAT16, "bf16": dtypes.BFLOAT16, "fp32": dtypes.FLOAT32}


@dataclass(frozen=True)
class Case:
    """One kernel.

    Args:
        name: Of it.
        group: Whose figures it belongs to.
        precision: Element type.
        shapes: Of the inputs.
        make: Adds its nodes to a builder, given the inputs; answers the output.
        flops: Operations; 0 where memory is what counts.
        constants: Shapes of the arrays that `make` takes after the inputs; they become weights.
    """

    name: str
    group: Group
    precision: str
    shapes: tuple[tuple[int, ...], ...]
    make: Make
    flops: float = 0.0
    constants: tuple[tuple[int, ...], ...] = ()

    @property
    def dtype(self) -> DType:
        """Element type of inputs, constants and output."""
        return _TYPES[self.precision]

    def graph(self) -> Graph:
        """The kernel as a graph."""
        graph = Graph(self.name, opset=23)
        builder = Builder(graph)
        values = [graph.add_input(f"x{n}", TensorType(self.dtype, shape)) for n, shape in enumerate(self.shapes)]
        arrays = [builder.constant(array) for array in self.arrays(self.constants, seed=1)]
        graph.outputs = [self.make(builder, *values, *arrays)]
        infer_graph(graph)
        return graph

    def inputs(self) -> dict[str, np.ndarray[Any, Any]]:
        """Seeded inputs by name."""
        return {f"x{number}": array for number, array in enumerate(self.arrays(self.shapes, seed=0))}

    def arrays(self, shapes: tuple[tuple[int, ...], ...], seed: int) -> Iterator[np.ndarray[Any, Any]]:
        """Arrays whose products stay in range."""
        generator = np.random.default_rng(seed)
        for shape in shapes:
            scale = 1 / math.sqrt(math.prod(shape[1:])) if self.group == "conv" and len(shape) == 4 and seed else 1.0
            yield (generator.standard_normal(shape, np.float32) * np.float32(scale)).astype(self.dtype.numpy)

    @property
    def bytes(self) -> float:
        """Read and written if everything moved once."""
        shapes = [*self.shapes, *self.constants, self.graph().outputs[0].tensor_type.static_shape]
        return float(sum(math.prod(shape) for shape in shapes) * self.dtype.itemsize)


@dataclass(frozen=True)
class Model:
    """A whole model.

    Args:
        name: Of it, with its batch.
        entry: Name in the zoo.
        dims: What to bind beside the entry's own.
    """

    name: str
    entry: str
    dims: Mapping[str, int] = field(default_factory=dict)


def matmul(m: int, n: int, k: int, precision: str = "fp16", batch: int = 0, epilogue: str = "") -> Case:
    """A product; `epilogue` is `bias`, `gelu` (bias and gelu) or `residual` (bias and a sum)."""

    def make(b: Builder, x: Value, y: Value, *more: Value) -> Value:
        made = b.op("MatMul", x, y)
        for value in more[:1]:
            made = b.op("Add", made, value)
        if epilogue == "gelu":
            return b.op("Gelu", made, approximate="tanh")
        return b.op("Add", made, more[1]) if epilogue == "residual" else made

    front = (batch,) if batch else ()
    shapes = [(*front, m, k), (*front, k, n)]
    shapes += [(n,)] if epilogue else []
    shapes += [(m, n)] if epilogue == "residual" else []
    name = f"{'x'.join(map(str, (*front, m, n, k)))}{f' {epilogue}' if epilogue else ''}"
    return Case(f"matmul {name}", "matmul", precision, tuple(shapes), make, 2.0 * max(batch, 1) * m * n * k)


def attention(
    batch: int, heads: int, queries: int, keys: int, size: int, precision: str = "fp16", *, causal: bool = False
) -> Case:
    """softmax(q k / sqrt(size)) v."""

    def make(b: Builder, q: Value, k: Value, v: Value, *masks: Value) -> Value:
        scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = b.op("Mul", scores, b.constant(np.array(1 / math.sqrt(size), dtype=q.tensor_type.dtype.numpy)))
        if causal:
            seen = np.triu(np.full((queries, keys), -np.inf, np.float32), 1).astype(q.tensor_type.dtype.numpy)
            scores = b.op("Add", scores, b.constant(seen))
        return b.op("MatMul", b.op("Softmax", scores, axis=-1), v)

    shapes = ((batch, heads, queries, size), (batch, heads, keys, size), (batch, heads, keys, size))
    name = f"attention {batch}x{heads}x{queries}x{keys}x{size}{' causal' if causal else ''}"
    flops = 4.0 * batch * heads * queries * keys * size / (2 if causal else 1)
    return Case(name, "attention", precision, shapes, make, flops)


def conv(
    batch: int, channels: int, extent: int, filters: int, size: int, stride: int = 1, group: int = 1, act: str = "Relu"
) -> Case:
    """A convolution of square images with a bias and an activation."""

    def make(b: Builder, x: Value, weights: Value, bias: Value) -> Value:
        pad = size // 2
        made = b.op("Conv", x, weights, bias, strides=[stride] * 2, pads=[pad] * 4, group=group)
        return b.op(act, made)

    out = (extent + 2 * (size // 2) - size) // stride + 1
    flops = 2.0 * batch * out * out * filters * (channels // group) * size * size
    grouped = f" of {group} groups" if group > 1 else ""
    name = f"conv {batch}x{channels}x{extent}x{extent} to {filters}, {size}x{size}/{stride}{grouped}"
    weights = (filters, channels // group, size, size)
    return Case(name, "conv", "fp16", ((batch, channels, extent, extent),), make, flops, (weights, (filters,)))


def memory(name: str, make: Make, *shapes: tuple[int, ...], precision: str = "fp16") -> Case:
    """A kernel that memory bounds."""
    return Case(name, "memory", precision, shapes, make)


def _softmax(b: Builder, x: Value) -> Value:
    return b.op("Softmax", x, axis=-1)


def _layer_norm(b: Builder, x: Value, scale: Value, bias: Value) -> Value:
    return b.op("LayerNormalization", x, scale, bias, axis=-1)


def _added_norm(b: Builder, x: Value, y: Value, scale: Value, bias: Value) -> Value:
    return b.op("LayerNormalization", b.op("Add", x, y), scale, bias, axis=-1)


def _rows(width: int) -> tuple[tuple[int, ...], ...]:
    return ((1 << 25) // width, width), (width,), (width,)


_LARGE = ((1 << 25),)

KERNELS: tuple[Case, ...] = (
    *(matmul(size, size, size) for size in (1024, 2048, 4096, 8192)),
    *(matmul(size, size, size, epilogue=kind) for size in (2048, 4096) for kind in ("gelu", "residual")),
    matmul(4096, 4096, 4096, "bf16"),
    matmul(2048, 2048, 2048, "fp32"),
    *(matmul(128, n, k, epilogue="bias") for n, k in ((768, 768), (3072, 768), (768, 3072))),
    *(matmul(m, 4096, 4096) for m in (1, 16, 256)),
    matmul(512, 512, 64, batch=96),
    attention(1, 12, 128, 128, 64),
    attention(8, 12, 512, 512, 64),
    attention(4, 16, 2048, 2048, 64),
    attention(2, 16, 4096, 4096, 128),
    attention(4, 16, 2048, 2048, 64, causal=True),
    attention(8, 12, 1, 2048, 64),
    *(
        conv(batch, *shape)
        for batch in (1, 32)
        for shape in (
            (64, 56, 64, 3),
            (128, 28, 128, 3),
            (256, 14, 256, 3),
            (512, 7, 512, 3),
            (256, 56, 64, 1),
            (1024, 14, 256, 1),
            (256, 56, 512, 1, 2),
        )
    ),
    conv(32, 3, 224, 64, 7, 2),
    conv(32, 144, 56, 144, 3, 1, 144),
    conv(32, 64, 56, 64, 3, 1, 4),
    memory("copy", lambda b, x: b.op("Neg", x), _LARGE),
    memory("add", lambda b, x, y: b.op("Add", x, y), _LARGE, _LARGE),
    memory("gelu", lambda b, x: b.op("Gelu", x, approximate="tanh"), _LARGE),
    memory("cast", lambda b, x: b.op("Cast", b.op("Relu", x), to=10), _LARGE, precision="fp32"),
    *(memory(f"softmax of {n}", _softmax, ((1 << 25) // n, n)) for n in (128, 1024, 8192, 65536)),
    *(memory(f"layer norm of {n}", _layer_norm, *_rows(n)) for n in (768, 4096)),
    memory("sum and layer norm of 768", _added_norm, _rows(768)[0], *_rows(768)),
    memory("transpose", lambda b, x: b.op("Transpose", x, perm=[1, 0]), (4096, 8192)),
    memory("sum of rows", lambda b, x: b.op("ReduceSum", x, b.constant(np.array([1])), keepdims=0), (8192, 4096)),
    memory("sum of columns", lambda b, x: b.op("ReduceSum", x, b.constant(np.array([0])), keepdims=0), (8192, 4096)),
)
"""In the order of their weight: a run that has no time for all does the first."""

MODELS: tuple[Model, ...] = (
    *(Model(f"resnet50 batch {n}", "resnet50_dynb", {"batch": n}) for n in (1, 32, 8)),
    Model("bert-base", "bert_base_s128"),
    Model("vit-b16", "vit_b16"),
    Model("gpt2 prefill", "gpt2_s128"),
    Model("gpt2 decode", "gpt2_kv"),
    Model("minilm", "minilm_l6_s128"),
    Model("mobilenetv2", "mobilenetv2"),
)
"""Likewise. Exports of one fixed batch run at that."""
