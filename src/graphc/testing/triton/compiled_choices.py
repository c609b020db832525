"""Tuning without a GPU: what a compile can tell of a choice, it is asked.

The cost models count registers before there is machine code. Where the code of their choice spills registers after all,
the next best choice whose code does not is kept, until someone measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.triton.elf import resources_of
from graphc.backends.tuning import Choice, Tuned, TuningDatabase
from graphc.compiler import CompileOptions
from graphc.compiler.driver import lower_model
from graphc.compiler.options import DimChoice
from graphc.errors import BackendError, OptionError
from graphc.ir import Node
from graphc.package.cuda import CudaObject
from graphc.testing.tuning import Region, backend_of, regions_of, settings_of


@dataclass(frozen=True)
class CheckedModel:
    """What compiles told of a model's kernels.

    Attributes:
        database: Regions whose first choice spilled, with the choice that does not.
        checked: Keys of all regions that have alternatives.
        spilling: Regions, in brief, for which no choice was found that does not spill.
        compiled: Kernels compiled in all.
    """

    database: TuningDatabase
    checked: frozenset[str]
    spilling: tuple[str, ...]
    compiled: int


def check_choices(
    model: Path | bytes,
    *,
    target: str,
    dims: Mapping[str, DimChoice] | None = None,
    values: Mapping[str, Any] | None = None,
    options: CompileOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CheckedModel:
    """Compiles the kernel of each region of a model that can be cut in several ways, and others where it spills.

    Args:
        model: Path or content of an ONNX file.
        target: A GPU, e.g. `cuda:sm_90`; none is needed here.
        dims: Symbolic dimensions and their extents; all must be bound to one extent each.
        values: What inputs always are, by name.
        options: Of the compile; measurements known so far are not used.
        progress: Told what is going on, how much of it is done, and how much there is.

    Raises:
        OptionError: Dimensions are open or bound to several extents, or there are several targets.
        GraphcError: The model does not compile.
    """
    chosen = replace(options or CompileOptions(), tuned=TuningDatabase(), open_variants=False)
    programs = lower_model(model, target=target, dims=dims, values=values, options=chosen).programs
    if len(programs) != 1:
        raise OptionError(
            f"tuning is of one shape, and this is a compile of {len(programs) or 'all'} shapes or targets",
            hint="bind each dimension to one extent with --dim, and name one target",
        )
    (program,) = programs
    backend, settings = backend_of(program), settings_of(chosen)
    nodes = program.buffers.steps
    regions = regions_of(program, chosen)
    tell = progress or (lambda what, done, total: None)

    def lower(node: Node, choice: Choice) -> Kernel:
        return backend.lower(node, program.target, {**settings, **choice})

    found: dict[str, Tuned] = {}
    spilling, compiled = [], 0
    with ThreadPoolExecutor(max(1, chosen.jobs), "graphc-check") as pool:
        checks = pool.map(lambda region: _check(region, nodes[region.steps[0]], lower), regions.values())
        for done, (region, (tried, choice, spills)) in enumerate(zip(regions.values(), checks, strict=True)):
            tell("compiling choices", done, len(regions))
            compiled += tried
            if choice is not None:
                found[region.key] = Tuned(region.what, choice, 1.0)
            elif spills:
                spilling.append(region.what)
    tell("compiling choices", len(regions), len(regions))
    return CheckedModel(TuningDatabase(found), frozenset(regions), tuple(spilling), compiled)


def _check(region: Region, node: Node, lower: Callable[[Node, Choice], Kernel]) -> tuple[int, Choice | None, bool]:
    """How many kernels were compiled, a choice to take instead of the first, and whether the first spills."""
    if not spills(region.kernel):
        return 1, None, False
    tried = 1
    for choice in region.alternatives:
        tried += 1
        try:
            if not spills(lower(node, choice)):
                return tried, choice, True
        except BackendError:
            # More than the GPU has, of something that only the compile counts.
            continue
    return tried, None, True


def spills(kernel: Kernel) -> bool:
    """Whether some function of a compiled kernel keeps registers in memory.

    Raises:
        BackendError: The kernel does not compile.
    """
    cubins = CudaObject.from_bytes(kernel.compile()).cubins.values()
    return any(resources_of(cubin).stack for cubin in cubins)
