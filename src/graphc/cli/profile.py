"""`graphc profile`: where a call's time goes, step by step and kernel by kernel."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from graphc.cli.common import add_compile_options, add_json, add_source, add_threads, positive, print_json
from graphc.cli.feeds import add_inputs, chosen_variants, describe_bindings, feed
from graphc.cli.source import open_source
from graphc.cli.table import count, names, percent, shorten, size, table
from graphc.runtime import Profile, StepTime
from graphc.testing.compare import format_seconds

DESCRIPTION = """Time every step of a package, or of a model, which is compiled first.

GFLOP/s and GB/s are of the operations and the least traffic that a step needs; a step far below both of what the
machine can do is worth a look. --trace writes the median run for https://ui.perfetto.dev."""

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
        variant = chosen_variants(source, options)[0]
        profile = source.executable.profile(feed(source, options, variant), runs=options.runs)
    if options.trace is not None:
        profile.write_trace(options.trace)
    if options.json:
        print_json({"bindings": dict(variant.bindings), **profile.to_json()})
        return 0
    print(
        f"{format_seconds(profile.nanoseconds / 1e9)} a call (median of {profile.runs}), "
        f"{count(len(profile.steps), 'step')}, {count(profile.threads, 'thread')}, "
        f"{describe_bindings(variant.bindings)} on cpu:{source.executable.isa}\n"
    )
    print(_by_template(profile))
    print()
    print(_by_step(profile, options.top))
    if options.trace is not None:
        print(f"\ntrace: {options.trace}, for https://ui.perfetto.dev")
    return 0


def _rates(nanoseconds: int, flops: int, moved: int) -> tuple[str, str]:
    """Operations and bytes per nanosecond, which are GFLOP/s and GB/s; empty where unknown."""
    time = max(nanoseconds, 1)
    return (f"{flops / time:.1f}" if flops else "", f"{moved / time:.1f}" if moved else "")


def _by_template(profile: Profile) -> str:
    groups: dict[str, list[StepTime]] = {}
    for step in profile.steps:
        groups.setdefault(step.label.partition(":")[0], []).append(step)
    rows = [_template_row(name, steps, profile) for name, steps in groups.items()]
    rows.sort(key=lambda row: -row[0])
    between = max(0, profile.nanoseconds - sum(step.nanoseconds for step in profile.steps))
    last = ("between steps", "", f"{between / 1e3:.1f}", percent(between, profile.nanoseconds), "", "", "")
    head = ("template", "steps", "µs", "%", "GFLOP/s", "GB/s", "bytes moved")
    return table(head, [*(row[1] for row in rows), last])


def _template_row(name: str, steps: Sequence[StepTime], profile: Profile) -> tuple[int, tuple[str, ...]]:
    spent = sum(step.nanoseconds for step in steps)
    flops, moved = sum(step.flops for step in steps), sum(step.bytes for step in steps)
    share = percent(spent, profile.nanoseconds)
    cells = (name, str(len(steps)), f"{spent / 1e3:.1f}", share, *_rates(spent, flops, moved), size(moved))
    return spent, cells


def _by_step(profile: Profile, top: int) -> str:
    slowest = sorted(profile.steps, key=lambda step: -step.nanoseconds)
    rows = [
        (
            str(step.index),
            shorten(step.label, 44),
            f"{step.nanoseconds / 1e3:.1f}",
            percent(step.nanoseconds, profile.nanoseconds),
            *_rates(step.nanoseconds, step.flops, step.bytes),
            names(step.origins),
        )
        for step in slowest[:top]
    ]
    if len(slowest) > top:
        rest = sum(step.nanoseconds for step in slowest[top:])
        share = percent(rest, profile.nanoseconds)
        rows.append(("", f"{len(slowest) - top} others", f"{rest / 1e3:.1f}", share, "", "", ""))
    return table(("step", "kernel", "µs", "%", "GFLOP/s", "GB/s", "ONNX nodes"), rows, left=(1, 6))
