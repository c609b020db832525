"""Which measurements a compile uses."""

from __future__ import annotations

from graphc.backends.tuning import TuningDatabase
from graphc.compiler.options import CompileOptions
from graphc.runtime.folders import tuning_path
from graphc.target import AnyTarget, Target


def tuned_for(target: AnyTarget, options: CompileOptions) -> TuningDatabase:
    """What is known of the target: what ships with graphc, then what was measured here; empty without tuning."""
    if options.tuned is not None:
        return options.tuned
    if not options.tuning or not isinstance(target, Target) or options.backend not in (None, "tvm"):
        return TuningDatabase()
    from graphc.backends.tvm.choices import accepts, shipped

    return shipped(target.isa) | TuningDatabase.read(tuning_path(target.isa), accepts)
