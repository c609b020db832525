"""`graphc devices`: what this machine is, what it has for compiling, and what can be compiled for."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from graphc.cli.common import add_json, add_threads, print_json
from graphc.cli.gpus import Gpus
from graphc.cli.progress import Progress
from graphc.cli.table import count, facts, size, table
from graphc.cli.toolchain import installed
from graphc.errors import GraphcError
from graphc.runtime import thread_count
from graphc.target import CPUS, Target, detect_host, read_processor

if TYPE_CHECKING:
    from graphc.testing.roofline import Roofline

DESCRIPTION = """Show this machine's processor and GPUs, the target that `cpu` means on it, the compilers and the linker
that are installed, and every target with whether this machine runs its code."""

EXAMPLES = """
  graphc devices
  graphc devices --measure
  graphc devices --json
"""

_NOTABLE = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "asimddp", "bf16", "sve")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--measure", action="store_true", help="measure what this machine can do at best, and keep it")
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Shows them."""
    gpus = Gpus.find()
    machine = {**_machine(), **gpus.facts()}
    roof = _measure(thread_count(options.threads)) if options.measure else None
    flags = read_processor().flags
    if options.json:
        measured = {"measured": vars(roof)} if roof is not None else {}
        cpus = [_target_json(target, flags) for target in CPUS.values()]
        print_json({**machine, **measured, "targets": cpus, "gpu_targets": gpus.targets_json()})
        return 0
    cells = [(name, str(value)) for name, value in machine.items() if value]
    if roof is not None:
        cells.append(("arithmetic", f"{roof.peak / 1e9:.0f} GFLOP/s of float32 with {count(roof.threads, 'thread')}"))
        cells += [(f"memory, {size(bytes_)}", f"{rate / 1e9:.0f} GB/s") for bytes_, rate in roof.bandwidth]
    print(facts([(name.replace("_", " "), value) for name, value in cells]))
    print()
    rows = [
        (
            "yes" if not target.missing(flags) else "",
            target.name,
            target.architecture,
            f"{8 * target.vector_bytes} bit × {target.vector_registers}",
            f"{target.l1_bytes // 1024} KiB",
            f"{target.l2_bytes // 1024} KiB",
            _differences(target, flags),
        )
        for target in CPUS.values()
    ]
    head = ("runs here", "target", "machine", "vectors", "L1", "L2", "what this machine lacks for it")
    print(table(head, rows, left=(0, 1, 2, 6)))
    print()
    print(gpus.targets_table())
    return 0


def _measure(threads: int) -> Roofline:
    with installed():
        from graphc.testing.roofline import roofline
    with Progress() as progress:
        return roofline(threads, partial(progress, "measuring the machine"), again=True)


def _machine() -> dict[str, Any]:
    processor = read_processor()
    host: Target | None = None
    try:
        host = detect_host()
        target = f"{host.name}: {8 * host.vector_bytes}-bit vectors, {host.vector_registers} registers"
    except GraphcError as error:
        target = f"none: {error.message}"
    return {
        "processor": f"{processor.architecture} {processor.vendor} family {processor.family} model {processor.model}",
        "features": ", ".join(flag for flag in _NOTABLE if flag in processor.flags),
        "target_cpu": target,
        "cores": host.cores if host is not None else None,
        "threads": f"{thread_count(None)} by default",
        "compiler": _compiler(),
        "linker": _linker(host),
    }


def _compiler() -> str:
    try:
        import tvm
    except ImportError:
        return "TVM is not installed: packages run here, models do not compile (pip install 'graphc[cpu]')"
    return f"TVM {tvm.__version__}"


def _linker(host: Target | None) -> str:
    try:
        from graphc.backends.tvm.link import find_linker

        return str(find_linker(host.triple if host is not None else None))
    except GraphcError as error:
        return f"none: {error}"


def _differences(target: Target, flags: frozenset[str]) -> str:
    missing = target.missing(flags)
    return ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")


def _target_json(target: Target, flags: frozenset[str]) -> dict[str, Any]:
    return {
        "name": target.name,
        "architecture": target.architecture,
        "vector_bytes": target.vector_bytes,
        "vector_registers": target.vector_registers,
        "l1_bytes": target.l1_bytes,
        "l2_bytes": target.l2_bytes,
        "features": list(target.features),
        "missing_here": list(target.missing(flags)),
    }
