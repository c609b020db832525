"""What was measured: for a region on a machine, the choice of template and tiles that was fastest there.

A compile asks for each region, and takes the cost model's choice where nothing is known. What ships with graphc was
measured on machines of ours, in `tuned/` beside a backend; what `graphc tune` finds is kept in the user's cache folder
and comes first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from graphc.backends.base import Kernel, content_key
from graphc.backends.regions import signature
from graphc.errors import BackendError, PackageError
from graphc.ir import Graph
from graphc.package import atomic_file
from graphc.target import AnyTarget, Target

Choice: TypeAlias = Mapping[str, Any]
"""Options of a backend's `lower` that decide how a region is cut."""

_FORMAT = 1


def region_key(body: Graph, constants: frozenset[int], target: AnyTarget, precision: str = "fp32") -> str:
    """What a region is known by: equal for equal computations on equal machines, whatever compiles them.

    Args:
        body: The region's body.
        constants: Numbers of its inputs that are constants.
        target: The machine; the cores of a CPU count, since they decide what is shared.
        precision: In which products of float32 are computed: `tf32` is another computation.
    """
    shared: list[object] = [target.cores] if isinstance(target, Target) else []
    rounded = ["tf32"] if precision == "tf32" else []
    return content_key([signature(body), sorted(constants), target.isa, *shared, *rounded])


@dataclass(frozen=True)
class Tuned:
    """What was found out about one region.

    Attributes:
        what: The region in brief, for reports.
        choice: The fastest choice.
        gain: How many times as fast it was as the cost model's.
    """

    what: str
    choice: Choice
    gain: float


class TuningDatabase(Mapping[str, Tuned]):
    """Regions by key, with what is known of each.

    Args:
        entries: By `region_key`.
    """

    def __init__(self, entries: Mapping[str, Tuned] | None = None) -> None:
        self._entries = dict(entries or {})

    def __getitem__(self, key: str) -> Tuned:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __or__(self, newer: Mapping[str, Tuned]) -> TuningDatabase:
        """Both; what is in `newer` comes first."""
        return TuningDatabase({**self._entries, **newer})

    def digest(self) -> str:
        """Of all choices: part of what decides a package's bytes."""
        return content_key([(key, _text(self[key].choice)) for key in sorted(self)])

    @classmethod
    def read(cls, path: Path, accepts: Callable[[Choice], bool]) -> TuningDatabase:
        """The database in a file; an empty one where there is no file, or none that can be read.

        Args:
            path: A JSON file that `write` made.
            accepts: Whether a choice is one that the backend understands; others are left out.
        """
        try:
            data = json.loads(path.read_text())
            if data["format"] != _FORMAT:
                return cls()
            entries = {
                str(key): Tuned(str(row["what"]), row["choice"], float(row["gain"]))
                for key, row in data["regions"].items()
                if isinstance(row["choice"], dict) and accepts(row["choice"])
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # A compile is right without it; a damaged file costs speed and is replaced by the next tuning.
            return cls()
        return cls(entries)

    def write(self, path: Path) -> None:
        """Writes it, one region a line, in the order of keys.

        Raises:
            PackageError: The file cannot be written.
        """
        rows = [
            f"{json.dumps(key)}: "
            + json.dumps({"what": row.what, "choice": dict(row.choice), "gain": round(row.gain, 3)}, sort_keys=True)
            for key, row in sorted(self.items())
        ]
        text = f'{{"format": {_FORMAT}, "regions": {{\n' + ",\n".join(rows) + "\n}}\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PackageError(f"cannot make the folder {str(path.parent)!r}: {error.strerror}") from error
        with atomic_file(path) as file:
            file.write(text.encode())


def lower_tuned(found: Tuned | None, lower: Callable[[Choice], Kernel]) -> Kernel | None:
    """The kernel of what was measured to be fastest; None where nothing was, or where no template takes it any more.

    Args:
        found: What is known of the region.
        lower: The region's kernel under a choice; raises BackendError.
    """
    if found is None:
        return None
    try:
        kernel = lower(found.choice)
    except BackendError:
        # Measured with other templates than these: the cost model decides.
        return None
    return replace(kernel, schedule={**kernel.schedule, "tuned": f"{found.gain:.2f}x"})


def _text(choice: Choice) -> str:
    return json.dumps(dict(choice), sort_keys=True)
