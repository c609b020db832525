"""Bytes of requests that the server holds at a time, so that many large ones cannot take all its memory together."""

from __future__ import annotations

from graphc.errors import RefusedError

_LATER = 1.0
"""Seconds after which to come back: requests of that size take about as long."""


class Budget:
    """Counts what is held. Belongs to one event loop.

    Args:
        limit: Bytes that may be held.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Holds so many bytes more.

        Raises:
            RefusedError: They would be too many, with those of other requests.
        """
        if self.held + size > self._limit:
            raise RefusedError(
                f"the server holds {self.held} bytes of requests, and may hold {self._limit}", retry_after=_LATER
            )
        self.held += size

    def give(self, size: int) -> None:
        """Holds so many bytes less."""
        self.held -= size
