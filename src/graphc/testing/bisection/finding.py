"""What looking at a case comes to, and what a process leaves behind that dies on the way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.errors import GraphcError
from graphc.testing.verification import Difference


@dataclass(frozen=True)
class Finding:
    """What one case comes to.

    Args:
        status: `right`, `wrong` (another answer), `error` (an exception), `crash`, `hang`, or `unfit` where the case
            says nothing: the model is not valid, or the oracle cannot run it.
        stage: Where: `meaning` (an operator's), `pass`, `compile`, `kernel`, `plan` (of memory), `cache` (of kernels),
            `run`; empty where nothing is wrong.
        name: What is to blame there: an operator, a pass, a kernel, two values that share a place.
        detail: What was seen, in words.
        origins: ONNX nodes that it is about.
        position: Of the pass in the pipeline.
        actions: How often each rule was applied in that pass.
        region: The node whose kernel it is, in text form.
    """

    status: str
    stage: str = ""
    name: str = ""
    detail: str = ""
    origins: tuple[str, ...] = ()
    position: int = -1
    actions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    region: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether something is wrong with the compiler."""
        return self.status not in ("right", "unfit")

    def is_like(self, other: Finding) -> bool:
        """Whether it is the same failure, as far as one can tell from outside."""
        mine, theirs = ((f.status, f.stage, f.name, _kind(f)) for f in (self, other))
        return mine == theirs


def _kind(finding: Finding) -> str:
    """The type of an exception."""
    return finding.detail.partition(":")[0] if finding.status == "error" else ""


def worst(differences: Sequence[Difference]) -> Difference | None:
    """The largest of the differences that are not within their tolerance."""
    return max((d for d in differences if not d.ok), key=lambda d: d.error, default=None)


def differs(difference: Difference) -> str:
    """A difference in words."""
    place = f" at [{', '.join(map(str, difference.place))}]" if difference.place else ""
    return f"%{difference.name} is {difference.found}{place}, not {difference.expected}"


def told(error: BaseException) -> str:
    """An exception with its type."""
    return f"{type(error).__name__}: {error.message if isinstance(error, GraphcError) else error}"


class Crumbs:
    """Says in a file what is being done, for whoever finds the process dead."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def __call__(
        self, stage: str, name: str = "", *, position: int = -1, origins: Sequence[str] = (), region: str = ""
    ) -> None:
        """Says what begins now: fields of a finding."""
        if self._path is not None:
            crumb = {"stage": stage, "name": name, "position": position, "origins": list(origins), "region": region}
            # The process may end at any moment: the file is always whole.
            half = Path(f"{self._path}.half")
            half.write_text(json.dumps(crumb))
            half.replace(self._path)


def read_crumbs(path: Path, status: str, detail: str) -> Finding:
    """What a process was doing that crashed or hung."""
    crumb: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"stage": "import"}
    stage = {"import": "meaning", "evaluate": "pass"}.get(crumb["stage"], crumb["stage"])
    return Finding(
        status,
        stage,
        crumb.get("name", ""),
        detail,
        tuple(crumb.get("origins", ())),
        crumb.get("position", -1),
        region=crumb.get("region", ""),
    )
