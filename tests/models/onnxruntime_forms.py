"""What ONNX Runtime's own tools make of a model: its optimizer, and its quantizers in all their formats."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from graphc.frontend import import_model
from graphc.ops.evaluate import captured_inputs, evaluate_node

Feeds = Mapping[str, Any]
LEVELS = onnxruntime.GraphOptimizationLevel


def run(
    model: str | bytes, feeds: Feeds, level: Any = LEVELS.ORT_DISABLE_ALL, save: Path | None = None
) -> dict[str, Any]:
    """Outputs by ONNX Runtime at a level of its optimizer, which may save what it ran."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    options.intra_op_num_threads = 2
    if save is not None:
        options.optimized_model_filepath = str(save)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Sequence[Feeds]) -> None:
        self._left = iter(samples)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def _static(**options: Any) -> Callable[[Path, Path, Sequence[Feeds]], None]:
    def quantize(source: Path, target: Path, samples: Sequence[Feeds]) -> None:
        quantize_static(source, target, _Reader(samples), **options)

    return quantize


def _dynamic(source: Path, target: Path, samples: Sequence[Feeds]) -> None:
    quantize_dynamic(source, target)


QUANTIZED: Mapping[str, Callable[[Path, Path, Sequence[Feeds]], None]] = {
    "dynamic": _dynamic,
    "qdq": _static(quant_format=QuantFormat.QDQ, per_channel=True),
    "qdq of bytes": _static(
        quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    ),
    "operators": _static(quant_format=QuantFormat.QOperator),
}
"""Writes a quantized model: from, to, and inputs to calibrate with."""


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def quantized(form: str, source: Path, folder: Path, samples: Sequence[Feeds]) -> Path:
    """The quantized form of a model, in `folder`."""
    prepared, target = folder / "prepared.onnx", folder / "quantized.onnx"
    with _quiet():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        QUANTIZED[form](prepared, target, samples)
    return target


def assert_nodes_mean_what_onnxruntime_computes(model: Path, feeds: Feeds, dims: Any = None) -> int:
    """Each node beside ONNX Runtime's unoptimized kernel, on what that had for its inputs.

    Quantized elements may fall on the other side of a half: by one, and hardly any.

    Returns:
        How many values were compared.
    """
    proto = onnx.load(model)
    known = {output.name for output in proto.graph.output}
    made = [name for node in proto.graph.node for name in node.output if name and name not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    theirs = {**run(proto.SerializeToString(), feeds), **feeds}
    compared = 0
    values: dict[Any, Any] = {}
    graph = import_model(model, dims=dims)
    values.update((value, feeds[value.name]) for value in graph.inputs)
    for node in graph.nodes:
        operands = [*node.inputs, *captured_inputs(node)]
        data = [None if v is None else v.constant.array() if v.constant is not None else values[v] for v in operands]
        for value, found in zip(node.outputs, evaluate_node(node, data), strict=False):
            values[value] = theirs.get(value.name, found)
            if value.name not in theirs or not isinstance(found, np.ndarray):
                continue
            wanted = theirs[value.name]
            assert found.dtype == wanted.dtype and found.shape == wanted.shape, value.name
            difference = np.abs(found.astype(np.float64) - wanted)
            if wanted.dtype.kind in "iu":
                # Sums of two lattices lie by a half again and again, and its own operators round in their own order.
                few = difference.size if node.domain else 1 + difference.size // 1000
                assert difference.max(initial=0) <= 1 and np.count_nonzero(difference) <= few, node
            else:
                assert difference.max(initial=0) <= 1e-5 * np.abs(wanted).max(initial=0) + 1e-30, node
            compared += 1
    return compared
