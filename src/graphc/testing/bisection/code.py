"""The compiled model of a case, whose graphs are right: what made them into wrong answers."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc import memory
from graphc.compiler import build_package, lower_model
from graphc.compiler.driver import Lowered
from graphc.compiler.program import Program
from graphc.errors import GraphcError, VerifyError
from graphc.ir import Node
from graphc.ir.symbolic import evaluate
from graphc.runtime import Executable, load
from graphc.testing.bisection.case import Case
from graphc.testing.bisection.finding import Crumbs, Finding, differs, told, worst
from graphc.testing.layers import Layer, compare_layers
from graphc.testing.verification import Tolerance, compare_outputs


def examine_code(case: Case, expected: Mapping[str, Any], tolerance: Tolerance, tell: Crumbs) -> Finding:
    """Compiles and runs a case; what is to blame if the answer is wrong."""
    tell("compile")
    with tempfile.TemporaryDirectory(prefix="graphc-") as folder:
        path = Path(folder) / "model.graphc"
        try:
            lowered = _compile(case, path)
        except VerifyError as error:
            return Finding("error", "plan", "memory plan", told(error), error.nodes)
        except Exception as error:  # whatever a backend raises is what is looked for
            nodes = error.nodes if isinstance(error, GraphcError) else ()
            return Finding("error", "compile", type(error).__name__, told(error), nodes)
        with load(path, threads=case.setup.threads) as executable:
            if case.stepwise:
                return _examine_steps(case, executable, lowered.programs[0], tolerance, tell) or Finding("right")
            finding = _run(case, executable, expected, tolerance, tell)
            if finding is None:
                return Finding("right")
            return _blame_code(case, lowered, executable, finding, expected, tolerance, tell)


def _compile(case: Case, path: Path, *, cached: bool = True) -> Lowered:
    options = case.setup.options(cached=cached)
    lowered = lower_model(case.source, target=case.setup.target, dims=case.dims, options=options)
    build_package(lowered, path, options)
    return lowered


def _run(
    case: Case, executable: Executable, expected: Mapping[str, Any], tolerance: Tolerance, tell: Crumbs
) -> Finding | None:
    tell("run")
    try:
        found = executable(dict(case.inputs))
    except GraphcError as error:
        return Finding("error", "run", detail=told(error), origins=error.nodes)
    difference = worst(compare_outputs(expected, found, tolerance))
    return None if difference is None else Finding("wrong", "run", detail=differs(difference))


def _blame_code(
    case: Case,
    lowered: Lowered,
    executable: Executable,
    seen: Finding,
    expected: Mapping[str, Any],
    tolerance: Tolerance,
    tell: Crumbs,
) -> Finding:
    """Who made right graphs into wrong answers: the memory plan, the cache, a kernel, or what runs them."""
    program = lowered.programs[0]
    found = _examine_steps(case, executable, program, tolerance, tell)
    if found is not None and found.stage == "plan":
        return found
    with tempfile.TemporaryDirectory(prefix="graphc-") as folder:
        if found is None:
            path = Path(folder) / "apart.graphc"
            apart = [dataclasses.replace(each, plan=_without_reuse(each)) for each in lowered.programs]
            build_package(dataclasses.replace(lowered, programs=apart), path, case.setup.options())
            if _is_right(case, path, expected, tolerance, tell):
                detail = f"right where no two values share memory; {seen.detail}"
                return dataclasses.replace(seen, stage="plan", name="memory plan", detail=detail)
        if case.setup.cached:
            path = Path(folder) / "anew.graphc"
            _compile(case, path, cached=False)
            if _is_right(case, path, expected, tolerance, tell):
                detail = f"right where kernels are compiled anew; {seen.detail}"
                return dataclasses.replace(found or seen, stage="cache", detail=detail)
    return found or seen


def _is_right(case: Case, path: Path, expected: Mapping[str, Any], tolerance: Tolerance, tell: Crumbs) -> bool:
    with load(path, threads=case.setup.threads) as executable:
        return _run(case, executable, expected, tolerance, tell) is None


def _without_reuse(program: Program) -> memory.Plan:
    offsets, end = [], 0
    for *_, size in program.intervals:
        offsets.append(end)
        end += -(-evaluate(size, program.bindings) // program.target.alignment) * program.target.alignment
    return memory.Plan(tuple(offsets), end, 0, "apart", False)


def _examine_steps(
    case: Case, executable: Executable, program: Program, tolerance: Tolerance, tell: Crumbs
) -> Finding | None:
    """The first step that does not do what its nodes mean, or spoils what others still read."""
    nodes = program.buffers.steps

    def begin(number: int, step: Any) -> None:
        tell("kernel", _kernel_name(nodes[number], program), origins=step.origins, region=_region_text(nodes[number]))

    layers = compare_layers(executable, program, case.inputs, tolerance=tolerance, begin=begin)
    try:
        first = next((layer for layer in layers if not layer.ok), None)
    except GraphcError as error:
        return Finding("error", "run", detail=told(error), origins=error.nodes)
    return None if first is None else _blamed_step(first, nodes[first.step], program)


def _blamed_step(layer: Layer, node: Node, program: Program) -> Finding:
    region, name = _region_text(node), _kernel_name(node, program)
    if layer.overwritten:
        other = layer.overwritten[0]
        detail = f"step {layer.step} ({layer.label}) overwrote %{other.name}, made by step {other.made_by}"
        if other.planned:
            return Finding("wrong", "plan", "memory plan", f"{detail}: both have the same place", layer.origins)
        return Finding("wrong", "kernel", name, f"{detail}: out of bounds", layer.origins, region=region)
    worst = next(difference for difference in layer.kernel if not difference.ok)
    return Finding("wrong", "kernel", name, differs(worst), layer.origins, region=region)


def _kernel_name(node: Node, program: Program) -> str:
    """The template, which stays when nodes lose their names."""
    return program.kernels[node].template if node in program.kernels else node.op


def _region_text(node: Node) -> str:
    bodies = [f"{name}: {graph}" for name, graph in node.subgraphs()]
    return "\n".join([node.describe(), *bodies])
