"""Every arena is looked at by a checker that shares no code with the planner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from graphc import memory
from graphc.compiler import CompileOptions, lower_model
from graphc.errors import VerifyError
from graphc.frontend import export_model
from graphc.ir import parse_graph

GRAPH = """\
graph @chain(%x: float32[64x64]) opset 23 {
  %a: float32[64x64] = Softmax(%x) {axis=0}
  %b: float32[64x64] = Softmax(%a) {axis=0}
  %c: float32[64x64] = Softmax(%b) {axis=0}
  return %c
}
"""


def test_a_plan_that_lets_live_buffers_overlap_ends_the_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = export_model(parse_graph(GRAPH)), CompileOptions()
    (program,) = lower_model(model, options=options).programs
    assert len({offset for offset in program.plan.offsets}) > 1
    honest = memory.plan

    def careless(buffers: Any, **given: Any) -> memory.Plan:
        plan = honest(buffers, **given)
        return replace(plan, offsets=(0,) * len(plan.offsets))

    monkeypatch.setattr(memory, "plan", careless)
    with pytest.raises(VerifyError, match="overlap"):
        lower_model(model, options=options)
