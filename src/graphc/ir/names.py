"""Names of values, and new ones that nothing has yet."""

from __future__ import annotations


class Names:
    """Names of values taken in a model; a graph shares it with the graphs nested in it."""

    __slots__ = ("_next", "_taken")

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def take(self, name: str) -> None:
        """Marks a name as taken."""
        self._taken.add(name)

    def absorb(self, other: Names) -> None:
        """Marks every name of another model as taken."""
        if other is not self:
            self._taken |= other._taken

    def fresh(self, base: str) -> str:
        """Takes and answers a name that was not taken: `base`, or `base_1`, `base_2`..."""
        name, count = base, self._next.get(base, 0)
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._next[base] = count
        self._taken.add(name)
        return name
