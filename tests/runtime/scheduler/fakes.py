"""Executables whose time is controlled: what the scheduler sees of a model, without one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.package import BatchAxes, Code, Manifest, SymbolRange, TensorSpec, Variant
from graphc.runtime import Latency
from graphc.runtime.calibration import Calibration


class Fake:
    """y = 2 x, row by row, for the batches and lengths given; each call takes `seconds(rows)`.

    Args:
        batches: Rows of each variant.
        lengths: Extents of the other dimension.
        seconds: How long a call of some rows takes.
        independent: Whether rows are said to be independent.
        axis: Which axis counts rows.
    """

    def __init__(
        self,
        batches: Sequence[int] = (1, 2, 4, 8),
        lengths: Sequence[int] = (3,),
        *,
        seconds: Callable[[int], float] = lambda rows: 0.0,
        independent: bool = True,
        axis: int = 0,
    ) -> None:
        def shape(batch: Any, length: Any) -> tuple[Any, ...]:
            return (batch, length) if axis == 0 else (length, batch)

        spec = shape("batch", "length")
        variants = tuple(
            Variant("any", {"batch": b, "length": n}, (shape(b, n),), (shape(b, n),), 0, ())
            for n in lengths
            for b in batches
        )
        self.manifest = Manifest(
            "fake",
            (TensorSpec("x", "float32", spec),),
            (TensorSpec("y", "float32", spec),),
            variants,
            {"any": Code("code", "any")},
            symbols={"batch": SymbolRange(), "length": SymbolRange()},
            batch=BatchAxes("batch", (axis,), (axis,)) if independent else None,
        )
        self.variants = variants
        self.threads = 1
        self.axis = axis
        self.seconds = seconds
        self.calls: list[tuple[int, ...]] = []
        self.callers: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.error: Callable[[Any], Exception | None] = lambda array: None

    @property
    def calibration(self) -> dict[str, Calibration]:
        """Latencies as they are, so that nothing is measured."""
        return {
            "fake": {v.inputs: Latency(cost := self.seconds(v.bindings["batch"]) or 1e-4, cost) for v in self.variants}
        }

    def __call__(self, inputs: Any) -> dict[str, Any]:
        (x,) = inputs.values() if isinstance(inputs, dict) else inputs
        assert x.shape in {v.inputs[0] for v in self.variants}
        assert x.flags.c_contiguous
        self.calls.append(x.shape)
        self.callers.append(threading.current_thread().name)
        self.entered.release()
        assert self.gate.wait(20)
        if (error := self.error(x)) is not None:
            raise error
        if (duration := self.seconds(x.shape[self.axis])) > 0:
            time.sleep(duration)
        return {"y": 2 * x}


def row(value: float, length: int = 3, rows: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An input whose answer tells whose it is."""
    return np.full((rows, length), value, np.float32)
