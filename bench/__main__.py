"""The zoo beside its peers: `python -m bench [names] [--against onnxruntime,openvino]`.

Every model is measured in a process of its own, so that none inherits another's pools, memory or crash: first all
engines in turns, which gives the speedups, then each engine alone, which gives what it costs to load and to hold the
model, and a second opinion on its pace.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.plot import write_plot
from bench.report import as_markdown, as_text, machine, right, smaller
from bench.zoo import load, names

RESULTS = Path(__file__).with_name("results")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Time the zoo's models beside other engines.")
    parser.add_argument("names", nargs="*", help="models; all of them if none is named")
    parser.add_argument("--group", help="only models of this group, e.g. small")
    parser.add_argument("--against", default="onnxruntime", help="engines, by commas (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="for each engine (default: all processors)")
    parser.add_argument("--batch", type=int, help="pictures, texts or sounds a call, for models that take several")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="speedups only: leave out each engine alone")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one process (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS / "zoo.json", help="JSON file (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the speedups")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="tables and plot of results of before")
    options = parser.parse_args(arguments)
    if options.report is not None:
        written = json.loads(options.report.read_text())
        _show(written["results"], written["against"], options)
        return 0
    chosen = options.names or names(options.group)
    unknown = sorted(set(chosen) - set(names()))
    if unknown or not chosen:
        parser.error(f"no such model or group: {', '.join(unknown) or options.group}")
    if options.batch is not None:
        chosen = [name for name in chosen if load(name).batch is not None]
        if not chosen:
            parser.error("none of these models takes several items a call")
    against = options.against.split(",")
    settings = {"against": against, "rounds": options.rounds, "threads": options.threads, "alone": not options.quick}

    results = []
    for index, name in enumerate(chosen, 1):
        print(f"\r\033[K[{index}/{len(chosen)}] {name}", end="", file=sys.stderr, flush=True)
        dims = {load(name).batch: options.batch} if options.batch is not None else {}
        results.append(measure(name, {**settings, "dims": dims}, options.timeout))
    print("\r\033[K", end="", file=sys.stderr)
    _show(results, against, options)
    written = {"machine": machine(), "against": against, "batch": options.batch, "results": results}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(written, indent=2) + "\n")
    print(f"written to {options.output}", file=sys.stderr)
    return 0 if all(right(result) for result in results) else 1


def _show(results: Sequence[dict[str, Any]], against: Sequence[str], options: argparse.Namespace) -> None:
    print((as_markdown if options.markdown else as_text)(results, against))
    for peer in against:
        fewer, measured = smaller(results, peer)
        if measured:
            print(f"\nless memory than {peer} on {fewer} of {measured} models")
    if options.plot is not None:
        write_plot(results, against, options.plot)


def measure(name: str, settings: dict[str, Any], timeout: float) -> dict[str, Any]:
    """One model's result, or the reason why there is none under "failure"."""
    entry = load(name)
    label = {"model": name, "group": entry.group}
    chosen = dict(settings)
    alone = chosen.pop("alone", False)
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        if alone:
            chosen["keep"] = folder
        result = _process(["bench.worker", name, json.dumps(chosen)], timeout)
        if alone and "failure" not in result:
            dims = json.dumps({**entry.dims, **chosen.get("dims", {})})
            result["alone"] = {}
            for engine in result["seconds"]:
                model = f"{folder}/model.graphc" if engine == "graphc" else str(entry.path)
                command = ["bench.alone", engine, model, f"{folder}/inputs.npz", str(result["threads"]), dims]
                result["alone"][engine] = _process(command, timeout)
    return {**result, **label}


def _process(command: Sequence[str], timeout: float) -> dict[str, Any]:
    """The JSON object that a module of ours prints, or {"failure": why there is none}."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"took more than {timeout:g} s"}
    lines = done.stdout.splitlines()
    if not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failure": f"exit status {done.returncode}: {last}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
