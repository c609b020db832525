"""Which operators run where, by dtype: found out by lowering models of the ONNX backend suite, rewritten to each."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias

import onnx

from graphc.errors import GraphcError, ModelError
from graphc.frontend.functions import domain_of
from graphc.frontend.gradient import GRADIENT
from graphc.ir import GRAPHC_DOMAIN, DType, dtypes
from graphc.ops.base import REGISTRY
from graphc.testing.conformance.cases import Case, load_cases
from graphc.testing.isolation import Isolation

Place: TypeAlias = Literal["compiled", "partly", "host", "no"]
"""Kernels alone; kernels for some models and steps in NumPy for others; steps in NumPy; refused."""

CASES_PER_OPERATOR = 6
SECONDS = 120.0
_MAX_VERSIONS = 4
_ONNX_NAMES = frozenset(onnx.TensorProto.DataType.keys())


@dataclass(frozen=True)
class OperatorRow:
    """What becomes of one operator.

    Args:
        domain: Its domain, empty for ai.onnx.
        name: Its name.
        versions: Operator-set versions that changed it.
        places: On a CPU, by dtype of its first input; `""` where that is no tensor.
        cases: How many models were looked at.
        gpu: The same on a GPU; empty where what compiles for GPUs is not installed.
    """

    domain: str
    name: str
    versions: tuple[int, ...]
    places: Mapping[str, Place]
    cases: int
    gpu: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatorTask:
    """An operator with models that show it."""

    domain: str
    name: str
    versions: tuple[int, ...]
    cases: tuple[Case, ...]


def operator_rows(
    names: Iterable[str] = (),
    *,
    workers: int = 2,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[OperatorRow]:
    """Every operator that onnx defines and graphc knows, and those of ONNX Runtime's domain.

    Args:
        names: Operators to look at; all if there are none.
        workers: Processes at once.
        progress: Told how far the work is.
    """
    wanted = set(names)
    tasks = [task for task in _tasks() if not wanted or task.name in wanted]
    rows = []
    failed: tuple[Mapping[str, Place], Mapping[str, Place]] = {"": "no"}, {"": "no"}
    with Isolation(judge_operator, workers, SECONDS) as pool:
        for done, (task, outcome) in enumerate(pool.run((task, task) for task in tasks)):
            progress("trying operators", done + 1, len(tasks))
            places, gpu = outcome.value if outcome.status == "done" else failed
            rows.append(OperatorRow(task.domain, task.name, task.versions, places, len(task.cases), gpu))
    return sorted(rows, key=lambda row: (row.domain, row.name.lower()))


def single_operators() -> list[tuple[str, str, int]]:
    """Domain, name and newest version of every operator that onnx defines and has not withdrawn."""
    newest: dict[tuple[str, str], Any] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        key = (schema.domain, schema.name)
        if key not in newest or schema.since_version > newest[key].since_version:
            newest[key] = schema
    return [(*key, schema.since_version) for key, schema in newest.items() if not schema.deprecated]


def known_operators() -> list[str]:
    """Names of all operators that `operator_rows` can tell about."""
    return sorted({task.name for task in _tasks()})


def _tasks() -> list[OperatorTask]:
    versions: dict[tuple[str, str], set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.deprecated:
            versions[schema.domain, schema.name].add(schema.since_version)
    for (domain, name), known in REGISTRY.names().items():
        if domain != GRAPHC_DOMAIN and (domain, name) not in versions:
            versions[domain, name].update(operator.since for operator in known)
    cases = cases_by_operator()
    return [
        OperatorTask(domain, name, tuple(sorted(since)), tuple(cases.get((domain, name), ())[:CASES_PER_OPERATOR]))
        for (domain, name), since in sorted(versions.items())
    ]


@cache
def cases_by_operator() -> dict[tuple[str, str], list[Case]]:
    """Cases of a single node, by its operator; of many, the widest apart in the list."""
    found: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in load_cases("node", "simple").values():
        nodes = case.proto().graph.node
        if len(nodes) == 1 and not case.is_expanded:
            found[domain_of(nodes[0].domain), nodes[0].op_type].append(case)
    return {key: cases[:: max(1, len(cases) // CASES_PER_OPERATOR)] for key, cases in found.items()}


def judge_operator(task: OperatorTask) -> tuple[dict[str, Place], dict[str, Place]]:
    """Where the operator runs on a CPU and on a GPU, by dtype of its first input; for a process of its own."""
    installed = importlib.util.find_spec("triton") is not None
    return _judge(task, "cpu"), _judge(task, GPU) if installed else {}


def _judge(task: OperatorTask, target: str) -> dict[str, Place]:
    if not task.cases:
        return {"": _defined(task)}
    places: dict[str, Place] = {}
    schema = onnx.defs.get_schema(task.name, max(task.versions), task.domain)
    for dtype in allowed_dtypes(schema):
        found = [place for case in task.cases if (place := _place(case, schema, dtype, target)) is not None]
        if found:
            places[dtype.name] = _together(found)
    if not places:
        found = [place for case in task.cases if (place := _place(case, schema, None, target)) is not None]
        places[""] = _together(found or ["no"])
    return places


def _together(places: Sequence[Place]) -> Place:
    kinds = set(places) - {"no"} or {"no"}
    return kinds.pop() if len(kinds) == 1 else "partly"


def _defined(task: OperatorTask) -> Place:
    """Of an operator that no model shows: by what defines it."""
    from graphc.ops.decomposition import DECOMPOSITIONS

    if (task.domain, task.name) == GRADIENT:
        return "compiled"
    operator = REGISTRY.find(task.domain, task.name, max(task.versions))
    if operator is None:
        return "no"
    compiled = operator.expression is not None or (task.domain, task.name) in DECOMPOSITIONS
    return "compiled" if compiled else "host"


def allowed_dtypes(schema: Any) -> list[DType]:
    """Element types that ONNX allows for an operator's first input; none where there is no input."""
    return _allowed(schema.inputs[0]) if schema.inputs else []


def _allowed(formal: Any) -> list[DType]:
    texts = [text for text in formal.types if text.startswith("tensor(")]
    names = [text.removeprefix("tensor(").removesuffix(")").upper() for text in texts]
    known = [dtypes.from_onnx(onnx.TensorProto.DataType.Value(name)) for name in names if name in _ONNX_NAMES]
    return [dtype for dtype in dtypes.ALL if dtype in known]


def _place(case: Case, schema: Any, dtype: DType | None, target: str) -> Place | None:
    """Where a case's node runs once its first input is of `dtype`; None where the case cannot be so."""
    from graphc.compiler import CompileOptions, lower_model

    model = case.proto()
    if dtype is not None and not retype(model, schema, dtype):
        return None
    names = [info.name for info in model.graph.input]
    values = dict(zip(names, case.data_sets[0][0], strict=False))
    options = CompileOptions(verify=False)
    try:
        lowered = lower_model(model, target=target, options=options)
        if decided := {name: values[name] for name in lowered.undecided if name in values}:
            lowered = lower_model(model, target=target, options=options, values=decided)
    except ModelError:
        # The dtype does not go with what the case's attributes and other inputs say.
        return None
    except GraphcError:
        return "no"
    hosts = [host for program in lowered.programs for host in program.host]
    return "host" if hosts else "compiled"


def retype(model: onnx.ModelProto, schema: Any, dtype: DType) -> bool:
    """Gives the node's first input another dtype, and with it the inputs of its dtype that may have the other one.

    Answers whether the node has a first input that is a tensor.
    """
    node = model.graph.node[0]
    inputs = {info.name: info.type.tensor_type for info in model.graph.input if info.type.HasField("tensor_type")}
    if not node.input or node.input[0] not in inputs:
        return False
    before = inputs[node.input[0]].elem_type
    for position, name in enumerate(node.input):
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        if name in inputs and inputs[name].elem_type == before and dtype in _allowed(formal):
            inputs[name].elem_type = dtype.onnx
    for info in model.graph.output:
        info.ClearField("type")
    return True


GROUPS: Mapping[str, tuple[DType, ...]] = {
    "f32": (dtypes.FLOAT32,),
    "f64": (dtypes.FLOAT64,),
    "f16": (dtypes.FLOAT16,),
    "bf16": (dtypes.BFLOAT16,),
    "f8…f4": tuple(dtype for dtype in dtypes.ALL if dtype.kind == "float" and dtype.bits <= 8),
    "i64 i32": (dtypes.INT64, dtypes.INT32),
    "i16 i8": (dtypes.INT16, dtypes.INT8),
    "u64…u8": (dtypes.UINT64, dtypes.UINT32, dtypes.UINT16, dtypes.UINT8),
    "4, 2 bit": (dtypes.INT4, dtypes.UINT4, dtypes.INT2, dtypes.UINT2),
    "bool": (dtypes.BOOL,),
    "complex": (dtypes.COMPLEX64, dtypes.COMPLEX128),
    "string": (dtypes.STRING,),
}
"""Columns of the table."""

GPU = "cuda:sm_80"
"""The architecture that the column of GPUs is of: later ones have all that it has."""

MARKS: Mapping[Place, str] = {"compiled": "●", "partly": "◐", "host": "○", "no": "–"}
_DOMAINS = {"": "ai.onnx", "com.microsoft": "com.microsoft (ONNX Runtime)"}


def cells(row: OperatorRow) -> list[str]:
    """A mark for each column of `GROUPS`; empty where ONNX does not allow the dtypes."""
    marks = []
    for group in GROUPS.values():
        found = [row.places[dtype.name] for dtype in group if dtype.name in row.places]
        marks.append(MARKS[found[0] if len(set(found)) == 1 else "partly"] if found else "")
    return marks


def gpu_cell(row: OperatorRow) -> str:
    """A mark for GPUs over all dtypes."""
    return MARKS[_together(tuple(row.gpu.values()))] if row.gpu else ""


def markdown(rows: Sequence[OperatorRow]) -> str:
    """The page that docs/operators.md is."""
    lines = [
        "# Operators",
        "",
        "What graphc does with every operator that ONNX defines, by dtype of its first input. `graphc operators",
        "--markdown` wrote this page: it lowers models of the ONNX backend suite, rewritten to each dtype, for a CPU",
        "and for a GPU. `graphc check MODEL` says the same about a model of yours, node by node.",
        "",
        "| mark | |",
        "|---|---|",
        "| ● | compiled |",
        "| ◐ | compiled for some of the dtypes, attributes and inputs tried, a host step for the others |",
        "| ○ | a host step in NumPy, within the package |",
        "| – | refused |",
        "|   | ONNX does not allow it |",
        "",
        "The versions are those of the operator set that changed the operator; a model of any of them, or of one",
        "between, is read. The dtypes are those on a CPU; the last column is a GPU, over all of them. The reference",
        "backend runs whatever is not refused, in NumPy.",
    ]
    for domain in sorted({row.domain for row in rows}):
        own = [row for row in rows if row.domain == domain]
        lines += ["", f"## {_DOMAINS.get(domain, domain)}", ""]
        plain = [row for row in own if set(row.places) == {""}]
        typed = [row for row in own if row not in plain]
        if typed:
            lines += [f"| operator | versions | {' | '.join(GROUPS)} | GPU |", "|---|---|" + ":-:|" * (len(GROUPS) + 1)]
            lines += [
                f"| {row.name} | {_versions(row)} | {' | '.join([*cells(row), gpu_cell(row)])} |" for row in typed
            ]
        if plain:
            if typed:
                lines += ["", "Of sequences, optionals and maps, or without a model in the suite to try:", ""]
            lines += ["| operator | versions | CPU | GPU |", "|---|---|:-:|:-:|"]
            lines += [f"| {row.name} | {_versions(row)} | {MARKS[row.places['']]} | {gpu_cell(row)} |" for row in plain]
    return "\n".join(lines) + "\n"


def _versions(row: OperatorRow) -> str:
    shown = [str(version) for version in row.versions]
    return ", ".join(shown if len(shown) <= _MAX_VERSIONS else [*shown[:2], "…", shown[-1]])
