"""GPUs as `graphc devices` shows them: those of this machine, and the architectures that can be compiled for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

from graphc.cli.table import size, table
from graphc.errors import GraphcError
from graphc.target import GPUS


@dataclass(frozen=True)
class Gpus:
    """The GPUs here.

    Args:
        lines: One for each: number, name, architecture and memory.
        architectures: Of all of them.
        problem: Why there is none, as the driver or its bindings say.
    """

    lines: tuple[str, ...]
    architectures: frozenset[str]
    problem: str = ""

    @classmethod
    def find(cls) -> Gpus:
        """Asks the driver."""
        try:
            from graphc.runtime.cuda import devices

            found = devices()
        except GraphcError as error:
            return cls((), frozenset(), error.message)
        lines = tuple(f"{gpu}: {gpu.name}, sm_{gpu.capability}, {size(gpu.memory)}" for gpu in found)
        return cls(lines, frozenset(f"sm_{gpu.capability}" for gpu in found))

    def facts(self) -> dict[str, Any]:
        """What is said of this machine, by name."""
        return {
            "gpu": ", ".join(self.lines) or f"none: {self.problem or 'the driver finds none'}",
            "gpu_compiler": _compiler(),
        }

    def targets_table(self) -> str:
        """Every architecture, and whether it is that of a GPU here."""
        rows = [
            (
                "yes" if target.architecture in self.architectures else "",
                target.name,
                f"{target.shared_bytes // 1024} KiB",
                str(target.processors),
            )
            for target in GPUS.values()
        ]
        return table(("is here", "target", "shared memory", "processors"), rows, left=(0, 1))

    def targets_json(self) -> list[dict[str, Any]]:
        """The same as plain data."""
        return [{**vars(target), "here": target.architecture in self.architectures} for target in GPUS.values()]


def _compiler() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: models do not compile for GPUs (pip install 'graphc[cuda]')"
    return f"Triton {importlib.metadata.version('triton')}"
