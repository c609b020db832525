"""A campaign of mutated models against the importer and the compiler; what it finds is kept, made small."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphc.testing.hostile.minimize import minimize
from graphc.testing.hostile.mutation import mutate
from graphc.testing.hostile.trial import MEMORY, SECONDS, prepare, trial
from graphc.testing.isolation import Isolation, Outcome
from graphc.testing.outcomes import Outcomes

SMALL_MODEL = 20_000
"""Bytes of the largest model that is worth damaging: in larger ones most damage falls on weights."""


@dataclass(frozen=True)
class Finding:
    """A model that was neither refused with an error of graphc's own nor compiled.

    Args:
        model: Its bytes, made small.
        status: `raised`, `crashed` or `timeout`.
        detail: The exception, the signal, or the limit.
        seed: Of the mutation.
    """

    model: bytes
    status: str
    detail: str
    seed: int

    @property
    def file_name(self) -> str:
        """A name that says what happened, the same for the same bytes."""
        return f"{self.status}-{hashlib.sha256(self.model).hexdigest()[:12]}.onnx"


@dataclass
class Campaign(Outcomes):
    """What a campaign did.

    Args:
        findings: What must not happen, each failure once.
    """

    findings: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {
            **self.counts(),
            "findings": [
                {"file": f.file_name, "status": f.status, "detail": f.detail, "seed": f.seed} for f in self.findings
            ],
        }


def suite_models() -> list[bytes]:
    """Models of the ONNX backend suite to start from: small ones of every operator."""
    from graphc.testing.conformance import load_cases

    cases = load_cases("node", "simple", "pytorch-converted", "pytorch-operator").values()
    return [case.model for case in cases if len(case.model) <= SMALL_MODEL]


def isolation(workers: int = 1) -> Isolation:
    """Workers with the limits that a model of unknown origin gets."""
    return Isolation(trial, workers=workers, seconds=SECONDS, memory=MEMORY, prepare=prepare)


def fuzz_import(
    models: Sequence[bytes],
    *,
    seed: int = 0,
    seconds: float | None = None,
    count: int | None = None,
    workers: int = 2,
    keep: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Campaign:
    """Mutates models and tries them.

    Args:
        models: Valid models to start from.
        seed: Of the first mutation; the next ones count up.
        seconds: How long to go on; as long as `count` says if None.
        count: How many to try; no limit if None.
        workers: Processes at once.
        keep: Folder where findings are kept.
        progress: Told how far the work is.
    """
    campaign = Campaign()
    end = None if seconds is None else time.monotonic() + seconds
    start = time.monotonic()

    def mutants() -> Iterator[tuple[int, bytes]]:
        number = seed
        while (count is None or number < seed + count) and (end is None or time.monotonic() < end):
            yield number, mutant(models, number)
            number += 1

    seen: set[str] = set()
    with isolation(workers) as pool, isolation() as lens:
        for number, first in pool.run(mutants()):
            # Where other work takes the processor, a model can be late once; one that hangs is late again.
            late = first.status == "timeout"
            outcome = next(lens.run([(number, mutant(models, number))]))[1] if late else first
            campaign.outcomes[outcome.value if outcome.status == "done" else outcome.status] += 1
            if count is not None:
                progress("trying models", campaign.tried, count)
            elif seconds is not None:
                progress("trying models", min(int(time.monotonic() - start), int(seconds)), int(seconds))
            if outcome.status == "done" or (kind := signature(outcome)) in seen:
                continue
            seen.add(kind)
            finding = _reduced(lens, mutant(models, number), kind, outcome, number)
            campaign.findings.append(finding)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / finding.file_name).write_bytes(finding.model)
    return campaign


def mutant(models: Sequence[bytes], seed: int) -> bytes:
    """The mutated model of a seed."""
    rng = random.Random(seed)
    return mutate(rng.choice(models), models, rng)


def signature(outcome: Outcome) -> str:
    """What tells one failure from another: the exception and the line, the signal, or that it took too long."""
    return f"{outcome.status} {outcome.detail.split(': ')[0] if outcome.status == 'raised' else ''}"


def _reduced(lens: Isolation, model: bytes, kind: str, outcome: Outcome, seed: int) -> Finding:
    def fails(candidate: bytes) -> bool:
        [(_, found)] = lens.run([(0, candidate)])
        return found.status != "done" and signature(found) == kind

    # Each attempt at a model that takes too long takes that long.
    small = minimize(model, fails, attempts=20 if outcome.status == "timeout" else 200)
    return Finding(small, outcome.status, outcome.detail, seed)
