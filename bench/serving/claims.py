"""What the figures must show."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.cli.table import table

_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "at least": operator.ge,
    "at most": operator.le,
    "below": operator.lt,
}


@dataclass(frozen=True)
class Claim:
    """A figure and what it is held against.

    Args:
        what: Is measured.
        value: Found.
        relation: `at least`, `at most` or `below`.
        limit: That it must keep.
        unit: Of both.
    """

    what: str
    value: float
    relation: str
    limit: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return _RELATIONS[self.relation](self.value, self.limit)


def verdict(claims: Sequence[Claim]) -> str:
    """Claims as a table."""
    rows = [
        (
            claim.what,
            f"{claim.value:.4g}{claim.unit}",
            f"{claim.relation} {claim.limit:g}{claim.unit}",
            "holds" if claim.holds else "MISSED",
        )
        for claim in claims
    ]
    return table(("", "measured", "must be", ""), rows)
