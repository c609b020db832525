"""`graphc profile`: where a call's time goes, step by step and kernel by kernel."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.common import add_compile_options, add_json, add_source, add_threads, positive, print_json
from graphc.cli.feeds import add_inputs, chosen_variants, feed
from graphc.cli.progress import Progress
from graphc.cli.source import open_source
from graphc.cli.table import count, names, percent, shorten, size, table
from graphc.cli.values import describe_variant
from graphc.errors import ToolchainError
from graphc.runtime import Executable, Profile, StepTime
from graphc.testing.compare import format_seconds

if TYPE_CHECKING:
    from graphc.testing.roofline import Roofline

DESCRIPTION = """Time every step of a package, or of a model, which is compiled first.

GFLOP/s and GB/s are of the operations and the least traffic that a step needs. "of roof" is the least time that this
machine could take for them, over the step's time: a low share of a long step is worth a look. What the machine can do
is measured once, in about two seconds (`graphc devices --measure` does it again); what a GPU can do is not. --trace
writes the median run for https://ui.perfetto.dev."""

EXAMPLES = """
  graphc profile model.graphc --threads 1
  graphc profile model.onnx --dim batch=1 --top 40
  graphc profile model.graphc --trace trace.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source(parser)
    parser.add_argument("--runs", type=positive, default=30, metavar="N", help="measured calls (default: %(default)s)")
    parser.add_argument("--top", type=positive, default=20, metavar="N", help="steps shown (default: %(default)s)")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="write the median run as a trace")
    add_inputs(parser)
    add_threads(parser)
    add_compile_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and shows."""
    with open_source(options) as source:
        inputs = feed(source, options, chosen_variants(source, options)[0])
        profile = source.executable.profile(inputs, runs=options.runs)
        # The variant of these inputs' values, where they decide.
        variant = source.executable.variant_for(inputs)
    on_cpu = profile.device == "cpu"
    roof = _roofline(profile.threads) if on_cpu else None
    if options.trace is not None:
        profile.write_trace(options.trace)
    if options.json:
        print_json({"bindings": dict(variant.bindings), **_with_roof(profile, roof)})
        return 0
    manifest = source.executable.manifest
    print(
        f"{format_seconds(profile.nanoseconds / 1e9)} a call (median of {profile.runs}), "
        f"{count(len(profile.steps), 'step')}, {count(profile.threads, 'thread') if on_cpu else profile.device}, "
        f"{describe_variant(manifest, variant)} on {manifest.target(source.executable.isa)}"
    )
    print(f"{_machine(roof) if on_cpu else _gpu(source.executable)}\n")
    print(_by_template(profile, roof))
    print()
    print(_by_step(profile, roof, options.top))
    if options.trace is not None:
        print(f"\ntrace: {options.trace}, for https://ui.perfetto.dev")
    return 0


def _roofline(threads: int) -> Roofline | None:
    """What this machine can do; None where it has no compiler to find out with."""
    try:
        from graphc.testing.roofline import roofline

        with Progress() as progress:
            return roofline(threads, partial(progress, "measuring the machine"))
    except (ImportError, ToolchainError):
        return None


def _machine(roof: Roofline | None) -> str:
    if roof is None:
        return "what this machine can do is not known: measuring it needs graphc[cpu] and a C compiler"
    rates = ", ".join(f"{roof.bandwidth_of(size) / 1e9:.0f} GB/s in {name}" for name, size in _WORKING_SETS)
    return f"this machine at best: {roof.peak / 1e9:.0f} GFLOP/s, {rates}"


def _gpu(executable: Executable) -> str:
    return f"{executable.processor}, kernels timed by its own clock; what it can do at best is not measured"


_WORKING_SETS = (("256 KiB", 1 << 18), ("4 MiB", 1 << 22), ("128 MiB", 1 << 27))


def _with_roof(profile: Profile, roof: Roofline | None) -> dict[str, Any]:
    data = profile.to_json()
    if roof is None:
        return data
    for row, step in zip(data["steps"], profile.steps, strict=True):
        if step.flops or step.bytes:
            row["of_roof"] = _share([step], roof)
            row["bound"] = roof.bound(step.flops, step.bytes)
    return {**data, "machine": {"peak": roof.peak, "bandwidth": roof.bandwidth}}


def _share(steps: Sequence[StepTime], roof: Roofline) -> float:
    """The least time that the machine could take, over the time taken."""
    known = [step for step in steps if step.flops or step.bytes]
    least = sum(roof.seconds(step.flops, step.bytes) for step in known)
    return least * 1e9 / max(sum(step.nanoseconds for step in known), 1)


def _rates(steps: Sequence[StepTime], roof: Roofline | None) -> tuple[str, str, str]:
    """GFLOP/s, GB/s, the share of the roof and what bounds it; empty where unknown."""
    time = max(sum(step.nanoseconds for step in steps), 1)
    flops, moved = sum(step.flops for step in steps), sum(step.bytes for step in steps)
    share = ""
    if roof is not None and (flops or moved):
        share = f"{100 * _share(steps, roof):.0f} %"
        if len(steps) == 1:
            share += f" {roof.bound(flops, moved)}"
    return (f"{flops / time:.1f}" if flops else "", f"{moved / time:.1f}" if moved else "", share)


def _by_template(profile: Profile, roof: Roofline | None) -> str:
    groups: dict[str, list[StepTime]] = {}
    for step in profile.steps:
        groups.setdefault(step.label.partition(":")[0], []).append(step)
    ordered = sorted(groups.items(), key=lambda group: -_spent(group[1]))
    rows = [
        (
            name,
            str(len(steps)),
            f"{_spent(steps) / 1e3:.1f}",
            percent(_spent(steps), profile.nanoseconds),
            *_rates(steps, roof),
            size(sum(step.bytes for step in steps)),
        )
        for name, steps in ordered
    ]
    between = max(0, profile.nanoseconds - _spent(profile.steps))
    rows.append(("between steps", "", f"{between / 1e3:.1f}", percent(between, profile.nanoseconds), "", "", "", ""))
    return table(("template", "steps", "µs", "%", "GFLOP/s", "GB/s", "of roof", "bytes moved"), rows)


def _spent(steps: Sequence[StepTime]) -> int:
    return sum(step.nanoseconds for step in steps)


def _by_step(profile: Profile, roof: Roofline | None, top: int) -> str:
    slowest = sorted(profile.steps, key=lambda step: -step.nanoseconds)
    rows = [
        (
            str(step.index),
            shorten(step.label, 44),
            f"{step.nanoseconds / 1e3:.1f}",
            percent(step.nanoseconds, profile.nanoseconds),
            *_rates([step], roof),
            names(step.origins),
        )
        for step in slowest[:top]
    ]
    if len(slowest) > top:
        rest = _spent(slowest[top:])
        share = percent(rest, profile.nanoseconds)
        rows.append(("", f"{len(slowest) - top} others", f"{rest / 1e3:.1f}", share, "", "", "", ""))
    return table(("step", "kernel", "µs", "%", "GFLOP/s", "GB/s", "of roof", "ONNX nodes"), rows, left=(1, 7))
