"""`graphc compile`: an ONNX model into a package."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.common import add_compile_options, add_json, add_model, compile_options, parse_dims, print_json
from graphc.cli.progress import Progress
from graphc.cli.table import count, names, percent, shorten, size, table
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values, describe_program

if TYPE_CHECKING:
    from graphc.compiler import CompileOptions, Lowered
    from graphc.compiler.program import Program

DESCRIPTION = """Compile an ONNX model into a package that runs with NumPy alone.

The package appears only when it is whole. The same model, options and versions give the same bytes. Dimensions that
--dim leaves open are compiled for each shape when it first comes; the package then carries the model. So it does where
inputs whose values decide shapes (axes, pads, sizes) are left open by --value."""

EXAMPLES = """
  graphc compile model.onnx                          model.graphc, for this machine
  graphc compile model.onnx --dim batch=1,8 -o m.graphc   a variant each for two batch sizes
  graphc compile model.onnx --dim batch=auto         the batch sizes that are worth having, measured on this machine
  graphc compile model.onnx --dim x=1x3x224x224      the shape of an input whose dimensions have no names
  graphc compile model.onnx --value axes=[1]         for one value of an input that decides shapes
  graphc compile model.onnx --target cpu:x86-64-v3,cpu:x86-64-v4   two kinds of machine in one package
  graphc compile model.onnx --passes 'fold,simplify,fuse' --no-winograd
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_model(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="the package (default: MODEL's name .graphc)")
    parser.add_argument(
        "--embed-model", action="store_true", help="put the model in, so that further shapes compile where it runs"
    )
    add_compile_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compiles, and says what came of it."""
    output = options.output or Path(options.model.name).with_suffix(".graphc")
    start = time.perf_counter()
    with installed():
        from graphc.compiler import build_package, keep_calibration, lower_model, settle_auto
    with Progress() as progress:
        chosen = compile_options(options, progress)
        target, values = options.target or "cpu", compile_values(options)
        settled = settle_auto(options.model, target=target, dims=_dims(options.dims), values=values, options=chosen)
        lowered = lower_model(options.model, target=target, dims=settled.dims, values=values, options=chosen)
        build_package(lowered, output, chosen)
        keep_calibration(output, settled)
    facts = {
        "package": str(output),
        "bytes": output.stat().st_size,
        "seconds": time.perf_counter() - start,
        "variants": [_facts(program) for program in lowered.programs],
    }
    if options.json:
        print_json(facts)
    else:
        print(f"{options.model.name} → {output}: {size(output.stat().st_size)} in {facts['seconds']:.1f} s\n")
        print(_summary(lowered, chosen))
    return 0


def _dims(texts: list[str]) -> dict[str, Any]:
    """What `--dim` options say, `auto` among them."""
    automatic = [text for text in texts if text.endswith("=auto")]
    return {
        **parse_dims([text for text in texts if text not in automatic]),
        **{text.removesuffix("=auto"): "auto" for text in automatic},
    }


def _facts(program: Program) -> dict[str, Any]:
    return {
        "bindings": dict(program.bindings),
        "ranges": {name: list(bounds) for name, bounds in program.graph.bounds.items()},
        "values": {name: value.tolist() for name, value in program.values.items()},
        "target": program.target.name,
        "steps": len(program.buffers.steps),
        "kernels": len({kernel.key for _, kernel in program.all_kernels()}),
        "host_steps": [
            {"op": host.node.op, "nodes": list(host.node.origins), "reason": host.reason} for host in program.host
        ],
        "arena_bytes": program.plan.peak,
        "lower_bound_bytes": program.plan.lower_bound,
    }


def _summary(lowered: Lowered, options: CompileOptions) -> str:
    programs = lowered.programs
    if not programs and lowered.open_dims:
        return (
            "  No dimension is bound: each shape is compiled when it first comes, which needs the compiler where the\n"
            "  package runs. Bind dimensions with --dim to compile them now."
        ) + (f"\n  No variant is for any shape: {lowered.closed}." if lowered.closed else "")
    rows = []
    for program in programs:
        plan = program.plan
        gap = percent(plan.gap, plan.lower_bound)
        rows.append(
            (
                describe_program(program, lowered.parameters),
                program.target.name,
                str(len(program.buffers.steps)),
                str(len({kernel.key for _, kernel in program.all_kernels()})),
                str(len(program.host)),
                size(plan.peak),
                f"{size(plan.lower_bound)}" + (f" (+{gap} %)" if plan.gap else " (met)"),
            )
        )
    head = ("variant", "target", "steps", "kernels", "host steps", "arena", "lower bound")
    lines = [table(head, rows, left=(0, 1)), *host_steps(programs)] if programs else []
    return "\n".join([*lines, *_open_values(lowered, options)]).strip("\n")


def _open_values(lowered: Lowered, options: CompileOptions) -> list[str]:
    """Lines about inputs whose values decide and were left open."""
    if not lowered.undecided:
        return []
    named = ", ".join(lowered.undecided)
    if not options.specializations:
        return [f"\n  The value of {named} decides shapes or code. Give it with --value to compile for it."]
    return [
        f"\n  The value of {named} decides shapes or code: each is compiled for when it first comes, which needs the",
        "  compiler where the package runs. Give values with --value to compile for them now.",
    ]


def host_steps(programs: list[Program]) -> list[str]:
    """Lines about the steps that have no kernel, by operator and reason; none where all have one."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for program in programs:
        for host in program.host:
            nodes = found.setdefault((host.node.op, host.reason), {})
            nodes.update(dict.fromkeys(host.node.origins or (host.node.describe(),)))
    if not found:
        return []
    rows = [(op, str(len(nodes)), shorten(reason, 70), names(list(nodes))) for (op, reason), nodes in found.items()]
    head = ("operator", "nodes", "why it has no kernel", "which")
    total = count(sum(len(nodes) for nodes in found.values()), "node")
    return [f"\n  {total} run on the host, in NumPy:\n", table(head, rows, left=(0, 2, 3))]
