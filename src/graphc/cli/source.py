"""MODEL_OR_PACKAGE: a package is loaded, a model is compiled for as long as the command runs."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from graphc.cli.common import compile_options, is_package, parse_dims, refuse_compile_options
from graphc.cli.progress import Progress
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values
from graphc.errors import ToolchainError
from graphc.package import MODEL, Package
from graphc.runtime import Executable, load

if TYPE_CHECKING:
    from graphc.compiler.program import Program
    from graphc.testing.inputs import Range


@dataclass
class Source:
    """What a command was given, ready to run.

    Args:
        path: As the user named it.
        package: The file that runs: the user's, or a temporary one.
        executable: The package, loaded.
        is_package: Whether the user gave a package.
        programs: What the compiler made of a model, in the order of the package's variants; empty for a package.
        ranges: What integer inputs may be, where the model shows it.
        compile_seconds: Spent on compiling a model.
    """

    path: Path
    package: Package
    executable: Executable
    is_package: bool = True
    programs: list[Program] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)
    compile_seconds: float = 0.0

    @property
    def embeds_model(self) -> bool:
        """Whether the package carries the model it was compiled from."""
        return MODEL in self.package.members


@contextlib.contextmanager
def open_source(options: argparse.Namespace) -> Iterator[Source]:
    """Loads or compiles `options.model`.

    Raises:
        GraphcError: It cannot be loaded or compiled.
        OptionError: Options of the compiler are given with a package.
    """
    if is_package(options.model):
        refuse_compile_options(options)
        source = _load(options)
        with source.executable:
            yield source
        return
    with tempfile.TemporaryDirectory(prefix="graphc-") as folder:
        source = _compile(options, Path(folder) / f"{options.model.stem}.graphc")
        with source.executable:
            yield source


def _load(options: argparse.Namespace) -> Source:
    device, isa = _where(options.target)
    executable = load(options.model, threads=options.threads, device=device, isa=isa)
    source = Source(options.model, Package(options.model), executable)
    if source.embeds_model:
        # Where the compiler is installed, it takes shapes that the package has no variant for; nothing else needs it.
        with contextlib.suppress(ToolchainError), installed():
            import graphc.compiler  # noqa: F401  # tells the runtime how to compile
    return source


def _where(target: str | None) -> tuple[str | None, str | None]:
    """Device and instruction set that `cpu`, `cuda`, `cuda:1`, `cpu:x86-64-v3` or `cuda:sm_90` mean of a package."""
    kind, _, detail = (target or "").strip().lower().partition(":")
    if kind not in ("cpu", "cuda"):
        return None, kind or None
    if detail.isdecimal():
        return f"{kind}:{detail}", None
    return kind, detail or None


def _compile(options: argparse.Namespace, path: Path) -> Source:
    with installed():
        from graphc.compiler import build_package, lower_model
    from graphc.testing.inputs import index_ranges

    with Progress() as progress:
        chosen = compile_options(options, progress)
        start = time.perf_counter()
        lowered = lower_model(
            options.model,
            target=options.target or "cpu",
            dims=parse_dims(options.dims),
            values=compile_values(options),
            options=chosen,
        )
        build_package(lowered, path, chosen)
        seconds = time.perf_counter() - start
    executable = load(path, threads=options.threads)
    ranges = index_ranges(lowered.imported.graph)
    return Source(options.model, Package(path), executable, False, lowered.programs, ranges, seconds)
