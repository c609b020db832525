"""Packages of what is timed: compiled here, for a GPU that may be elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.cases import Case, Model
from bench.zoo import load as load_entry
from graphc.backends.triton.elf import resources_of
from graphc.compiler import CompileOptions, compile_package
from graphc.frontend import export_model
from graphc.package import Package
from graphc.runtime.folders import cache_folder


@dataclass(frozen=True)
class Compiled:
    """What became of one compile.

    Args:
        name: Of the kernel or model.
        kernels: Distinct kernels.
        host: The operator of each step that runs in NumPy, and why it does.
        spilling: Functions that have a stack, with its bytes: of each name the one with the most.
        templates: Of the kernels.
    """

    name: str
    kernels: int
    host: tuple[str, ...]
    spilling: dict[str, int]
    templates: tuple[str, ...]


def package_path(folder: Path, name: str, precision: str) -> Path:
    """Where the package of a kernel or model lies."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in name)
    return folder / f"{plain}-{precision}.graphc"


def compile_case(case: Case, folder: Path, target: str, jobs: int) -> Compiled:
    """Compiles a kernel.

    Raises:
        GraphcError: It does not compile.
    """
    path = package_path(folder, case.name, case.precision)
    precision: dict[str, Any] = {"precision": "tf32"} if case.precision == "fp32" and case.flops else {}
    options = CompileOptions(cache=cache_folder(), jobs=jobs, **precision)
    compile_package(export_model(case.graph()), path, target=target, options=options)
    return look_at(case.name, path)


def compile_model(model: Model, precision: str, folder: Path, target: str, jobs: int) -> Compiled:
    """Compiles a model of the zoo.

    Raises:
        GraphcError: It does not compile.
    """
    entry = load_entry(model.entry)
    path = package_path(folder, model.name, precision)
    dims: dict[str, Any] = {
        name: array.shape for name, array in entry.inputs(dims={**entry.dims, **model.dims}).items()
    }
    options = CompileOptions(cache=cache_folder(), jobs=jobs, precision="tf32" if precision == "fp32" else precision)
    compile_package(entry.path, path, target=target, dims=dims, options=options)
    return look_at(model.name, path)


def look_at(name: str, path: Path) -> Compiled:
    """What a package holds, by its manifest and the notes in its cubins."""
    package = Package(path)
    spilling: dict[str, int] = {}
    kernels = 0
    for architecture in sorted({variant.isa for variant in package.manifest.variants}):
        code = package.cuda(architecture)
        kernels += len(code.kernels)
        for launch in code.launches:
            stack = resources_of(package.cubin(architecture, launch.cubin)).stack
            name = f"{architecture} {launch.function}"
            if stack:
                spilling[name] = max(stack, spilling.get(name, 0))
    steps = [step for variant in package.manifest.variants for step in variant.kernel_steps]
    host = [f"{s.op_type} ({s.reason})" for variant in package.manifest.variants for s in variant.host_steps]
    templates = sorted({step.label.partition(": ")[0] for step in steps})
    return Compiled(name, kernels, tuple(host), spilling, tuple(templates))
