"""One random model on every backend, each held against what NumPy says the model means."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphc.errors import OptionError, UnsupportedError
from graphc.frontend import read_model
from graphc.ir import Graph, Value
from graphc.ops.base import Array
from graphc.ops.evaluate import evaluate_graph
from graphc.passes import PipelineReport, default_pipeline, run_passes
from graphc.passes.base import PassContext
from graphc.passes.dce import DeadCodeElimination
from graphc.target import GPUS
from graphc.testing.fuzzing.models import ModelTask, node_dtype, random_model
from graphc.testing.fuzzing.wishes import Wish, rules
from graphc.testing.oracle import DifferenceError, compare_arrays, graph_tolerance

if TYPE_CHECKING:
    from graphc.compiler.options import DimChoice

BACKENDS = ("cpu", "reference", "onnxruntime")
"""Kernels for this machine; the graph after all passes, of CPUs and of GPUs, in NumPy; ONNX Runtime, a second opinion
on the meaning."""
_GPU = GPUS["sm_90"]
_ROUNDINGS = 16


@dataclass(frozen=True)
class Reached:
    """What one model showed.

    Args:
        verdict: `agrees`, or why it says nothing.
        compiled: Operators with dtypes that ran in kernels.
        host: Those that ran in NumPy within the package.
        rules: How often each rule was applied.
        unheard: Backends that cannot run the model.
        kinds: What else is of interest in the model; see RandomModel.
    """

    verdict: str
    compiled: frozenset[Wish] = frozenset()
    host: frozenset[Wish] = frozenset()
    rules: Mapping[str, int] = field(default_factory=dict)
    unheard: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


def check_backends(names: Sequence[str]) -> None:
    """Refuses names of no backend.

    Raises:
        OptionError: One is unknown, or none is given.
    """
    unknown = [name for name in names if name not in BACKENDS]
    if unknown or not names:
        raise OptionError(f"unknown backend {', '.join(unknown) or '(none)'}; there are: {', '.join(BACKENDS)}")


def try_task(task: ModelTask) -> Reached:
    """Draws a task's model and tries it; for a process of its own.

    Raises:
        DifferenceError: A backend's results differ.
        GraphcError: graphc does not compile or run the model.
    """
    made = random_model(task)
    if made is None:
        return Reached("not smooth")
    reached = try_model(made.proto, made.feeds, task.backends)
    # The importer reads some operators as others: a Scan as a Loop.
    renamed = {wish for wish in made.fulfilled if wish.kind == "operator"} - reached.compiled - reached.host
    where = "host" if reached.host else "compiled"
    return replace(reached, **{where: getattr(reached, where) | renamed}, kinds=made.kinds)


def try_model(
    proto: onnx.ModelProto, feeds: Mapping[str, Array], backends: Sequence[str] = ("cpu", "reference")
) -> Reached:
    """Runs a model on each backend and compares results with those of the imported graph in NumPy.

    Args:
        proto: The model.
        feeds: Its inputs by name.
        backends: Some of `BACKENDS`.

    Raises:
        DifferenceError: A backend's results differ; names the backend, and whether ONNX Runtime agrees with NumPy.
        GraphcError: graphc does not compile or run the model.
    """
    from graphc.compiler import CompileOptions, default_cache, lower_model

    source = read_model(proto).graph
    judge = _Judge(source, [feeds[value.name] for value in source.inputs], proto)
    options = CompileOptions(cache=default_cache(), verify=True)
    extents = _open_extents(proto, feeds)
    ranges: dict[str, DimChoice] = {name: range(1, 2 * extent + 1) for name, extent in extents.items()}
    lowered = lower_model(proto, dims=ranges, options=options)
    if not lowered.programs:
        # No one variant is for all of these shapes.
        lowered = lower_model(proto, dims=extents, options=options)
    if not lowered.programs:
        return Reached("dimensions or values left open")
    unheard = []
    fired: Counter[str] = Counter()
    for backend in backends:
        if backend == "reference":
            judge.hold(backend, _named(source.outputs, evaluate_graph(lowered.programs[0].graph.clone(), judge.inputs)))
            turned, rewrites = _through_gpu_passes(source)
            fired.update(rewrites)
            judge.hold(f"{backend}, passes for GPUs", _named(source.outputs, evaluate_graph(turned, judge.inputs)))
        elif backend == "cpu":
            judge.hold(backend, _run_package(lowered, options, feeds))
        elif (found := judge.onnxruntime()) is None:
            unheard.append(backend)
        else:
            judge.hold(backend, found)
    hosted: set[str] = set()
    for program in lowered.programs:
        fired.update(_rewrites(program.report))
        hosted.update(origin for host in program.host for origin in host.node.origins)
    compiled: set[Wish] = set()
    host: set[Wish] = set()
    for inner in _needed(source).all_graphs():
        for node in inner.nodes:
            if dtype := node_dtype(node):
                cells = host if hosted & set(node.origins) else compiled
                cells.add(Wish("operator", node.domain, node.op_type, dtype))
    return Reached("agrees", frozenset(compiled), frozenset(host), dict(fired), tuple(unheard))


def _rewrites(report: PipelineReport) -> Counter[str]:
    """How often the passes of a pipeline applied each rule."""
    fired: Counter[str] = Counter()
    for run in report.runs:
        fired.update({name: count for name, count in run.rewrites.items() if name in rules()})
    return fired


def _through_gpu_passes(source: Graph) -> tuple[Graph, Counter[str]]:
    """A graph behind the passes for a GPU, some of whose rules those for CPUs lack; no kernel is made."""
    graph = source.clone()
    return graph, _rewrites(run_passes(graph, default_pipeline("O2", "cuda"), PassContext(target=_GPU)))


def _open_extents(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """What the inputs given have where the model leaves extents open."""
    return {
        dim.dim_param: extent
        for info in proto.graph.input
        for dim, extent in zip(info.type.tensor_type.shape.dim, np.shape(feeds[info.name]), strict=False)
        if dim.dim_param
    }


def _needed(graph: Graph) -> Graph:
    """What of a graph is computed at all."""
    needed = graph.clone()
    DeadCodeElimination().run(needed, PassContext())
    return needed


def _run_package(lowered: Any, options: Any, feeds: Mapping[str, Array]) -> Mapping[str, Any]:
    from graphc.compiler import build_package
    from graphc.runtime import load

    with tempfile.TemporaryDirectory(prefix="graphc-fuzz-") as folder:
        path = Path(folder) / "model.graphc"
        build_package(lowered, path, options)
        with load(path, threads=2) as module:
            outputs: Mapping[str, Any] = module(dict(feeds))
            return {
                name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in outputs.items()
            }


def _named(values: Sequence[Value], data: Sequence[Any]) -> dict[str, Any]:
    return {value.name: datum for value, datum in zip(values, data, strict=True)}


class _Judge:
    """What a model means, and whether results are that."""

    def __init__(self, graph: Graph, inputs: list[Array], proto: onnx.ModelProto) -> None:
        self.graph, self.inputs, self.proto = graph, inputs, proto
        self.tolerance = graph_tolerance(graph)
        self.largest = 0.0
        self.expected = _named(graph.outputs, evaluate_graph(graph, list(inputs), watch=self._watch))
        self._second: dict[str, Any] | None = None
        self._asked = False

    def _watch(self, value: Value, datum: Any) -> None:
        if isinstance(datum, np.ndarray) and datum.dtype.kind == "f":
            self.largest = max(self.largest, float(np.max(np.abs(datum), initial=0.0)))

    def hold(self, backend: str, found: Mapping[str, Any]) -> None:
        """Fails where results of a backend are not what the model means."""
        try:
            self._compare(found)
        except DifferenceError as error:
            raise DifferenceError(f"{backend}: {error}; {self._opinion(backend)}\n{self.graph}") from error

    def _compare(self, found: Mapping[str, Any]) -> None:
        for name, wanted in self.expected.items():
            try:
                compare_arrays(f"output {name!r}", wanted, found[name], self.tolerance)
            except DifferenceError:
                if not self._is_rounding(wanted, found[name]):
                    raise

    def _is_rounding(self, wanted: Any, found: Any) -> bool:
        """Whether a difference is some roundings of the largest number on the way, out of which the result fell."""
        if not isinstance(wanted, np.ndarray) or found.dtype != wanted.dtype or found.shape != wanted.shape:
            return False
        if wanted.dtype.kind != "f":
            return False
        worst = float(np.max(np.abs(wanted.astype(np.float64) - found.astype(np.float64)), initial=0.0))
        return worst <= _ROUNDINGS * float(np.finfo(wanted.dtype).eps) * self.largest

    def onnxruntime(self) -> dict[str, Any] | None:
        """ONNX Runtime's results; None where it does not run the model."""
        if not self._asked:
            self._asked = True
            try:
                results = _onnxruntime(self.proto, _named(self.graph.inputs, self.inputs))
            except UnsupportedError:
                return None
            self._second = _named(self.graph.outputs, results)
        return self._second

    def _opinion(self, backend: str) -> str:
        if backend == "onnxruntime":
            return "of NumPy and ONNX Runtime one is wrong"
        second = self.onnxruntime()
        if second is None:
            return "ONNX Runtime does not run it"
        try:
            self._compare(second)
        except DifferenceError:
            return "NumPy differs from ONNX Runtime too"
        return "NumPy agrees with ONNX Runtime"


def _onnxruntime(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Any]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UnsupportedError("onnxruntime is not installed") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results: list[Any] = session.run(None, dict(feeds))
    except Exception as error:  # it raises types of its own, and what it does not run it cannot judge
        raise UnsupportedError(f"ONNX Runtime: {error}") from error
    return results
