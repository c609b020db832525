"""Variants that a package has not, compiled from the model in it when a call first needs them, and kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphc.backends.base import content_key
from graphc.backends.source import source_digest
from graphc.compiler import cache as object_cache
from graphc.compiler.driver import compile_package
from graphc.compiler.options import CompileOptions
from graphc.compiler.targets import backends_for, targets_of, versions
from graphc.compiler.tuned import tuned_for
from graphc.compiler.values import Array
from graphc.package import MODEL, Package
from graphc.runtime.folders import cache_folder
from graphc.target import detect_host

_KEPT_SPECIALIZATIONS = 256
"""Variants for values of a model's parameters that the cache keeps, over all processes: values may be without end."""


def compile_on_demand(package: Package, bindings: Mapping[str, int], values: Mapping[str, Array]) -> Path | None:
    """What the runtime calls for what a package has no variant for: compiles the embedded model, once.

    Args:
        package: Opened.
        bindings: A value of each of its symbols.
        values: Of its parameters; with none, the variant is for any.

    Returns:
        A package with that variant; None where this one carries nothing to compile it from.

    Raises:
        As `graphc.compile`.
    """
    manifest = package.manifest
    recorded = manifest.options
    strict = recorded.get("require_compiled") == "true"
    if MODEL not in package.members or (strict and manifest.parameters and not values):
        return None
    options = CompileOptions.from_record(recorded, cache=cache_folder())
    target = ",".join(_target_name(package, isa) for isa in manifest.code)
    machines = targets_of(target)
    told = [(name, array.shape, array.tobytes()) for name, array in sorted(values.items())]
    key = content_key(
        [manifest.hashes[MODEL], sorted(recorded.items()), sorted(bindings.items()), told, sorted(manifest.code)]
    )
    measured = [tuned_for(machine, options).digest() for machine in machines]
    made_by = sorted(versions(backends_for(machines, options.backend)).items())
    group = content_key([manifest.hashes[MODEL], sorted(recorded.items())])[:16] if values else ""
    path = object_cache.variant_path(content_key([key, source_digest(), measured, made_by]), group)
    if not path.exists():
        compile_package(package.read(MODEL), path, target=target, dims=dict(bindings), values=values, options=options)
        if group:
            object_cache.keep_newest(path, _KEPT_SPECIALIZATIONS)
    return path


def _target_name(package: Package, isa: str) -> str:
    kind = package.manifest.code[isa].kind
    # What runs here is split for the cores that are here.
    return "cpu" if kind == "cpu" and isa == detect_host().isa else f"{kind}:{isa}"
