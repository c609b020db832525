"""The table of operators: what it says is what lowering says, and the page in docs/ is not stale."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphc.testing import operators
from graphc.testing.operators import OperatorRow, cells, gpu_cell, known_operators, markdown, operator_rows

PAGE = Path(__file__).resolve().parents[2] / "docs/operators.md"


def test_rows_say_where_an_operator_runs_by_dtype() -> None:
    rows = {row.name: row for row in operator_rows(["Add", "StringSplit", "SequenceLength", "Gradient", "FusedMatMul"])}
    assert set(rows) == {"Add", "StringSplit", "SequenceLength", "Gradient", "FusedMatMul"}
    assert rows["Add"].versions == (1, 6, 7, 13, 14)
    assert {rows["Add"].places[name] for name in ("float32", "float64", "int64", "int32")} == {"compiled"}
    assert "string" not in rows["Add"].places and rows["StringSplit"].places == {"string": "host"}
    assert rows["SequenceLength"].places.keys() == {""} and rows["Gradient"].places == {"": "compiled"}
    assert set(rows["Add"].gpu) == set(rows["Add"].places) and rows["Add"].gpu["float32"] == "compiled"
    assert rows["StringSplit"].gpu == {"string": "host"}
    assert rows["FusedMatMul"].domain == "com.microsoft" and rows["FusedMatMul"].places[""] != "no"


def test_groups_of_dtypes_are_one_mark() -> None:
    row = OperatorRow("", "X", (1, 6, 7, 13, 14), {"float32": "compiled", "int64": "host", "int32": "compiled"}, 1)
    assert cells(row)[0] == "●" and cells(row)[1] == "" and cells(row)[list(operators.GROUPS).index("i64 i32")] == "◐"
    assert gpu_cell(row) == ""
    on_gpu = {"float32": "compiled", "int64": "host"}
    assert gpu_cell(OperatorRow("", "X", (1,), row.places, 1, on_gpu)) == "◐"
    page = markdown([row, OperatorRow("ai.onnx.ml", "Y", (1,), {"": "no"}, 0)])
    assert "| X | 1, 6, …, 14 | ● |" in page and "## ai.onnx.ml" in page and "| Y | 1 | – |" in page


def test_every_operator_of_onnx_is_in_the_page() -> None:
    page = PAGE.read_text()
    newest = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.deprecated}
    assert newest <= set(known_operators())
    missing = [name for name in known_operators() if f"| {name} | " not in page]
    assert not missing, "stale; write it anew with `make docs`"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_page_is_what_the_command_writes() -> None:
    assert markdown(operator_rows()) == PAGE.read_text(), "stale; write it anew with `make docs`"
