"""What one may say about a server as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphc.errors import OptionError
from graphc.runtime.scheduler import ModelSettings

MODES = ("none", "poll", "explicit")


@dataclass(frozen=True)
class ServerSettings:
    """How a server runs.

    Args:
        repository: Folder of models, each a folder of numbered versions.
        mode: `poll` follows what changes in the repository; `explicit` loads and unloads what is asked for; `none`
            serves what is there at the start.
        poll_seconds: Between two looks at the repository.
        models: Names of those to load at the start, where the mode is `explicit`.
        model: How models are served that do not say otherwise.
        devices: Batches that run at once, as of `graphc.runtime.Scheduler`.
        threads: Of a call; the processors of its device if None.
        memory_limit: Bytes that weights and intermediate values of all models may take.
        compile_only: Take ONNX models alone: packages hold machine code.
        exit_on_error: Whether a model that does not load at the start ends the start.
        cache: Folder for what is compiled; the compiler's own if None.
        name: Of the server, in its metadata.
    """

    repository: Path
    mode: str = "poll"
    poll_seconds: float = 1.0
    models: tuple[str, ...] = ()
    model: ModelSettings = field(default_factory=ModelSettings)
    devices: int | Sequence[Sequence[int]] = 1
    threads: int | None = None
    memory_limit: int | None = None
    compile_only: bool = False
    exit_on_error: bool = False
    cache: Path | None = None
    name: str = "graphc"

    def __post_init__(self) -> None:
        """Refuses what is out of range.

        Raises:
            OptionError: Names the setting.
        """
        if self.mode not in MODES:
            raise OptionError(f"mode is {self.mode!r}; expected one of {', '.join(MODES)}")
        if not self.poll_seconds > 0:
            raise OptionError(f"poll_seconds is {self.poll_seconds!r}; expected a positive number")
