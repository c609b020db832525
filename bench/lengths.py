"""Texts of many lengths through one package: `python -m bench.lengths [MODEL] [--lengths 200]`.

Every length is called for the first time and again; then, in turns, by the open variant, by ONNX Runtime and, where a
length is in a sample, by a variant that is bound to it. Nothing runs for 60 ms before each turn, and its first call is
not counted: ONNX Runtime's workers spin on after a call, and whoever comes next would pay for it. What is printed: how
much longer the first call of a length takes than the next ones, and the geometric means of the speedups. 200 lengths
take some seven minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import graphc
from bench.zoo import load

_SAMPLE = 12
"""Lengths that bound variants are compiled for."""

_GAP_SECONDS = 0.06
"""Idle time before each turn."""

_CALLS = 3
"""Counted calls of a turn."""

Call = Callable[[], object]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lengths", description=__doc__)
    parser.add_argument("model", nargs="?", default="minilm_l6_dyn", help="of the zoo (default: %(default)s)")
    parser.add_argument("--symbol", default="seq", help="the dimension that changes (default: %(default)s)")
    parser.add_argument("--lengths", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--longest", type=int, default=384, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the best counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="for each engine (default: all processors)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    result = measure(options.model, options.symbol, options.lengths, options.longest, options.rounds, options.threads)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    return 0


def measure(
    name: str, symbol: str, count: int, longest: int, rounds: int, threads: int | None
) -> dict[str, float | int | str]:
    """Times of one model of the zoo.

    Args:
        name: In the catalog.
        symbol: The dimension that changes; others are as the catalog has them.
        count: Lengths, evenly from 1 to `longest`, in random order.
        longest: The longest.
        rounds: Turns of each engine at each length.
        threads: Of each engine.
    """
    entry = load(name)
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in rng.permutation(np.unique(np.linspace(1, longest, count).astype(int)))]
    feeds: dict[int, dict[str, Any]] = {n: entry.inputs(dims={**entry.dims, symbol: n}) for n in lengths}
    sample = sorted(lengths)[:: max(1, len(lengths) // _SAMPLE)]
    with tempfile.TemporaryDirectory() as folder:
        opened = graphc.compile(entry.path, threads=threads, output=Path(folder, "open.graphc"))
        if not opened.manifest.open:
            sys.exit(f"{name} has no open variant: {opened.manifest.options.get('closed')}")
        dims = {key: value for key, value in entry.dims.items() if key != symbol}
        bound = graphc.compile(
            entry.path, threads=threads, dims={**dims, symbol: sample}, output=Path(folder, "bound.graphc")
        )
    session = _session(entry.path, threads)
    opened(feeds[lengths[0]])
    surplus = []
    for n in lengths[1:]:
        first = _seconds(lambda n=n: opened(feeds[n]))  # type: ignore[misc]
        again = min(_seconds(lambda n=n: opened(feeds[n])) for _ in range(3))  # type: ignore[misc]
        surplus.append(first - again)
    peer, own = [], []
    for n in lengths:
        calls: list[Call] = [lambda n=n: opened(feeds[n]), lambda n=n: session.run(None, feeds[n])]  # type: ignore[misc]
        if n in sample:
            calls.append(lambda n=n: bound(feeds[n]))  # type: ignore[misc]
        times = [min(column) for column in zip(*([_turn(c) for c in calls] for _ in range(rounds)), strict=True)]
        peer.append(times[1] / times[0])
        own += [times[2] / times[0]] if n in sample else []
    return {
        "model": name,
        "lengths": len(lengths),
        "first call over the next, median ms": round(statistics.median(surplus) * 1e3, 2),
        "first call over the next, largest ms": round(max(surplus) * 1e3, 2),
        "over ONNX Runtime, geomean": round(statistics.geometric_mean(peer), 3),
        "over ONNX Runtime, least": round(min(peer), 3),
        f"over {len(sample)} bound variants, geomean": round(statistics.geometric_mean(own), 3),
        "over bound variants, least": round(min(own), 3),
        "arenas, MB": round(opened.memory / 1e6, 1),
    }


def _session(path: Path, threads: int | None) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    if threads is not None:
        settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def _turn(call: Call) -> float:
    """The best time of a few calls, after a gap and a call that wakes the engine's workers."""
    time.sleep(_GAP_SECONDS)
    call()
    return min(_seconds(call) for _ in range(_CALLS))


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
