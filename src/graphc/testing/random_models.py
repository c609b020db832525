"""Random ONNX models of a hundred operators, compiled for this machine and held against ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphc.errors import UnsupportedError
from graphc.frontend.exporter import export_model
from graphc.frontend.schema import signature
from graphc.ir import DType, Graph, Value, dtypes
from graphc.ops.base import Array
from graphc.ops.evaluate import evaluate_graph
from graphc.passes.base import PassContext
from graphc.passes.dce import DeadCodeElimination
from graphc.testing.choosing import SeedChooser
from graphc.testing.hostile.campaign import Campaign, Finding
from graphc.testing.hostile.campaign import signature as failure_of
from graphc.testing.isolation import Isolation
from graphc.testing.oracle import DifferenceError, calm_inputs, compare_arrays, graph_tolerance
from graphc.testing.random_graphs import GraphOptions, random_graph
from graphc.testing.wide_samples import WIDE_SAMPLERS

OLDEST_OPSET = 13
SECONDS = 60.0
_ROUNDINGS = 16
_OTHERS = (dtypes.FLOAT64, dtypes.INT64, dtypes.INT32, dtypes.BOOL, dtypes.UINT8)
_KINDS: tuple[DType, ...] = (*[dtypes.FLOAT32] * 4, *_OTHERS)
"""Dtypes of inputs; most are float32, as in models."""


@dataclass(frozen=True)
class RandomModel:
    """A model with inputs at which it is finite and smooth.

    Args:
        graph: What it computes.
        proto: The model, at some operator set from `OLDEST_OPSET` on.
        inputs: One array for each input.
    """

    graph: Graph
    proto: onnx.ModelProto
    inputs: list[Array]


@dataclass(frozen=True)
class ModelTask:
    """A random model to try.

    Args:
        seed: Of the model.
        max_nodes: Most nodes, constants not counted.
        cut: Number of the node whose outputs are to be the model's; the model as it is if None.
    """

    seed: int
    max_nodes: int = 15
    cut: int | None = None


def random_model(task: ModelTask) -> RandomModel | None:
    """The model of a seed; None where no inputs suit it, or it has no such node."""
    choose = SeedChooser(task.seed)
    options = GraphOptions(task.max_nodes, samplers=WIDE_SAMPLERS, kinds=_KINDS, ranks=(0, 5))
    graph = random_graph(choose, options)
    if task.cut is not None:
        nodes = [node for node in graph.nodes if not node.is_op("Constant")]
        if task.cut >= len(nodes):
            return None
        graph.outputs = [value for value in nodes[task.cut].outputs if value.name]
        DeadCodeElimination().run(graph, PassContext())
    inputs = calm_inputs(graph, task.seed)
    if inputs is None:
        return None
    proto = export_model(graph)
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = choose.integer(_oldest(proto, entry.version), entry.version)
    return RandomModel(graph, proto, inputs)


def _oldest(proto: onnx.ModelProto, newest: int) -> int:
    """The oldest operator set at which the model's nodes mean what they mean at the newest."""
    since = [OLDEST_OPSET]
    for node in proto.graph.node:
        found = signature(node.domain, node.op_type, newest)
        since.append(found.since if found is not None else newest)
    return max(since)


def compare_model(task: ModelTask) -> str:
    """Runs a model on graphc and on ONNX Runtime, for a process of its own; answers `agrees`, or why it says nothing.

    Raises:
        DifferenceError: The results differ.
        GraphcError: graphc does not compile or run the model.
    """
    import graphc

    made = random_model(task)
    if made is None:
        return "not smooth"
    try:
        expected = _onnxruntime(made)
    except UnsupportedError:
        return "ONNX Runtime has no kernel"
    tolerance = graph_tolerance(made.graph)
    with graphc.compile(made.proto, target="cpu", verify=True, threads=2) as module:
        found = module(made.inputs)
    for value, wanted in zip(made.graph.outputs, expected, strict=True):
        try:
            compare_arrays(f"output {value.name!r}", wanted, found[value.name], tolerance)
        except DifferenceError as error:
            if _is_rounding(made, wanted, found[value.name]):
                continue
            raise DifferenceError(f"{error}; {_second_opinion(made, expected, tolerance)}\n{made.graph}") from error
    return "agrees"


def _onnxruntime(made: RandomModel) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        content = made.proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feeds = {value.name: array for value, array in zip(made.graph.inputs, made.inputs, strict=True)}
        results: list[Any] = session.run(None, feeds)
    except Exception as error:  # it raises types of its own, and what it does not run it cannot judge
        raise UnsupportedError(f"ONNX Runtime: {error}") from error
    return results


def _is_rounding(made: RandomModel, wanted: Array, found: Array) -> bool:
    """Whether a difference is within some roundings of the largest number on the way, out of which the result fell."""
    if wanted.dtype.kind != "f" or found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    largest = 0.0

    def watch(value: Value, datum: Any) -> None:
        nonlocal largest
        if isinstance(datum, np.ndarray) and datum.dtype.kind == "f":
            largest = max(largest, float(np.max(np.abs(datum), initial=0.0)))

    evaluate_graph(made.graph, made.inputs, watch=watch)
    worst = float(np.max(np.abs(wanted.astype(np.float64) - found.astype(np.float64)), initial=0.0))
    return worst <= _ROUNDINGS * float(np.finfo(wanted.dtype).eps) * largest


def _second_opinion(made: RandomModel, expected: list[Any], tolerance: float) -> str:
    try:
        results = evaluate_graph(made.graph, made.inputs)
        for value, wanted, got in zip(made.graph.outputs, expected, results, strict=True):
            compare_arrays(value.name, wanted, got, tolerance)
    except DifferenceError:
        return "NumPy differs from ONNX Runtime too"
    return "NumPy agrees with ONNX Runtime"


def fuzz_models(
    *,
    seed: int = 0,
    seconds: float | None = None,
    count: int | None = None,
    max_nodes: int = 15,
    workers: int = 2,
    keep: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Campaign:
    """Tries random models.

    Args:
        seed: Of the first; the next ones count up.
        seconds: How long to go on; as long as `count` says if None.
        count: How many to try; no limit if None.
        max_nodes: Most nodes of a model.
        workers: Processes at once.
        keep: Folder for models on which the two differ, cut down to the first node that does.
        progress: Told how far the work is.
    """
    campaign = Campaign()
    start = time.monotonic()

    def tasks() -> Iterator[tuple[int, ModelTask]]:
        number = seed
        while (count is None or number < seed + count) and (seconds is None or time.monotonic() < start + seconds):
            yield number, ModelTask(number, max_nodes)
            number += 1

    with Isolation(compare_model, workers, SECONDS) as pool, Isolation(compare_model, 1, SECONDS) as lens:
        for number, outcome in pool.run(tasks()):
            campaign.outcomes[outcome.value if outcome.status == "done" else outcome.status] += 1
            if count is not None:
                progress("trying models", campaign.tried, count)
            elif seconds is not None:
                progress("trying models", min(int(time.monotonic() - start), int(seconds)), int(seconds))
            if outcome.status == "done":
                continue
            kind = failure_of(outcome)
            least = ModelTask(number, max_nodes)
            cuts = ((cut, ModelTask(number, max_nodes, cut)) for cut in range(max_nodes))
            for cut, found in lens.run(cuts):
                if found.status != "done" and failure_of(found) == kind:
                    least, outcome = ModelTask(number, max_nodes, cut), found
                    break
            finding = Finding(_content(least), outcome.status, outcome.detail, number)
            campaign.findings.append(finding)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / finding.file_name).write_bytes(finding.model)
    return campaign


def _content(task: ModelTask) -> bytes:
    made = random_model(task)
    data: bytes = b"" if made is None else made.proto.SerializeToString()
    return data
