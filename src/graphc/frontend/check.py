"""The preflight check: everything that graphc cannot compile or run in a model, all at once."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol, TypeAlias

from graphc.errors import GraphcError, OptionError
from graphc.frontend.binding import Bindings
from graphc.frontend.exporter import constant_bytes
from graphc.frontend.importer import Imported, read_model
from graphc.frontend.report import OperatorUse, Port, Problem, Report, Severity
from graphc.frontend.schema import CANONICAL_OPSET, first_version, operator_names
from graphc.frontend.source import ModelSource
from graphc.ir import GRAPHC_DOMAIN, Node, TensorType, Type, Value
from graphc.ops import find
from graphc.ops.base import node_names
from graphc.ops.parameter_inputs import parameter_inputs


class Answer(Protocol):
    """A backend's answer about one node."""

    @property
    def ok(self) -> bool:
        """Whether the node has a compiled form."""
        ...

    @property
    def reason(self) -> str:
        """Why not."""
        ...


Supports: TypeAlias = "Callable[[Node], Answer]"


def check(
    source: ModelSource,
    *,
    dims: Bindings | None = None,
    decided: Collection[str] = (),
    supports: Supports | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Report:
    """Reports everything that stands between a model and its package; raises nothing for a bad model.

    Args:
        source: Path, bytes or ModelProto.
        dims: Values of symbolic dimensions.
        decided: Inputs that values are given for, so that they leave nothing open.
        supports: A backend's judgement of a node on the target; without it only graphc's own operators are judged.
        folder: Folder of external data where the model is not given as a path.

    Raises:
        OptionError: A binding in `dims` does not fit the model.
    """
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "model"
    found: list[GraphcError] = []
    try:
        model = read_model(source, dims=dims, folder=folder, on_error=found.append)
    except OptionError:
        raise
    except GraphcError as error:
        return Report(str(name), (_as_problem(error),))
    problems = [*_unknown(model), *dict.fromkeys(_as_problem(error) for error in found)]
    if supports is not None:
        problems += _host_steps(model, supports)
    problems += [*_notes(model), *_parameters(model, decided)]
    order: tuple[Severity, ...] = ("error", "host", "note")
    graph = model.graph
    return Report(
        str(name),
        tuple(sorted(problems, key=lambda problem: order.index(problem.severity))),
        tuple(_port(value, model) for value in graph.inputs),
        tuple(_port(value, model) for value in graph.outputs),
        model.opsets,
        model.producer,
        dict(Counter(node.op for node in _nodes(model)).most_common()),
        constant_bytes(graph),
        tuple(_uses(model)),
    )


def _uses(model: Imported) -> Iterator[OperatorUse]:
    """The model's nodes by operator. A node that an older operator set wrote shows as what it means now."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in _nodes(model):
        groups.setdefault((node.op, node.domain), []).append(node)
    for (operator, domain), nodes in sorted(groups.items(), key=lambda group: -len(group[1])):
        yield OperatorUse(
            operator,
            model.opsets.get(domain, nodes[0].version),
            tuple(dict.fromkeys(dtype for node in nodes for dtype in _dtypes(node))),
            tuple(node.origins[0] if node.origins else node.name or node.describe() for node in nodes),
            known=find(nodes[0]) is not None,
        )


def _as_problem(error: GraphcError) -> Problem:
    return Problem("error", error.message, nodes=error.nodes, hint=error.hint or "")


def _nodes(model: Imported) -> Iterator[Node]:
    for graph in model.graph.all_graphs():
        yield from (node for node in graph.nodes if not node.is_op("Constant"))


def _grouped(severity: Severity, entries: Iterable[tuple[Node, str, str]], model: Imported) -> list[Problem]:
    """One problem per operator and message, with the names and dtypes of all its nodes."""
    groups: dict[tuple[str, int, str, str], list[Node]] = {}
    for node, message, hint in entries:
        opset = model.opsets.get(node.domain, node.version)
        groups.setdefault((node.op, opset, message, hint), []).append(node)
    return [
        Problem(
            severity,
            message,
            operator,
            opset,
            tuple(dict.fromkeys(dtype for node in nodes for dtype in _dtypes(node))),
            tuple(dict.fromkeys(name for node in nodes for name in node.origins or (node.name or node.describe(),))),
            hint,
        )
        for (operator, opset, message, hint), nodes in groups.items()
    ]


def _dtypes(node: Node) -> tuple[str, ...]:
    kinds = [value.type for value in node.inputs if value is not None]
    return tuple(dict.fromkeys(str(kind.dtype) for kind in kinds if isinstance(kind, TensorType)))


def _unknown(model: Imported) -> list[Problem]:
    entries = [(node, *_way_out(node)) for node in _nodes(model) if find(node) is None]
    return _grouped("error", entries, model)


def _way_out(node: Node) -> tuple[str, str]:
    """Why an operator is unknown, and what its user can do."""
    if node.domain == "com.microsoft":
        return (
            "graphc does not know this operator of ONNX Runtime",
            "export the model without ONNX Runtime's graph optimizations, or add the operator with --plugin",
        )
    if node.domain not in ("", GRAPHC_DOMAIN, "ai.onnx.ml"):
        return (
            f"the operator is of domain {node.domain!r}, which graphc does not know",
            "define it as a function in the model, or add it with --plugin",
        )
    if first_version(node.domain, node.op_type) is None:
        close = difflib.get_close_matches(node.op_type, operator_names(node.domain), 1)
        return (
            "ONNX has no such operator",
            f"did you mean {close[0]}?" if close else "if it is your own, give it a domain and add it with --plugin",
        )
    return "graphc has no definition of the operator", "add it with --plugin, or rewrite the model without it"


def _host_steps(model: Imported, supports: Supports) -> list[Problem]:
    entries = []
    for node in model.graph.nodes:
        if node.is_op("Constant") or find(node) is None:
            continue
        answer = supports(node)
        if not answer.ok:
            entries.append((node, answer.reason or "the target has no kernel for it", ""))
    return _grouped("host", entries, model)


def _notes(model: Imported) -> Iterator[Problem]:
    symbols = {name: model.dim_names.get(name, name) for value in model.graph.inputs for name in _symbols(value.type)}
    if symbols:
        example = ",".join(f"{name}=…" for name in list(symbols)[:3])
        yield Problem(
            "note",
            f"dimensions are open: {', '.join(_called(name, original) for name, original in symbols.items())}",
            hint=f"bind them for faster code, e.g. --dim {example}",
        )
    if model.constant_inputs:
        yield Problem(
            "note",
            f"inputs with an initializer are constants here: {', '.join(model.constant_inputs)}",
            hint="a caller cannot override them; remove the initializer to make one a real input",
        )
    if model.misdeclared_outputs:
        yield Problem(
            "note",
            f"the file declares other shapes for the outputs {', '.join(model.misdeclared_outputs)}",
            hint="the shapes shown here follow from the inputs and count",
        )
    version = model.opsets.get("", 0)
    if version > CANONICAL_OPSET:
        yield Problem("note", f"opset {version} is newer than the {CANONICAL_OPSET} that ONNX Runtime runs completely")


def _parameters(model: Imported, decided: Collection[str]) -> Iterator[Problem]:
    found = {name: nodes for name, nodes in parameter_inputs(model.graph).items() if name not in decided}
    if not found:
        return
    which = [f"{name} ({', '.join(sorted({node.op for node in nodes}))})" for name, nodes in found.items()]
    origins = dict.fromkeys(name for nodes in found.values() for node in nodes for name in node_names(node))
    yield Problem(
        "note",
        f"the values of inputs decide shapes or code: {', '.join(which)}",
        nodes=tuple(origins),
        hint="each value is compiled for when it first comes; to compile now: "
        + " ".join(f"--value {name}=…" for name in list(found)[:3]),
    )


def _called(name: str, original: str) -> str:
    return name if name == original else f"{name} ({original!r} in the model)"


def _symbols(kind: Type | None) -> list[str]:
    return sorted(kind.symbols()) if isinstance(kind, TensorType) else []


def _port(value: Value, model: Imported) -> Port:
    dims = {name: model.dim_names.get(name, name) for name in _symbols(value.type)}
    return Port(value.name, "?" if value.type is None else str(value.type), dims)
