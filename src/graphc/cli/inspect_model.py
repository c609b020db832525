"""What `inspect` shows of a model: what came in, what the passes made of it, what it will run as."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.common import compile_options, parse_dims
from graphc.cli.compile import host_steps
from graphc.cli.kernels import kernel_table, kernels_of_program, template_table
from graphc.cli.memory_picture import ArenaView
from graphc.cli.memory_plan import memory_json, memory_line, memory_section
from graphc.cli.progress import Progress
from graphc.cli.table import count, facts, names, shorten, size, table
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values, describe_program
from graphc.package import BufferPlan

if TYPE_CHECKING:
    from graphc.compiler import Lowered
    from graphc.compiler.program import Program
    from graphc.ir import Graph
    from graphc.passes import PipelineReport

_REFUSALS = 12
_NAMED = re.compile(r"%\S+|\w+\[[^\]]*\]")
"""A value or a type within a reason."""


@dataclass
class ModelView:
    """A model, lowered."""

    path: Path
    lowered: Lowered

    @classmethod
    def open(cls, options: argparse.Namespace) -> ModelView:
        """The model that `options` name, after the passes.

        Raises:
            GraphcError: It cannot be read or lowered.
        """
        with installed():
            from graphc.compiler import lower_model
        with Progress() as progress:
            chosen = compile_options(options, progress)
            lowered = lower_model(
                options.model,
                target=options.target or "cpu",
                dims=parse_dims(options.dims),
                values=compile_values(options),
                options=chosen,
            )
        return cls(options.model, lowered)

    def sections(self, options: argparse.Namespace) -> list[str]:
        """The page, section by section."""
        programs = self.lowered.programs
        if options.graph:
            return [str(program.graph) for program in programs] or [str(self.lowered.imported.graph)]
        page = [self._head()]
        if not programs:
            page.append(self._operators(None))
            page.append(_open_text(self.lowered))
        for program in programs:
            title = f"{describe_program(program, self.lowered.parameters)} on {program.target.name}"
            page.append(f"── {title} " + "─" * max(0, 70 - len(title)))
            page.append(_summary(program, _operators(self.lowered.imported.graph).total()))
            page.append(self._operators(program))
            if options.passes:
                page.append(_passes(program.report))
            if options.history:
                page.append(_history(program.report))
            kernels = kernels_of_program(program)
            page.append((kernel_table if options.kernels else template_table)(kernels) if kernels else "")
            page.append("\n".join(host_steps([program])).lstrip("\n"))
            if options.memory:
                plan = program.plan
                page.append(memory_section(_buffers(program), len(program.buffers.steps), plan.peak, plan.lower_bound))
        return page

    def arenas(self) -> list[ArenaView]:
        """The arena of each variant."""
        return [
            ArenaView(
                title=describe_program(program, self.lowered.parameters),
                buffers=_buffers(program),
                steps=len(program.buffers.steps),
                peak=program.plan.peak,
                bound=program.plan.lower_bound,
            )
            for program in self.lowered.programs
        ]

    def _head(self) -> str:
        imported = self.lowered.imported
        graph = imported.graph
        weights = _constants(graph)
        producer = f", by {imported.producer}" if imported.producer else ""
        opsets = ", ".join(f"{domain} {version}".strip() for domain, version in imported.opsets.items())
        rows = [
            (
                "model",
                f"{self.path.name} “{shorten(graph.name, 40)}”, opset {opsets}{producer}",
            ),
            *(("inputs", f"{value.name}: {value.type}") for value in graph.inputs),
            *(("outputs", f"{value.name}: {value.type}") for value in graph.outputs),
            *(
                ("dimensions", f"{ours} is called {theirs!r}")
                for ours, theirs in imported.dim_names.items()
                if ours != theirs
            ),
            *(("decides", text) for text in decisions(self.lowered)),
            ("parameters", f"{size(sum(weights))} in {count(len(weights), 'tensor')}"),
        ]
        return facts(rows)

    def _operators(self, program: Program | None) -> str:
        before = _operators(self.lowered.imported.graph)
        after = Counter() if program is None else _operators(program.graph)
        made = {op for op in after if op.startswith("graphc::")}
        rows = [
            (op, str(before[op] or ""), "" if program is None else str(after[op] or ""))
            for op, _ in [*before.most_common(), *((op, 0) for op in sorted(after) if op not in before)]
            if op not in made
        ]
        head = ("operator", "in the model", "after the passes")
        width = 2 if program is None else 3
        return table(head[:width], [row[:width] for row in rows])

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        imported = self.lowered.imported
        graph = imported.graph
        return {
            "model": str(self.path),
            "name": graph.name,
            "producer": imported.producer,
            "opsets": dict(imported.opsets),
            "inputs": [{"name": value.name, "type": str(value.type)} for value in graph.inputs],
            "outputs": [{"name": value.name, "type": str(value.type)} for value in graph.outputs],
            "parameter_bytes": sum(_constants(graph)),
            "operators": dict(_operators(graph)),
            "decides": {
                name: list(dict.fromkeys(origin for node in nodes for origin in node.origins or (node.name,)))
                for name, nodes in self.lowered.undecided.items()
            },
            "closed": self.lowered.closed,
            "variants": [_program_json(program) for program in self.lowered.programs],
        }


def _open_text(lowered: Lowered) -> str:
    if lowered.closed:
        return f"No variant is for any shape: {lowered.closed}.\nBind dimensions with --dim to see what is."
    if lowered.open_dims:
        return "Dimensions are open. Bind them with --dim to see what the model compiles to."
    return "Values that decide are open. Give them with --value to see what the model compiles to."


def decisions(lowered: Lowered) -> list[str]:
    """A line for each input whose value is open and decides shapes or code."""
    lines = []
    for name, nodes in lowered.undecided.items():
        origins = dict.fromkeys(origin for node in nodes for origin in node.origins or (node.name,))
        lines.append(f"{name}, about {', '.join(sorted({node.op for node in nodes}))}: {names(list(origins))}")
    return lines


def _operators(graph: Graph) -> Counter[str]:
    """Nodes of each operator, those inside regions and subgraphs included."""
    return Counter(node.op for inner in graph.all_graphs() for node in inner.nodes if not node.is_op("Constant"))


def _constants(graph: Graph) -> list[int]:
    nodes = (node for inner in graph.all_graphs() for node in inner.nodes if node.is_op("Constant"))
    return [tensor.nbytes for node in nodes if (tensor := node.output.constant) is not None]


def _summary(program: Program, nodes: int) -> str:
    steps = program.buffers.steps
    distinct = count(len({kernel.key for _, kernel in program.all_kernels()}), "kernel")
    calls = f"{count(len(program.kernels), 'call')} of {distinct}"
    if program.controls:
        inside = sum(1 for _ in program.all_kernels()) - len(program.kernels)
        calls = f"{count(len(program.kernels), 'call')} and {inside} in bodies, of {distinct}"
    return facts(
        [
            ("work", f"{count(nodes, 'node')} → {count(len(steps), 'step')}: {calls}"),
            ("host", count(len(program.host), "step") if program.host else "no step"),
            ("memory", memory_line(program.plan.peak, program.plan.lower_bound)),
        ]
    )


def _passes(report: PipelineReport) -> str:
    rows: list[tuple[str, ...]] = []
    for run in report.runs:
        changed = "" if run.nodes_before == run.nodes_after else f"{run.nodes_before} → {run.nodes_after}"
        at: dict[str, tuple[str, ...]] = {}
        for application in run.applications:
            at.setdefault(application.action, application.origins)
        first = names(list(at.get(run.name, ())))
        rows.append((run.name, str(run.changes or ""), changed, f"{run.seconds * 1e3:.1f}", first))
        own = ((rule, times) for rule, times in run.rewrites.items() if rule != run.name)
        for rule, times in sorted(own, key=lambda entry: -entry[1]):
            rows.append((f"  {rule}", f"{times} ×", "", "", names(list(at[rule]))))
    lines = [table(("pass", "changes", "nodes", "ms", "ONNX nodes (the first time)"), rows, left=(0, 4))]
    # One line for each kind of refusal: reasons differ by the values and types that they name.
    refused: dict[tuple[str, str], list[str]] = {}
    for refusal in report.refusals:
        refused.setdefault((refusal.rule, _NAMED.sub("", refusal.reason)), []).append(refusal.reason)
    if refused:
        listed = sorted(refused.items(), key=lambda entry: -len(entry[1]))
        shown = [(rule, str(len(reasons)), reasons[0]) for (rule, _), reasons in listed[:_REFUSALS]]
        lines += ["", table(("refused", "times", "because (the first time)"), shown, left=(0, 2))]
        if len(listed) > _REFUSALS:
            lines.append(f"  and {count(len(listed) - _REFUSALS, 'more reason')}; --json has all")
    return "\n".join(lines)


def _history(report: PipelineReport) -> str:
    """Every change, in order."""
    rows: list[tuple[str, ...]] = []
    for run in report.runs:
        for application in run.applications:
            name = run.name.partition("{")[0]
            what = name if application.action == name else f"{name}.{application.action}"
            rows.append((str(len(rows) + 1), what, shorten(application.node, 72), names(list(application.origins))))
    return (
        table(("", "pass and rule", "at", "ONNX nodes"), rows, left=(1, 2, 3)) if rows else "No pass changed anything."
    )


def _buffers(program: Program) -> list[BufferPlan]:
    named = [storage.root.name for storage in program.buffers.arena()]
    named += [f"workspace of step {step}" for step, _ in program.workspaces]
    return [
        BufferPlan(name, start, end, offset, held)
        for name, (start, end, held), offset in zip(named, program.intervals, program.plan.offsets, strict=True)
    ]


def _program_json(program: Program) -> dict[str, Any]:
    return {
        "bindings": dict(program.bindings),
        "ranges": {name: list(bounds) for name, bounds in program.graph.bounds.items()},
        "values": {name: value.tolist() for name, value in program.values.items()},
        "target": program.target.name,
        "operators": dict(_operators(program.graph)),
        "steps": len(program.buffers.steps),
        "kernels": [use.to_json() for use in kernels_of_program(program)],
        "host_steps": [
            {"op": host.node.op, "nodes": list(host.node.origins), "reason": host.reason} for host in program.host
        ],
        "memory": memory_json(_buffers(program), program.plan.peak, program.plan.lower_bound),
        "passes": [
            {**vars(run), "rewrites": run.rewrites, "applications": [vars(each) for each in run.applications]}
            for run in program.report.runs
        ],
        "refusals": [vars(refusal) for refusal in program.report.refusals],
    }
