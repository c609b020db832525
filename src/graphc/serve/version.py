"""A version of a model: what it is, the state that it is in, and what serves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from graphc.package import Manifest, TensorSpec
from graphc.package.tensor import OPTIONAL
from graphc.runtime import Executable
from graphc.runtime.scheduler import ServedModel
from graphc.serve.facts import State, TensorFacts


@dataclass
class Version:
    """One version of one model.

    Attributes:
        model: Name of the model.
        number: Of the version.
        state: That it is in.
        reason: Why it is not ready.
        path: The package or model that it is made of.
        executable: What runs, while it is ready.
        served: The scheduler's handle of it, while it is ready.
    """

    model: str
    number: int
    state: State = State.LOADING
    reason: str = ""
    path: Path | None = None
    executable: Executable | None = field(default=None, repr=False)
    served: ServedModel | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What messages and the scheduler call it."""
        return f"{self.model}/{self.number}"


def tensor_facts(spec: TensorSpec, *, without: int | None = None) -> TensorFacts:
    """What is told of an input or output.

    Args:
        spec: Of the manifest.
        without: An axis that is left out.
    """
    extents = [extent if isinstance(extent, int) else -1 for extent in spec.shape]
    if without is not None:
        del extents[without]
    return TensorFacts(spec.name, spec.dtype, tuple(extents), spec.wraps[:1] == (OPTIONAL,))


def batches_first(manifest: Manifest) -> bool:
    """Whether requests share calls along the first axis of every input and output."""
    batch = manifest.batch
    return batch is not None and not any(batch.inputs) and not any(batch.outputs)
