"""What passes ask a backend before they decide: can you do this, and what would it cost?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from graphc.ir import Node


@dataclass(frozen=True)
class Verdict:
    """The answer to `supports`; true where the answer is yes.

    Args:
        ok: Whether the node has a compiled form.
        reason: Why not, in words a user understands; may be empty for a yes.
    """

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


def accepted(reason: str = "") -> Verdict:
    """A yes."""
    return Verdict(True, reason)


def refused(reason: str) -> Verdict:
    """A no, and why."""
    return Verdict(False, reason)


class Capability(Protocol):
    """What a backend can compile for one target."""

    def supports(self, node: Node) -> Verdict:
        """Whether the node, with the types and layouts it has now, has a compiled form, else why not."""
        ...


class CostModel(Protocol):
    """What a backend thinks a node takes on one target."""

    def seconds(self, node: Node) -> float:
        """Estimated time of one run of the node, symbolic extents taken at their lower bounds."""
        ...
