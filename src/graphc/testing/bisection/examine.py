"""One case looked at from the model to the answer: the first stage at which it goes wrong.

Stages come in the order of a compile. Each is judged alone: what the model means in NumPy beside the oracle; the graph
behind each pass, in NumPy; the compiled model; and if only that is wrong, its steps one by one in their arena. So what
is blamed is what made right into wrong, and everything before it is innocent.
"""

from __future__ import annotations

from pathlib import Path

from graphc.compiler import load_plugins
from graphc.errors import ExecutionError, InputError, ModelError, OptionError, UnsupportedError
from graphc.frontend import import_model
from graphc.testing.bisection.case import Case
from graphc.testing.bisection.code import examine_code
from graphc.testing.bisection.finding import Crumbs, Finding, told, worst
from graphc.testing.bisection.meaning import evaluate_model, expected_outputs, wrong_meaning
from graphc.testing.bisection.passes import examine_passes
from graphc.testing.verification import compare_outputs


def examine(case: Case) -> Finding:
    """Looks at a case until it goes wrong, or through.

    What the compiler raises is an answer; nothing is raised but what the case's setup is to blame for.

    Raises:
        OptionError: A pass, a target or a plugin is unknown.
    """
    load_plugins(Path(plugin) for plugin in case.setup.plugins)
    tell = Crumbs(case.crumbs)
    tell("import")
    try:
        graph = import_model(case.source, dims=case.dims)
        tolerance = case.setup.tolerance_for(graph)
        expected = expected_outputs(case, graph)
        meant = expected if case.setup.against == "reference" else evaluate_model(graph, case.inputs)
    except (ModelError, UnsupportedError, ExecutionError, InputError, OptionError) as error:
        return Finding("unfit", "meaning", detail=told(error), origins=error.nodes)
    difference = worst(compare_outputs(expected, meant, tolerance))
    if difference is not None:
        return wrong_meaning(case, graph, tolerance, difference)
    passed = examine_passes(case, graph, expected, tolerance, tell)
    if passed is not None or case.stage == "passes":
        return passed or Finding("right")
    return examine_code(case, expected, tolerance, tell)
