"""What a run of the ONNX backend suite says: totals, and a table by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Standing: TypeAlias = Literal["compiled", "host", "excluded", "failed"]
"""Passed with kernels alone; passed with steps in NumPy; not to be passed, with a reason; failed."""

STANDINGS: tuple[Standing, ...] = ("compiled", "host", "excluded", "failed")


@dataclass(frozen=True)
class Result:
    """What became of one case.

    Args:
        name: Its name.
        operator: The operator that it is about; the kind of case for whole models.
        standing: How it stands.
        problem: Why it failed, or the reason of its exclusion.
        failure: How it failed: `wrong` (an error or another answer), `crashed` or `timeout`; empty where it did not.
        host: Operators that ran in NumPy.
        special: Why it is no matter of numbers alone; empty where it is.
        seconds: Time by the clock.
    """

    name: str
    operator: str
    standing: Standing
    problem: str = ""
    failure: str = ""
    host: tuple[str, ...] = ()
    special: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class PeerResult:
    """What ONNX Runtime made of a case.

    Args:
        name: Of the case.
        standing: `passed`, `failed`, `crashed` or `timeout`.
        problem: Why it failed.
    """

    name: str
    standing: Literal["passed", "failed", "crashed", "timeout"]
    problem: str = ""


@dataclass(frozen=True)
class Summary:
    """A run of the suite.

    Args:
        results: One for each case that ran on graphc.
        peer: ONNX Runtime's, by the case's name; empty where it was not asked.
    """

    results: Sequence[Result]
    peer: Mapping[str, PeerResult]

    @property
    def failed(self) -> list[Result]:
        """Cases that should have passed."""
        return [result for result in self.results if result.standing == "failed"]

    @property
    def ok(self) -> bool:
        """Whether every case passed that is not excluded, and no excluded one did."""
        return not self.failed

    def totals(self) -> dict[str, int]:
        """Cases by standing, and how many crashed or took too long."""
        standing = Counter(result.standing for result in self.results)
        failure = Counter(result.failure for result in self.results)
        return {
            "cases": len(self.results),
            **{name: standing[name] for name in STANDINGS},
            **{name: failure[name] for name in ("crashed", "timeout")},
        }

    def peer_totals(self) -> dict[str, int]:
        """ONNX Runtime's cases by standing."""
        found = Counter(result.standing for result in self.peer.values())
        return {name: found[name] for name in ("passed", "failed", "crashed", "timeout")}

    def numeric(self) -> tuple[int, int]:
        """Cases that are a matter of numbers alone and pass without a host step, and all cases that are."""
        numeric = [result for result in self.results if not result.special and result.standing != "excluded"]
        return sum(result.standing == "compiled" for result in numeric), len(numeric)

    def by_operator(self) -> dict[str, dict[str, int]]:
        """For each operator its number of cases, by standing, and ONNX Runtime's passed ones as `onnxruntime`."""
        rows: dict[str, dict[str, int]] = {}
        for result in sorted(self.results, key=lambda result: result.operator.lower()):
            row = rows.setdefault(result.operator, dict.fromkeys(("cases", *STANDINGS, "onnxruntime"), 0))
            row["cases"] += 1
            row[result.standing] += 1
            theirs = self.peer.get(result.name)
            row["onnxruntime"] += theirs is not None and theirs.standing == "passed"
        return rows

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        compiled, numeric = self.numeric()
        return {
            "ok": self.ok,
            "totals": self.totals(),
            "numeric": {"cases": numeric, "compiled": compiled},
            "onnxruntime": self.peer_totals() if self.peer else None,
            "operators": self.by_operator(),
            "results": [asdict(result) for result in self.results],
            "peer": [asdict(result) for result in self.peer.values()],
        }
