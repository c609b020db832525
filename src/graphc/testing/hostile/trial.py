"""What graphc makes of one model that may be anything: import, check, compile and a run, for a process of its own."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from graphc.errors import GraphcError, PassError, VerifyError

SECONDS = 5.0
"""Processor time that a model may take."""
MEMORY = 2 << 30
"""Bytes of address space that a model may take."""
RUN_ELEMENTS = 1 << 20
"""Models whose inputs and outputs have more elements are compiled and not run."""
RUN_FLOPS = 10**9
"""Nor are models that ask for more work: that a window of 2^40 elements takes long is no defect."""


def prepare() -> None:
    """Imports what every trial needs, so that no trial is charged for it."""
    import onnx.reference  # noqa: F401

    import graphc.backends.tvm.backend
    import graphc.compiler
    import graphc.testing.inputs  # noqa: F401


def trial(model: bytes) -> str:
    """How far a model gets: `ran`, `compiled`, or the stage and the type of the error that refuses it.

    Raises:
        PassError: A pass failed, or broke the graph.
        VerifyError: The graph is broken.
        Exception: Anything that is no error of graphc's own. All these are what a fuzzer looks for.
    """
    import graphc
    from graphc.frontend import check, import_model

    report = check(model)
    str(report)
    stage = "import"
    try:
        import_model(model)
        stage = "compile"
        with tempfile.TemporaryDirectory(prefix="graphc-trial-") as folder:
            module = graphc.compile(model, output=Path(folder) / "m.graphc", jobs=1, threads=1, verify=True)
            with module:
                stage = "run"
                return _run(module)
    except (PassError, VerifyError):
        # Typed, and yet not about the model: a pass left a graph that is none.
        raise
    except GraphcError as error:
        if not str(error):
            raise AssertionError(f"a {type(error).__name__} without a word") from error
        return f"{stage}: {type(error).__name__}"


def _run(module: object) -> str:
    from graphc.package import KernelStep
    from graphc.runtime import Executable
    from graphc.testing.inputs import seeded_inputs

    assert isinstance(module, Executable)
    variants = module.variants
    if not variants:
        return "compiled"
    shapes = [shape for shape in (*variants[0].inputs, *variants[0].outputs) if shape is not None]
    # What sequences and the like hold is no tensor of the variant, and as large.
    shapes += [tuple(extent or 1 for extent in spec.elements or ()) for spec in module.inputs if spec.wraps]
    if sum(math.prod(shape) for shape in shapes) > RUN_ELEMENTS or variants[0].arena_size > RUN_ELEMENTS * 64:
        return "compiled"
    if sum(step.flops for step in variants[0].steps if isinstance(step, KernelStep)) > RUN_FLOPS:
        return "compiled"
    module(seeded_inputs(module.inputs, variants[0].inputs))
    return "ran"
