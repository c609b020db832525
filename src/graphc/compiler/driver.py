"""`graphc.compile`: an ONNX model in, a package and its executable out."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc.compiler.assembly import input_symbols, write
from graphc.compiler.auto_batch import Chosen, choose_batches, keep_calibration
from graphc.compiler.batching import batch_axes
from graphc.compiler.open_program import build_open
from graphc.compiler.options import CompileOptions, DimChoice, expand_dims, without_ranges
from graphc.compiler.plugins import load_plugins
from graphc.compiler.program import Program, build_program
from graphc.compiler.targets import Backends, backends_for, targets_of, versions
from graphc.compiler.values import Array, bind_values, expand_values, shapes_of
from graphc.errors import BackendError, OptionError, PackageError, UnsupportedError
from graphc.frontend import Imported, bind_dims, export_model, read_model
from graphc.frontend.exporter import constant_bytes
from graphc.frontend.source import ModelSource
from graphc.ir import Graph, Node, TensorType
from graphc.ops import find
from graphc.ops.parameter_inputs import parameter_inputs
from graphc.package import BatchAxes, Manifest
from graphc.passes.precision import narrow_borders
from graphc.runtime import Executable, load
from graphc.runtime.folders import cache_folder
from graphc.target import AnyTarget

EMBEDDED_LIMIT = 2_000_000_000
"""Bytes of weights above which a model is no single protobuf message."""

_SHOWN_NODES = 8
"""Nodes that an error names at most."""


def compile(
    model: ModelSource,
    *,
    target: str = "cpu",
    dims: Mapping[str, DimChoice] | None = None,
    values: Mapping[str, Any] | None = None,
    passes: str | None = None,
    output: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    **options: Any,
) -> Executable:
    """Compiles an ONNX model and loads the result.

    Args:
        model: Path of the model, its bytes, or a ModelProto.
        target: One or more targets, joined by commas: `cpu` is this machine, `cuda` its GPU; see `graphc devices`.
        dims: Extents of symbolic dimensions: `{"batch": 8}`, `{"batch": [1, 8]}` for a variant each, or a whole shape
            by input name, `{"x": [1, 3, 224, 224]}`. `{"batch": "auto"}` measures which batch sizes are worth having on
            this machine. Where some are left out, each shape is compiled when it first comes, and kept in the cache.
        values: What inputs always are, by name: `{"axes": [1], "k": 3}`, a list of values for a variant each. Inputs
            whose values decide shapes are parameters: where they are left out, a variant is compiled for each value
            when it first comes, up to `specializations` of them.
        passes: A pipeline as text, in place of the optimization level's.
        output: Where to keep the package; it lives only as long as the executable if None.
        threads: Threads of the executable; all cores of this process if None.
        options: Fields of `CompileOptions`: `level`, `winograd`, `require_compiled`, `embed_model`,
            `specializations`...

    Returns:
        The executable: `outputs = model(inputs)`.

    Raises:
        ModelError: The model is not valid.
        OptionError: An option, a target, a dimension or a value is unknown or out of range.
        UnsupportedError: The model has an operator that graphc cannot run.
        ToolchainError: What the targets' backends need (TVM and a linker; Triton), or onnx, is not installed.
    """
    known = {field.name for field in dataclasses.fields(CompileOptions)}
    for name in options:
        if name not in known:
            raise OptionError(f"unknown compile option {name!r}; known: {', '.join(sorted(known))}")
    chosen = CompileOptions(**{"passes": passes, "cache": cache_folder(), **options})
    if output is not None:
        compile_package(model, output, target=target, dims=dims, values=values, options=chosen)
        return load(output, threads=threads)
    with tempfile.TemporaryDirectory(prefix="graphc-") as folder:
        path = Path(folder) / "model.graphc"
        compile_package(model, path, target=target, dims=dims, values=values, options=chosen)
        return load(path, threads=threads)


def compile_package(
    model: ModelSource,
    output: str | os.PathLike[str],
    *,
    target: str = "cpu",
    dims: Mapping[str, DimChoice] | None = None,
    values: Mapping[str, Any] | None = None,
    options: CompileOptions | None = None,
) -> tuple[Manifest, list[Program]]:
    """Compiles an ONNX model into a package; answers what was written and the programs behind it.

    Raises:
        As `compile`.
    """
    options = options or CompileOptions(cache=cache_folder())
    _check_output(Path(output))
    chosen = settle_auto(model, target=target, dims=dims, values=values, options=options)
    lowered = lower_model(model, target=target, dims=chosen.dims, values=values, options=options)
    manifest = build_package(lowered, output, options)
    keep_calibration(Path(output), chosen)
    return manifest, lowered.programs


def settle_auto(
    model: ModelSource,
    *,
    target: str = "cpu",
    dims: Mapping[str, DimChoice] | None = None,
    values: Mapping[str, Any] | None = None,
    options: CompileOptions,
) -> Chosen:
    """The dimensions, with batch sizes measured here where one of them is `auto`.

    Raises:
        As `compile`.
    """

    def compile_to(path: Path, candidates: Mapping[str, DimChoice]) -> Manifest:
        return build_package(
            lower_model(model, target=target, dims=candidates, values=values, options=options), path, options
        )

    return choose_batches(dims, compile_to)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A model on its way, before any kernel is compiled.

    Args:
        imported: The model as read.
        targets: What it is lowered for.
        backends: What lowered it, by kind of target.
        programs: One for each binding of dimensions and values and each target; none where dimensions were left
            unbound, so that the package carries the model and each shape is compiled when it first comes.
        parameters: Inputs whose values decide what runs, and those that values were given for, in the model's order.
        undecided: Those of them that no value was given for, each with the nodes that it decides about.
        open_dims: Dimensions that were left unbound, by their names in the model.
        closed: Why there is no program for any of their values, where there is none.
    """

    imported: Imported
    targets: list[AnyTarget]
    backends: Backends
    programs: list[Program]
    parameters: tuple[str, ...] = ()
    undecided: Mapping[str, tuple[Node, ...]] = dataclasses.field(default_factory=dict)
    open_dims: tuple[str, ...] = ()
    closed: str = ""


def lower_model(
    model: ModelSource,
    *,
    target: str = "cpu",
    dims: Mapping[str, DimChoice] | None = None,
    values: Mapping[str, Any] | None = None,
    options: CompileOptions,
) -> Lowered:
    """Takes a model through passes, lowering and memory planning: all of a compile that needs no code generation.

    Raises:
        As `compile`.
    """
    load_plugins()
    targets = targets_of(target)
    if options.computed_in == "tf32" and (cpus := [machine.name for machine in targets if machine.kind == "cpu"]):
        raise OptionError(f"{', '.join(cpus)} has no tf32", hint="tf32 is for GPUs; CPUs compute in fp32, fp16 or bf16")
    options.progress("reading the model", 0, 1)
    # Before the backend: a bad model should not wait for the import of TVM.
    imported = read_model(model)
    source = imported.graph
    refuse_unknown(source)
    if options.border_type is not None:
        narrow_borders(source, options.border_type)
    options.progress("reading the model", 1, 1)
    settings = expand_values(values, source.inputs)
    choices = list(itertools.product(expand_dims(dims, imported.inputs), settings))
    settle_inputs(source, {**(dims or {}), **shapes_of(settings[0], source.inputs)}, imported.dim_names)
    backends = backends_for(targets, options.backend)
    programs: list[Program] = []
    closed = ""
    undecided: Mapping[str, tuple[Node, ...]] = {}
    missing: list[str] = []
    total = len(choices) * len(targets)
    for number, (choice, given) in enumerate(choices):
        bound = _bind(source, choice, given, imported.dim_names)
        if number == 0:
            undecided = parameter_inputs(bound)
        if missing := [imported.dim_names.get(name, name) for name in input_symbols(bound)]:
            ranges = {name: extent for name, extent in choice.items() if isinstance(extent, range)}
            if ranges or len(choices) == len(settings):
                closed = "inputs whose values decide shapes are open too" if undecided or given else ""
                if not closed and options.open_variants:
                    options.progress("running the passes", len(programs), total)
                    found = [
                        build_open(bound, imported, ranges, machine, backends[machine.kind], options)
                        for machine in targets
                    ]
                    closed = next((answer for answer in found if isinstance(answer, str)), "")
                    programs += [answer for answer in found if isinstance(answer, Program) and not closed]
                continue
            raise OptionError(
                f"dimensions {', '.join(missing)} of the inputs are not bound, though others are",
                hint=f"add {' '.join(f'--dim {name}=N' for name in missing)}, or bind none: each compiles as it comes",
            )
        if undecided and options.require_compiled and options.specializations:
            # A variant for any value would have steps on the host: each value is compiled when it first comes.
            continue
        for machine in targets:
            options.progress("running the passes", len(programs), total)
            graph = bound.clone()
            backend = backends[machine.kind]
            programs.append(build_program(graph, _bindings(source, graph), machine, backend, options, given))
    options.progress("running the passes", len(programs), total)
    if programs and not any(program.host for program in programs):
        # Their kernels read what operators would rather know.
        undecided = {}
    deciding = {*undecided, *settings[0]}
    parameters = tuple(name for name in imported.inputs if name in deciding)
    return Lowered(imported, targets, backends, programs, parameters, undecided, tuple(missing), closed)


def _bind(
    source: Graph, choice: Mapping[str, DimChoice], values: Mapping[str, Array], names: Mapping[str, str]
) -> Graph:
    """A copy of the graph with values in the place of inputs, symbols bound, and types inferred."""
    graph = source.clone()
    shapes = shapes_of(values, graph.inputs)
    bind_values(graph, values)
    bind_dims(graph, without_ranges(choice), names)
    if shapes:
        bind_dims(graph, shapes, names)
    return graph


def settle_inputs(graph: Graph, dims: Mapping[str, DimChoice], names: Mapping[str, str]) -> None:
    """Gives inputs of unknown rank the shapes in `dims`.

    Raises:
        UnsupportedError: The rank of a tensor stays unknown.
    """
    unranked = {v.name for v in graph.inputs if isinstance(v.type, TensorType) and v.type.shape is None}
    bind_dims(graph, {name: shape for name, shape in without_ranges(dims).items() if name in unranked}, names)
    for value in graph.inputs:
        if isinstance(value.type, TensorType) and value.type.shape is None:
            raise UnsupportedError(
                f"the rank of input {value.name!r} is unknown",
                nodes=(value.name,),
                hint=f"give its shape: dims={{{value.name!r}: [1, 3, 224, 224]}}, for example",
            )


def refuse_unknown(graph: Graph) -> None:
    """Raises UnsupportedError where some node's operator has no definition, naming every such operator."""
    unknown: dict[str, list[str]] = {}
    for inner in graph.all_graphs():
        for node in inner.nodes:
            if find(node) is None:
                unknown.setdefault(node.op, []).extend(node.origins or (node.name,))
    if unknown:
        raise UnsupportedError(
            f"graphc does not know {'the operator' if len(unknown) == 1 else 'the operators'} {', '.join(unknown)}",
            nodes=tuple(name for names in unknown.values() for name in names)[:_SHOWN_NODES],
            hint="`graphc check` shows all there is to say about them; --plugin can add an operator",
        )


def build_package(lowered: Lowered, output: str | os.PathLike[str], options: CompileOptions) -> Manifest:
    """Compiles the kernels of a lowered model and writes the package; answers what was written.

    Raises:
        BackendError: A kernel does not compile or link.
        PackageError: The package cannot be written.
    """
    if any(program.is_open for program in lowered.programs):
        try:
            return _build(lowered, output, options)
        except BackendError as error:
            # A kernel that is none for open extents may well be one for bound ones.
            bound = [program for program in lowered.programs if not program.is_open]
            lowered = dataclasses.replace(lowered, programs=bound, closed=error.message)
    return _build(lowered, output, options)


def _build(lowered: Lowered, output: str | os.PathLike[str], options: CompileOptions) -> Manifest:
    source = lowered.imported.graph
    # A model that is too large to come along leaves its parameters to the variant for any value.
    specializes = bool(lowered.undecided and options.specializations) and constant_bytes(source) < EMBEDDED_LIMIT
    return write(
        Path(output),
        source,
        lowered.programs,
        lowered.targets,
        lowered.backends,
        options,
        model=_embedded(source) if options.embed_model or specializes or not lowered.programs else None,
        versions=versions(lowered.backends),
        batch=_proved_batch(lowered),
        parameters=lowered.parameters,
        closed=lowered.closed,
    )


def _proved_batch(lowered: Lowered) -> BatchAxes | None:
    """The axes along which rows are independent; None where that is not so, or where values decide what runs."""
    bound = [program.bindings for program in lowered.programs if not program.is_open]
    if not bound or lowered.parameters:
        return None
    found = batch_axes(lowered.imported.graph, bound)
    return found if isinstance(found, BatchAxes) else None


def _bindings(source: Graph, bound: Graph) -> dict[str, int]:
    """Value of each symbol of the source's inputs, read off the bound inputs."""
    bindings: dict[str, int] = {}
    for before, after in zip(source.inputs, bound.inputs, strict=True):
        if isinstance(before.type, TensorType) and isinstance(after.type, TensorType):
            for dim, extent in zip(before.type.shape or (), after.type.shape or (), strict=True):
                if not isinstance(dim, int) and isinstance(extent, int):
                    bindings[str(dim)] = extent
    return bindings


def _check_output(path: Path) -> None:
    """Finds out before the work what would stop the package from being written after it."""
    if path.is_dir():
        raise PackageError(f"cannot write {str(path)!r}: it is a folder")
    if not path.parent.is_dir():
        raise PackageError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise PackageError(f"cannot write {str(path)!r}: the folder cannot be written to")


def _embedded(graph: Graph) -> bytes:
    size = constant_bytes(graph)
    if size >= EMBEDDED_LIMIT:
        raise OptionError(
            f"a model with {size / 1e9:.1f} GB of weights cannot be embedded in its package: protobuf ends at 2 GB",
            hint="bind all dimensions with --dim and leave out --embed-model",
        )
    data: bytes = export_model(graph).SerializeToString()
    return data
