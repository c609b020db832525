"""What other engines answer to a model's inputs, and how far results lie from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.ir import Graph
    from graphc.testing.verification import Difference, Tolerance

ENGINES = ("onnxruntime", "reference")

Shapes = Mapping[str, "tuple[int, ...]"]
"""Shapes of a model's inputs by name; of those that are tensors."""


@dataclass(frozen=True)
class Verdict:
    """One variant beside one engine.

    Args:
        bindings: Of the variant.
        engine: Beside which.
        differences: For each output.
    """

    bindings: str
    engine: str
    differences: list[Difference]


def chosen_engines(names: Sequence[str] | None) -> Sequence[str]:
    """The engines named, or the default.

    Raises:
        OptionError: One is unknown.
    """
    engines = names or ENGINES[:1]
    for engine in engines:
        if engine not in ENGINES:
            raise OptionError(f"no engine {engine!r} to verify against", hint=f"there are: {', '.join(ENGINES)}")
    return engines


@dataclass(frozen=True)
class Judge:
    """A model that engines run.

    Args:
        model: A file, or the bytes of one that a package embeds.
        shapes: Of its inputs.
        threads: Of ONNX Runtime.
        precision: Of the package that is judged, as `--precision` says it.
    """

    model: Path | bytes
    shapes: Shapes
    threads: int
    precision: str = "fp32"

    def verdict(
        self, engine: str, bindings: str, inputs: dict[str, Any], found: Mapping[str, Any], tolerance: Tolerance
    ) -> Verdict:
        """What was found on `inputs` beside what an engine answers."""
        from graphc.testing.verification import compare_outputs

        return Verdict(bindings, engine, compare_outputs(self.answer(engine, inputs), found, tolerance))

    def answer(self, engine: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """What an engine answers to `inputs`, in the element types of the package."""
        precision, _, borders = self.precision.partition(",")
        if borders and isinstance(self.model, Path):
            from graphc.passes.precision import HALVES, is_float32

            # The model has float32 where the package has this; an embedded one has it too.
            narrow = HALVES[precision].numpy
            widened = {value.name for value in self.bound().inputs if is_float32(value)}
            wide = {name: a.astype(np.float32) if name in widened else a for name, a in inputs.items()}
            answer = self._run(engine, wide)
            return {name: a.astype(narrow) if a.dtype == np.float32 else a for name, a in answer.items()}
        return self._run(engine, inputs)

    def bound(self) -> Graph:
        """The imported graph with these shapes."""
        from graphc.frontend import import_model

        return import_model(self.model, dims=dict(self.shapes))

    def _run(self, engine: str, inputs: dict[str, Any]) -> dict[str, Any]:
        if engine == "reference":
            from graphc.ops.evaluate import evaluate_graph

            graph = self.bound()
            outputs = evaluate_graph(graph, [inputs[value.name] for value in graph.inputs])
            return {value.name: datum for value, datum in zip(graph.outputs, outputs, strict=True)}
        from graphc.testing.engines import peer

        return dict(peer("onnxruntime", self.model, inputs, threads=self.threads, dims={}).run())
