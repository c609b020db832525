"""`python -m bench.gpu compile` makes packages on any machine, `run` times them on one with a GPU, `report` shows it.

`zoo` compiles every model of bench/zoo, on any machine, and says what has no kernel, what spills, how long it takes.

What runs needs the packages, the source tree, NumPy, torch and cuda-bindings, and the models' skeletons, which are in
the tree; packages that are not there are compiled where Triton is. Results are written after each kernel and model, so
that a run that is cut off has all it measured, and `--resume` goes on with what is left.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.gpu.cases import KERNELS, MODELS, Case, Model
from graphc.errors import GraphcError

RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("what", choices=("compile", "run", "report", "zoo"))
    parser.add_argument("--packages", type=Path, default=Path("gpu-packages"), help="folder (default: %(default)s)")
    parser.add_argument("--only", choices=("kernels", "models"), help="leave the others out")
    parser.add_argument("--match", default="", metavar="TEXT", help="kernels and models with this in their names")
    parser.add_argument("--precisions", default="fp16,fp32", help="of models, by commas (default: %(default)s)")
    parser.add_argument("--target", help="of packages (default: cuda:sm_90; zoo: cuda:sm_80,cuda:sm_90)")
    parser.add_argument("--peers", default="torch graph,torch compile,onnxruntime", help="of models, by commas")
    parser.add_argument("--seconds", type=float, default=570, help="begin nothing after (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="keep what the output has, and measure what it has not")
    parser.add_argument("--output", type=Path, help="JSON file (default: gpu.json or gpu-zoo.json in bench/results)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the ratios")
    options = parser.parse_args(arguments)
    options.output = options.output or RESULTS / ("gpu-zoo.json" if options.what == "zoo" else "gpu.json")
    options.target = options.target or ("cuda:sm_80,cuda:sm_90" if options.what == "zoo" else "cuda:sm_90")
    if options.what == "zoo":
        return _zoo(options)
    work = select(options.only, options.match, options.precisions.split(","))
    if options.what == "compile":
        return _compile(work, options)
    if options.what == "run":
        _run(work, options)
    from bench.gpu.report import as_text, write_plot

    results = json.loads(options.output.read_text())
    print(as_text(results))
    if options.plot is not None:
        write_plot(results, options.plot)
    return 0


Work = list[tuple[Case | Model, str]]


def select(only: str | None, match: str, precisions: list[str]) -> Work:
    """Kernels and models, each with its precision, in the order of their weight."""
    work: Work = [(case, case.precision) for case in KERNELS if only != "models"]
    work += [(model, precision) for precision in precisions for model in MODELS if only != "kernels"]
    return [(item, precision) for item, precision in work if match in item.name]


def _compile(work: Work, options: argparse.Namespace) -> int:
    failures = 0
    for item, precision in work:
        start = time.perf_counter()
        try:
            made = compile_one(item, precision, options.packages, options.target)
        except GraphcError as error:
            failures += 1
            print(f"{item.name} {precision}: FAILED: {error.message}")
            continue
        spilled = ", ".join(f"{name} {size} B" for name, size in made.spilling.items())
        host = f"; on the host: {', '.join(made.host)}" if made.host else ""
        print(
            f"{item.name} {precision}: {made.kernels} kernels ({', '.join(made.templates)}) in "
            f"{time.perf_counter() - start:.1f} s{host}{f'; spills: {spilled}' if spilled else ''}",
            flush=True,
        )
    return 1 if failures else 0


def _zoo(options: argparse.Namespace) -> int:
    from bench.gpu.zoo import as_text, compile_entry
    from bench.zoo import names

    jobs = len(os.sched_getaffinity(0))
    results = {"target": options.target, "triton": metadata.version("triton"), "jobs": jobs, "models": []}
    if options.resume and options.output.exists():
        results = json.loads(options.output.read_text())
    done = {(row["name"], row["precision"]) for row in results["models"]}
    work = [(name, precision) for precision in options.precisions.split(",") for name in names()]
    work = [pair for pair in work if options.match in pair[0] and pair not in done]
    for number, (name, precision) in enumerate(work, 1):
        print(f"\r\033[K[{number}/{len(work)}] {name} {precision}", end="", file=sys.stderr, flush=True)
        results["models"].append(compile_entry(name, precision, options.target, jobs))
        _write(results, options.output)
    print("\r\033[K", end="", file=sys.stderr)
    print(as_text(results))
    return 1 if any("failure" in row for row in results["models"]) else 0


def compile_one(item: Case | Model, precision: str, packages: Path, target: str) -> Any:
    """Compiles a kernel or a model into the folder of packages."""
    from bench.gpu.compiling import compile_case, compile_model

    packages.mkdir(parents=True, exist_ok=True)
    jobs = len(os.sched_getaffinity(0))
    if isinstance(item, Case):
        return compile_case(item, packages, target, jobs)
    return compile_model(item, precision, packages, target, jobs)


def _run(work: Work, options: argparse.Namespace) -> None:
    from bench.gpu.compiling import package_path
    from bench.gpu.kernels import measure_kernel
    from bench.gpu.models import measure_model
    from bench.gpu.timing import ColdTimer

    begin = time.monotonic()
    results = json.loads(options.output.read_text()) if options.resume and options.output.exists() else machine()
    timer = ColdTimer()
    peers = tuple(options.peers.split(",")) if options.peers else ()
    done = {(row["name"], row["precision"]) for kind in ("kernels", "models") for row in results[kind]}
    for number, (item, precision) in enumerate(work, 1):
        if (item.name, precision) in done:
            continue
        if time.monotonic() - begin > options.seconds:
            print(f"\nout of time before {item.name} {precision}", file=sys.stderr)
            break
        print(f"\r\033[K[{number}/{len(work)}] {item.name} {precision}", end="", file=sys.stderr, flush=True)

        def measure(item: Case | Model = item, precision: str = precision) -> dict[str, Any]:
            if not package_path(options.packages, item.name, precision).exists():
                compile_one(item, precision, options.packages, options.target)
            if isinstance(item, Case):
                return measure_kernel(item, options.packages, timer)
            return measure_model(item, precision, options.packages, peers)

        results["kernels" if isinstance(item, Case) else "models"].append(attempt(item, precision, measure))
        _write(results, options.output)
    print(file=sys.stderr)


def attempt(item: Case | Model, precision: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured; for what fails, why: the rest goes on."""
    start = time.perf_counter()
    try:
        row = measure()
    except Exception as error:  # of any library: a table with a hole is better than none
        row = {"name": item.name, "precision": precision, "failure": f"{type(error).__name__}: {error}"[:500]}
    return {**row, "measuring seconds": round(time.perf_counter() - start, 1)}


def machine() -> dict[str, Any]:
    """What is measured on, before anything is."""
    import torch

    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "processors": device.multi_processor_count,
        "memory": device.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": metadata.version("triton"),
        "graphc": metadata.version("graphc") if _installed("graphc") else "source tree",
        "kernels": [],
        "models": [],
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _write(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
