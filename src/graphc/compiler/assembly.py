"""From programs to a package: weights packed, kernels compiled and linked, steps written as a table."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from graphc.backends.base import Kernel
from graphc.compiler.cache import ObjectCache
from graphc.compiler.open_assembly import assemble_open
from graphc.compiler.options import CompileOptions
from graphc.compiler.places import Bodies, Places, Weights, known_shape
from graphc.compiler.program import Program
from graphc.compiler.targets import Backends
from graphc.errors import BackendError
from graphc.ir import Graph, MapType, Node, OptionalType, SequenceType, TensorType, Type, Value
from graphc.package import (
    OPTIONAL,
    SEQUENCE,
    BatchAxes,
    BufferPlan,
    Code,
    Copy,
    Manifest,
    OpenVariant,
    SymbolRange,
    TensorSpec,
    Variant,
    library_member,
    write_package,
)
from graphc.package.cuda import CUDA, kernels_member
from graphc.target import AnyTarget, CudaTarget


def compile_kernels(
    programs: Sequence[Program], options: CompileOptions, cache: ObjectCache
) -> dict[str, dict[str, bytes]]:
    """Object code by target and symbol: each distinct kernel once, several at a time, from the cache where it has them.

    Raises:
        BackendError: A kernel did not compile; names the nodes it came from.
    """
    wanted: dict[tuple[str, str], tuple[Kernel, Node]] = {}
    for program in programs:
        for node, kernel in program.all_kernels():
            wanted.setdefault((program.target.isa, kernel.symbol), (kernel, node))
    objects: dict[str, dict[str, bytes]] = {program.target.isa: {} for program in programs}
    missing = []
    for (isa, symbol), (kernel, node) in wanted.items():
        known = cache.get(kernel.key)
        if known is None:
            missing.append((isa, kernel, node))
        else:
            objects[isa][symbol] = known
    total = len(wanted)
    options.progress("compiling kernels", total - len(missing), total)
    with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs), "graphc-compile") as pool:
        pending = {pool.submit(kernel.compile): (isa, kernel, node) for isa, kernel, node in missing}
        try:
            for done, future in enumerate(concurrent.futures.as_completed(pending), 1):
                isa, kernel, node = pending[future]
                try:
                    data = future.result()
                except BackendError as error:
                    raise BackendError(error.message, nodes=node.origins, hint=error.hint) from error
                cache.put(kernel.key, data)
                objects[isa][kernel.symbol] = data
                options.progress("compiling kernels", total - len(missing) + done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return objects


def link_code(
    objects: Mapping[str, Mapping[str, bytes]], targets: Sequence[AnyTarget], backends: Backends, cache: Path | None
) -> dict[str, bytes]:
    """The members of a package that carry the code of each target."""
    files: dict[str, bytes] = {}
    for target in targets:
        files |= backends[target.kind].link(objects.get(target.isa, {}), target, cache=cache)
    return files


def _code(target: AnyTarget) -> Code:
    """What a package says of a target's code."""
    if isinstance(target, CudaTarget):
        return Code(kernels_member(target.architecture), CUDA, (target.architecture,))
    return Code(library_member(target.isa), target.architecture, target.features)


def write(
    path: Path,
    source: Graph,
    programs: Sequence[Program],
    targets: Sequence[AnyTarget],
    backends: Backends,
    options: CompileOptions,
    *,
    model: bytes | None,
    versions: Mapping[str, str],
    parameters: tuple[str, ...] = (),
    batch: BatchAxes | None = None,
    closed: str = "",
) -> Manifest:
    """Compiles what the programs need and writes the package.

    Args:
        path: The package; appears only when whole.
        source: The graph as imported: names, types and symbols of inputs and outputs.
        programs: One for each variant and target.
        targets: Targets of the programs.
        backends: What lowered them, by kind of target.
        options: What the compile was told.
        model: Bytes of the model to embed, if any.
        versions: Versions of the tools, for the record.
        parameters: Inputs whose values decide what runs.
        batch: Along which axes rows are independent, if that was proved.
        closed: Why there is no program for any extents, where one was looked for.
    """
    cache = ObjectCache(options.cache)
    objects = compile_kernels(programs, options, cache)
    options.progress("linking", 0, 1)
    files = link_code(objects, targets, backends, options.cache)
    options.progress("linking", 1, 1)
    weights = Weights(max(target.alignment for target in targets))
    variants: list[Variant] = []
    opened: list[OpenVariant] = []
    names = input_symbols(source)
    for done, program in enumerate(programs):
        options.progress("packing weights", done, len(programs))
        if program.is_open:
            opened.append(assemble_open(program, source, names, weights))
        else:
            variants.append(assemble_variant(program, source, weights))
    options.progress("packing weights", len(programs), len(programs))
    manifest = Manifest(
        model=source.name,
        inputs=tuple(_spec(value) for value in source.inputs),
        outputs=tuple(_output_spec(value, number, variants) for number, value in enumerate(source.outputs)),
        variants=tuple(variants),
        code={target.isa: _code(target) for target in targets},
        symbols={name: SymbolRange(*source.bounds.get(name, (0, None))) for name in names},
        weights_size=weights.builder.size,
        host_steps=any(program.host for program in programs),
        options={**options.recorded(), **({"closed": closed} if closed else {})},
        versions=versions,
        parameters=parameters,
        specializations=options.specializations if parameters else 0,
        batch=batch,
        open=tuple(opened),
    )
    return write_package(path, manifest, files=files, weights=weights.builder, model=model)


def input_symbols(graph: Graph) -> list[str]:
    """Symbols of the inputs' shapes, sorted."""
    types = [value.type for value in graph.inputs]
    return sorted(set().union(*(kind.symbols() for kind in types if isinstance(kind, TensorType))))


def _output_spec(value: Value, number: int, variants: Sequence[Variant]) -> TensorSpec:
    """What an output is; a rank that the file declares and a variant does not have is not told."""
    spec = _spec(value)
    shapes = [variant.outputs[number] for variant in variants]
    if any(shape is not None and len(shape) != len(spec.shape) for shape in shapes):
        return replace(spec, shape=(), ranked=False)
    return spec


def _spec(value: Value) -> TensorSpec:
    kind = value.type
    if not isinstance(kind, TensorType):
        return _wrapped(value.name, kind)
    shape = tuple(d if isinstance(d, int) else str(d) for d in kind.shape or ())
    return TensorSpec(value.name, kind.dtype.name, shape, ranked=kind.shape is not None)


def _wrapped(name: str, kind: Type | None) -> TensorSpec:
    wraps: list[str] = []
    while kind is not None and not isinstance(kind, TensorType):
        match kind:
            case SequenceType(element=element):
                wraps.append(SEQUENCE)
            case OptionalType(element=element):
                wraps.append(OPTIONAL)
            case MapType(key=key, value=element):
                wraps.append(f"map({key})")
        kind = element
    assert kind is not None, f"the type of {name} is unknown"
    elements = None if kind.shape is None else tuple(d if isinstance(d, int) else None for d in kind.shape)
    return TensorSpec(name, kind.dtype.name, (), tuple(wraps), elements)


def assemble_variant(program: Program, source: Graph, weights: Weights) -> Variant:
    """The step table of one program."""
    bodies = Bodies()
    places = Places(program, weights, bodies)
    steps = [places.step(number, node) for number, node in enumerate(program.buffers.steps)]
    named = [
        BufferPlan(storage.root.name, storage.start, storage.end, program.plan.offsets[i], program.intervals[i][2])
        for i, storage in enumerate(program.buffers.arena())
    ]
    for (step, _), position in program.workspaces.items():
        start, end, size = program.intervals[position]
        node = program.buffers.steps[step]
        owner = program.kernels[node].template if node in program.kernels else node.op_type
        named.append(BufferPlan(f"workspace of {owner}", start, end, program.plan.offsets[position], size))
    return Variant(
        isa=program.target.isa,
        bindings={name: program.bindings[name] for name in input_symbols(source)},
        inputs=tuple(known_shape(value) for value in program.graph.inputs),
        outputs=tuple(known_shape(value) for value in program.graph.outputs),
        arena_size=program.plan.peak,
        lower_bound=program.plan.lower_bound,
        buffers=tuple(named),
        steps=tuple(steps),
        copies=tuple(Copy(number, places.host_tensor(value)) for number, value in program.buffers.copies),
        objects=program.buffers.objects,
        bodies=tuple(bodies.bodies),
        slots=tuple(bodies.slots),
        values={name: value.tobytes() for name, value in program.values.items()},
    )
