"""What a campaign has reached of what there is to reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphc.testing.fuzzing.trial import Reached
from graphc.testing.fuzzing.wishes import Wish


@dataclass
class Coverage:
    """Tallies over models that agreed.

    Args:
        wishes: What was to be reached.
        rules: How often each rule was applied.
        compiled: In how many models an operator ran in a kernel on a dtype.
        host: In how many it ran in NumPy within the package.
        kinds: How many had control flow, open extents, inputs at the edges of their types.
    """

    wishes: Sequence[Wish]
    rules: Counter[str] = field(default_factory=Counter)
    compiled: Counter[Wish] = field(default_factory=Counter)
    host: Counter[Wish] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, reached: Reached) -> None:
        """Counts what one model showed."""
        self.rules.update(reached.rules)
        self.compiled.update(reached.compiled)
        self.host.update(reached.host)
        self.kinds.update(reached.kinds)

    def has(self, wish: Wish) -> bool:
        """Whether a rule fired, or an operator ran on a dtype."""
        if wish.kind == "rule":
            return wish.name in self.rules
        return wish in self.compiled or wish in self.host

    @property
    def missed(self) -> list[Wish]:
        """What was not reached."""
        return sorted(wish for wish in self.wishes if not self.has(wish))

    def tally(self, kind: str) -> tuple[int, int]:
        """How many wishes of a kind were reached, and of how many."""
        own = [wish for wish in self.wishes if wish.kind == kind]
        return sum(map(self.has, own)), len(own)

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {
            "rules": dict(self.rules.most_common()),
            "compiled": {str(wish): count for wish, count in sorted(self.compiled.items())},
            "host": {str(wish): count for wish, count in sorted(self.host.items())},
            "kinds": dict(self.kinds.most_common()),
            "missed": [str(wish) for wish in self.missed],
        }
