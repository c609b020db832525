"""Which measurements a compile uses."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from graphc.backends.tuning import Choice, TuningDatabase
from graphc.compiler.options import CompileOptions
from graphc.compiler.targets import BACKENDS
from graphc.runtime.folders import tuning_path
from graphc.target import AnyTarget


def tuned_for(target: AnyTarget, options: CompileOptions) -> TuningDatabase:
    """What is known of the target: what ships with graphc, then what was measured here; empty without tuning."""
    if options.tuned is not None:
        return options.tuned
    if not options.tuning or options.backend not in (None, BACKENDS[target.kind]):
        return TuningDatabase()
    choices = choices_of(target)
    return choices.shipped(target.isa) | TuningDatabase.read(tuning_path(target.isa), choices.accepts)


class Choices(Protocol):
    """What the module `choices` of a backend has."""

    def shipped(self, isa: str) -> TuningDatabase:
        """What is known of an instruction set without any tuning here."""
        ...

    def accepts(self, choice: Choice) -> bool:
        """Whether the backend's templates understand a choice."""
        ...


def choices_of(target: AnyTarget) -> Choices:
    """What can be chosen for kernels of a kind of target."""
    return cast(Choices, import_module(f"graphc.backends.{BACKENDS[target.kind]}.choices"))
