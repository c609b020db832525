"""Versions that are served no more: what was counted of them is kept for a while, and not for ever."""

from __future__ import annotations

from collections.abc import Callable

from graphc.serve.facts import State
from graphc.serve.observer import Changed

MOST = 16


class Departed:
    """The last versions to go; of the first beyond them, what is known is forgotten.

    A server that is given a new version every hour would otherwise remember them all.

    Args:
        forget: Told the model and the version.
    """

    def __init__(self, forget: Callable[[str, str], None]) -> None:
        self._forget = forget
        self._versions: dict[tuple[str, str], None] = {}

    def changed(self, event: Changed) -> None:
        """A version came or went."""
        key = event.model, event.version
        self._versions.pop(key, None)
        if event.state is State.UNAVAILABLE:
            self._versions[key] = None
            if len(self._versions) > MOST:
                first = next(iter(self._versions))
                del self._versions[first]
                self._forget(*first)
