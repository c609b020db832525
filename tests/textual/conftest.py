"""Collects textual tests: a graph, a pipeline to run over it, and what the printed result must look like.

    // RUN: fold,simplify
    graph @name(%x: float32[2]) opset 23 {
      ...
    }
    // CHECK: ...

A file holds several cases between lines of `// -----`. The directives after CHECK are FileCheck's (CHECK-NEXT,
CHECK-NOT, CHECK-DAG, [[VARIABLE:regex]]...). A case that names an error with `// ERROR: text` must fail with it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser, pattern_for_opts

from graphc.errors import GraphcError
from graphc.ir.parser import parse_graph
from graphc.ops.inference import infer_graph
from graphc.passes import run_passes

SEPARATOR = "// -----"


class CheckError(Exception):
    """What was printed is not what the case expects."""


class TextualCase(pytest.Item):
    def __init__(self, *, text: str, line: int, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.text = text
        self.line = line

    def directive(self, name: str) -> str | None:
        for line in self.text.splitlines():
            if line.startswith(f"// {name}:"):
                return line.partition(":")[2].strip()
        return None

    def runtest(self) -> None:
        pipeline = self.directive("RUN")
        if pipeline is None:
            raise CheckError("the case has no `// RUN:` line")
        error = self.directive("ERROR")
        try:
            graph = parse_graph(self.text)
            infer_graph(graph, strict=True)
            run_passes(graph, pipeline)
        except GraphcError as found:
            if error is None or error not in str(found):
                raise
            return
        if error is not None:
            raise CheckError(f"no error came; expected: {error}")
        check(self.text, str(graph))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        if isinstance(excinfo.value, CheckError | GraphcError):
            return f"{self.path}:{self.line}\n{excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.path, self.line, self.name


def check(expectations: str, printed: str) -> None:
    options = Options(match_filename="expectations")
    if "CHECK" not in expectations:
        raise CheckError("the case checks nothing")
    parser = Parser(options, io.StringIO(expectations), *pattern_for_opts(options))
    matcher = Matcher(options, FInput("printed", printed), parser)
    messages = io.StringIO()
    matcher.stderr = messages
    if matcher.run() != 0:
        raise CheckError(f"{messages.getvalue()}\nprinted:\n{printed}")


class TextualFile(pytest.File):
    def collect(self) -> Iterator[TextualCase]:
        line = 1
        for text in self.path.read_text().split(SEPARATOR):
            title = next((t[3:] for t in text.splitlines() if t.startswith("// ") and not t[3:].startswith("RUN")), "")
            name = title.strip() or f"line {line}"
            yield TextualCase.from_parent(self, name=name, text=text, line=line)
            line += text.count("\n")


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> pytest.Collector | None:
    return TextualFile.from_parent(parent, path=file_path) if file_path.suffix == ".txt" else None
