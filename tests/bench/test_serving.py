"""The serving bench judges what it measured, and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.serving.__main__ import PARTS, main
from bench.serving.claims import Claim, verdict
from bench.serving.processes import processors, server
from bench.serving.reload import slope


def test_claims_hold_or_are_missed() -> None:
    claims = [
        Claim("rate", 100.0, "at least", 100.0),
        Claim("late", 1.21, "at most", 1.2, "x"),
        Claim("p99", 100.0, "below", 100.0, " ms"),
    ]
    assert [claim.holds for claim in claims] == [True, False, False]
    assert verdict(claims).count("MISSED") == 2


@given(st.floats(-1e3, 1e3), st.integers(3, 40), st.integers(0, 2**32))
def test_a_slope_is_found_whatever_single_values_are(growth: float, count: int, seed: int) -> None:
    values = [round(1e6 + growth * number) for number in range(count)]
    assert slope(values) == pytest.approx(growth, abs=1)
    if count >= 12:
        values[seed % count] += 10**9
        assert slope(values) == pytest.approx(growth, abs=2 + abs(growth) * 0.1)


def test_a_server_that_does_not_come_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match="no such model"),
        server(["sh", "-c", "echo no such model; exit 3"], "ready"),
    ):
        pass


def test_the_load_has_a_processor_of_its_own_where_there_are_two() -> None:
    servers, load = processors()
    assert load not in servers.split(",") or servers == load


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", [name for name in PARTS if name != "rival"])  # which installs another server
def test_each_part_runs(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([part, "--quick", "--json", "--output", str(tmp_path)]) in (0, 1)  # the figures of a test say nothing
    (found,) = json.loads(capsys.readouterr().out).values()
    assert found["claims"]
    assert list(tmp_path.iterdir()) == []
