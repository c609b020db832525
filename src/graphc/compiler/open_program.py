"""A program for any extents: the graph over its symbols through the passes, and a look at whether all of it runs."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.backends.base import Backend
from graphc.compiler.assembly import input_symbols
from graphc.compiler.open_assembly import symbols_in
from graphc.compiler.open_dims import closed_reason, open_graph, ranges_of, usual_values
from graphc.compiler.options import CompileOptions
from graphc.compiler.program import Program, build_program
from graphc.errors import GraphcError
from graphc.frontend import Imported
from graphc.ir import Graph
from graphc.target import AnyTarget


def build_open(
    bound: Graph,
    imported: Imported,
    given: Mapping[str, range],
    machine: AnyTarget,
    backend: Backend,
    options: CompileOptions,
) -> Program | str:
    """A program for any values of the symbols that are left in a graph, or why there is none.

    Args:
        bound: The graph, with what is given as numbers bound.
        imported: The model.
        given: Ranges asked for, by the names of dimensions in the model or here.
        machine: Lowered for.
        backend: That lowers.
        options: What the compile was told.
    """
    names = input_symbols(bound)
    wanted = {name: given.get(name, given.get(imported.dim_names.get(name, name))) for name in names}
    graph = open_graph(bound, ranges_of(names, wanted, imported.graph.bounds))
    if isinstance(graph, str):
        return graph
    try:
        # What was given as a number, and what the model leaves but one number for.
        single = {name: one for name, one in symbols_in(imported.graph, graph).items() if isinstance(one, int)}
        bindings = {**single, **usual_values(graph)}
        program = build_program(graph, bindings, machine, backend, options)
    except GraphcError as error:
        return error.message
    return closed_reason(program) or program
