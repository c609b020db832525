"""What is bisected: a model, inputs, and everything that decides how it is compiled and what its answers should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphc.compiler import CompileOptions, default_cache
from graphc.errors import InputError, OptionError
from graphc.ir import Graph
from graphc.testing.oracle import graph_tolerance
from graphc.testing.verification import Tolerance, scale_of

ORACLES = ("reference", "onnxruntime")
"""What may say which answers are right: the imported graph in NumPy, node by node, or ONNX Runtime on the model."""


@dataclass(frozen=True)
class Setup:
    """How a model is compiled, and what its answers are held against.

    Args:
        passes: A pipeline as text, in place of the level's.
        level: Optimization level, `O0` to `O3`.
        target: What is compiled for; it must run here.
        against: One of `ORACLES`.
        tolerance: Of outputs; by the coarsest float of the model if None.
        plugins: Python files that register passes, rules, operators or targets.
        winograd: Whether convolutions may use Winograd's algorithm.
        precision: What floats are computed in; inputs and outputs keep their types.
        tuning: Whether measurements decide how kernels are cut.
        threads: Of a call.
        cached: Whether kernels may come from the cache.
    """

    passes: str | None = None
    level: str = "O2"
    target: str = "cpu"
    against: str = "reference"
    tolerance: Tolerance | None = None
    plugins: tuple[str, ...] = ()
    winograd: bool = True
    precision: str = "fp32"
    tuning: bool = True
    threads: int = 1
    cached: bool = True

    def __post_init__(self) -> None:
        """Refuses an unknown oracle, and inputs of another type than the model's.

        Raises:
            OptionError: It is none of `ORACLES`, or the precision changes inputs.
        """
        if "," in self.precision:
            raise OptionError(
                f"precision {self.precision!r} changes the inputs that answers are compared for",
                hint=f"bisect with --precision {self.precision.partition(',')[0]}",
            )
        if self.against not in ORACLES:
            raise OptionError(
                f"no engine {self.against!r} to hold answers against", hint=f"there are: {', '.join(ORACLES)}"
            )

    def options(self, *, cached: bool = True) -> CompileOptions:
        """What the compiler is told."""
        return CompileOptions(
            level=self.level,
            passes=self.passes,
            winograd=self.winograd,
            precision=self.precision,
            tuning=self.tuning,
            # The steps looked at must be those that run, not those of a variant for the values of one call.
            specializations=0,
            jobs=1,
            cache=default_cache() if self.cached and cached else None,
        )

    def tolerance_for(self, graph: Graph) -> Tolerance:
        """The tolerance given, or one that the model's dtypes and the precision ask for."""
        return self.tolerance or Tolerance(max(scale_of(self.precision), graph_tolerance(graph)))


@dataclass(frozen=True)
class Case:
    """A model and inputs, on which something may be wrong.

    Args:
        model: The content of an ONNX file, or its path.
        inputs: An array for each input, by name.
        setup: How it is compiled and judged.
        stage: How far it is looked at: `passes` ends where no kernel is needed yet.
        stepwise: Whether it is run step by step at once, so that the step is known that ends the process.
        crumbs: File that always says what is being done; None where nobody would read it.
    """

    model: bytes | str
    inputs: Mapping[str, Any]
    setup: Setup = field(default_factory=Setup)
    stage: str = "run"
    stepwise: bool = False
    crumbs: str | None = None

    def __post_init__(self) -> None:
        """Refuses inputs that are no tensors.

        Raises:
            InputError: One is a sequence, a map or an optional.
        """
        for name, datum in self.inputs.items():
            if not isinstance(datum, np.ndarray):
                raise InputError(f"input {name!r} is no tensor; bisect and reduce take models of tensors only")

    @property
    def source(self) -> bytes | Path:
        """The model as the frontend reads it."""
        return self.model if isinstance(self.model, bytes) else Path(self.model)

    @property
    def dims(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input."""
        return {name: array.shape for name, array in self.inputs.items()}

    def on(self, model: bytes, inputs: Mapping[str, Any]) -> Case:
        """The same question about another model."""
        return replace(self, model=model, inputs=dict(inputs))
