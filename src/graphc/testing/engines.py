"""Other engines behind one interface, set up to be as fast as they can be on a CPU."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import ExecutionError, GraphcError, OptionError, ToolchainError

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Engine:
    """A model loaded in an engine, with its inputs bound.

    Args:
        name: The engine's name.
        version: The engine's version.
        load_seconds: From the model file to a session that is ready to run.
        run: One inference; returns the outputs by name.
    """

    name: str
    version: str
    load_seconds: float
    run: Callable[[], Arrays]


def onnxruntime_engine(
    model: Path | bytes, inputs: Arrays, *, threads: int, dims: Mapping[str, int] | None = None
) -> Engine:
    """The model in ONNX Runtime: all optimizations, symbolic dimensions bound, workers on processors of their own.

    `session.run` is what is timed: io-binding was seen to cost a call 120 µs more.

    Args:
        model: Path or content of an ONNX file.
        inputs: Name to array.
        threads: Threads of one call, the caller's included.
        dims: Symbolic dimensions and their extents.

    Raises:
        ToolchainError: onnxruntime is not installed.
    """
    onnxruntime = _require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    processors = sorted(os.sched_getaffinity(0))
    if 1 < threads <= len(processors):
        # One entry for each worker (the caller is not one), counted from 1. `compare` pins the caller to the first.
        workers = ";".join(str(processor + 1) for processor in processors[1:threads])
        options.add_session_config_entry("session.intra_op_thread_affinities", workers)
    for name, extent in (dims or {}).items():
        options.add_free_dimension_override_by_name(name, extent)
    source = model if isinstance(model, bytes) else str(model)
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter() - start
    names = [output.name for output in session.get_outputs()]
    feeds = dict(inputs)

    def run() -> Arrays:
        return dict(zip(names, session.run(names, feeds), strict=True))

    return Engine("onnxruntime", str(onnxruntime.__version__), loaded, run)


def openvino_engine(
    model: Path | bytes, inputs: Arrays, *, threads: int, dims: Mapping[str, int] | None = None
) -> Engine:
    """The model in OpenVINO: latency mode, fp32 arithmetic, shapes fixed to those of the inputs.

    Args:
        model: Path or content of an ONNX file.
        inputs: Name to array.
        threads: Threads of one call.
        dims: Not needed: the inputs' shapes say as much.

    Raises:
        ToolchainError: openvino is not installed.
    """
    del dims
    openvino = _require("openvino")
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    start = time.perf_counter()
    network = core.read_model(model if isinstance(model, bytes) else str(model))
    network.reshape({name: list(value.shape) for name, value in inputs.items()})
    compiled = core.compile_model(network, "CPU", options)
    request = compiled.create_infer_request()
    loaded = time.perf_counter() - start
    names = [output.get_any_name() for output in network.outputs]
    feeds = dict(inputs)

    def run() -> Arrays:
        results = request.infer(feeds, share_inputs=True, share_outputs=True)
        return {name: results[index] for index, name in enumerate(names)}

    return Engine("openvino", str(openvino.__version__), loaded, run)


def torch_engine(model: Path | bytes, inputs: Arrays, *, threads: int, dims: Mapping[str, int] | None = None) -> Engine:
    """The model in PyTorch: converted by onnx2torch, then `torch.compile(mode="max-autotune-no-cudagraphs")`.

    Compiling is part of loading, as it is for the other peers.

    Args:
        model: Path or content of an ONNX file.
        inputs: Name to array, in the order of the model's inputs.
        threads: Threads of one call.
        dims: Not needed: what the inputs are is what is compiled for.

    Raises:
        ToolchainError: torch or onnx2torch is not installed; graphc's extras install neither.
    """
    del dims
    torch, onnx2torch, onnx = _require("torch"), _require("onnx2torch"), _require("onnx")
    torch.set_num_threads(threads)
    start = time.perf_counter()
    loaded_model = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
    names = [output.name for output in loaded_model.graph.output]
    module = torch.compile(onnx2torch.convert(loaded_model).eval(), mode="max-autotune-no-cudagraphs")
    feeds = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()]

    def run() -> Arrays:
        with torch.inference_mode():
            results = module(*feeds)
        tensors = results if isinstance(results, list | tuple) else [results]
        return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}

    run()
    return Engine("torch", str(torch.__version__), time.perf_counter() - start, run)


PEERS: Mapping[str, Callable[..., Engine]] = {
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
    "torch": torch_engine,
}


def peer(name: str, model: Path | bytes, inputs: Arrays, *, threads: int, dims: Mapping[str, int]) -> Engine:
    """The model in the engine of that name.

    Raises:
        OptionError: There is no such engine.
        ToolchainError: It is not installed.
        ExecutionError: It cannot load the model or run it on these inputs.
    """
    if name not in PEERS:
        raise OptionError(f"no engine {name!r} to compare with", hint=f"there are: {', '.join(PEERS)}")
    try:
        engine = PEERS[name](model, inputs, threads=threads, dims=dims)
        engine.run()
    except GraphcError:
        raise
    except Exception as error:
        # Engines raise what they like; which one failed, and on what, is all that a user of graphc can act on.
        raise ExecutionError(f"{name} cannot run the model: {error}") from error
    return engine


def scaled_error(expected: Arrays, actual: Arrays) -> float:
    """The largest difference over all outputs, each over the largest finite magnitude of its expected values.

    Integers, booleans and strings must be equal, NaN must meet NaN, and infinities must agree; where they do not, or
    an output is missing or of another shape, the error is infinite.
    """
    worst = 0.0
    for name, want in expected.items():
        got = actual.get(name)
        if got is None or got.shape != want.shape:
            return float("inf")
        worst = max(worst, _scaled_error(want, got))
    return worst


def _scaled_error(want: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    if want.dtype.kind not in "fc":
        return 0.0 if np.array_equal(want, got) else float("inf")
    finite = np.isfinite(want)
    if not np.array_equal(want[~finite], got[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    want, got = want[finite].astype(np.float64), got[finite].astype(np.float64)
    difference, scale = float(np.abs(want - got).max()), float(np.abs(want).max())
    return difference / scale if scale else difference


def _require(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ToolchainError(f"{module} is not installed", hint=f"pip install {module}") from error
