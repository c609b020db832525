"""Kernels as `inspect` shows them: one row for each distinct kernel, from a compile or from a package's manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphc.cli.launches import LaunchUse
from graphc.cli.table import names, percent, quantity, shorten, size, table
from graphc.package import Variant

if TYPE_CHECKING:
    from graphc.compiler.program import Program

_NAME_LIMIT = 34


@dataclass
class KernelUse:
    """One distinct kernel and where it is used.

    Args:
        symbol: Its C symbol.
        template: What it was made from.
        what: The operators in it.
        flops: Operations of one call.
        bytes: Least traffic of one call.
        makes: Type of its first output, in brief; empty where only the manifest is known.
        schedule: What the template chose.
        origins: For each use, the ONNX nodes it came from.
        launches: What one call launches on a GPU, as far as the package is at hand.
    """

    symbol: str
    template: str
    what: str
    flops: int
    bytes: int
    makes: str = ""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    origins: list[tuple[str, ...]] = field(default_factory=list)
    launches: Sequence[LaunchUse] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "uses": len(self.origins), "launches": [launch.to_json() for launch in self.launches]}


def kernels_of_program(program: Program) -> list[KernelUse]:
    """Kernels of a compiled variant, in order of first use."""
    found: dict[str, KernelUse] = {}
    for node, kernel in program.all_kernels():
        kind = node.outputs[0].tensor_type
        use = found.setdefault(
            kernel.key,
            KernelUse(
                kernel.symbol,
                kernel.template,
                node.name if node.domain else node.op_type,
                _number(kernel.flops),
                _number(kernel.bytes),
                f"{kind.dtype} {'×'.join(map(str, kind.shape or ())) or 'scalar'}",
                dict(kernel.schedule),
            ),
        )
        use.origins.append(node.origins)
    return list(found.values())


def kernels_of_variant(variant: Variant, launches: Mapping[str, Sequence[LaunchUse]] | None = None) -> list[KernelUse]:
    """Kernels of a package's variant, in order of first use.

    Args:
        variant: Of the package.
        launches: What each launches, by its symbol, if that is to be shown.
    """
    found: dict[str, KernelUse] = {}
    for step in variant.kernel_steps:
        template, _, what = step.label.partition(": ")
        use = found.setdefault(step.symbol, KernelUse(step.symbol, template, what, step.flops, step.bytes))
        use.launches = (launches or {}).get(step.symbol, ())
        use.origins.append(step.origins)
    return list(found.values())


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def template_table(kernels: Sequence[KernelUse]) -> str:
    """One row for each template: how often it is used, and its share of the work."""
    total = sum(use.flops * len(use.origins) for use in kernels)
    by_template: dict[str, list[KernelUse]] = {}
    for use in kernels:
        by_template.setdefault(use.template, []).append(use)
    rows = []
    for template, uses in sorted(by_template.items(), key=lambda entry: -_flops(entry[1])):
        flops = _flops(uses)
        moved = sum(use.bytes * len(use.origins) for use in uses)
        calls = sum(len(use.origins) for use in uses)
        rows.append((template, str(calls), str(len(uses)), quantity(flops), percent(flops, total), size(moved)))
    return table(("template", "steps", "kernels", "flops", "%", "bytes moved"), rows)


def _flops(uses: Sequence[KernelUse]) -> int:
    return sum(use.flops * len(use.origins) for use in uses)


def kernel_table(kernels: Sequence[KernelUse]) -> str:
    """One row for each kernel."""
    rows = [
        (
            use.template,
            shorten(use.what, _NAME_LIMIT),
            use.makes,
            f"{len(use.origins)}×",
            quantity(use.flops),
            size(use.bytes),
            _schedule(use.schedule),
            "; ".join(map(str, use.launches)),
            names([origin for origins in use.origins[:1] for origin in origins], shown=2, limit=24),
        )
        for use in kernels
    ]
    head = ("template", "computes", "makes", "used", "flops", "bytes", "schedule", "launches", "ONNX nodes (first use)")
    left = (0, 1, 2, 6, 7, 8)
    # A package knows neither types nor schedules, a model no launches: their columns would be empty.
    kept = [column for column in range(len(head)) if not rows or any(row[column] for row in rows)]
    return table(
        [head[column] for column in kept],
        [[row[column] for column in kept] for row in rows],
        left=[kept.index(column) for column in left if column in kept],
    )


def _schedule(schedule: Mapping[str, Any]) -> str:
    return shorten(" ".join(f"{name}={_plain(value)}" for name, value in schedule.items()), 44)


def _plain(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
