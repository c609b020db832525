"""How many models of a campaign ended in what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcomes:
    """Counts of a campaign.

    Args:
        outcomes: How many models ended in what.
    """

    outcomes: Counter[str] = field(default_factory=Counter, kw_only=True)

    @property
    def tried(self) -> int:
        """Models tried."""
        return sum(self.outcomes.values())

    def counts(self) -> dict[str, Any]:
        """Them as a JSON object, the most frequent first."""
        return {"tried": self.tried, "outcomes": dict(self.outcomes.most_common())}
