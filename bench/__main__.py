"""The zoo beside its peers: `python -m bench [names] [--against onnxruntime,openvino]`.

Every model is measured in a process of its own, so that none inherits another's pools, memory or crash.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.report import agrees, as_markdown, as_text, machine
from bench.zoo import load, names

RESULTS = Path(__file__).with_name("results")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Time the zoo's models beside other engines.")
    parser.add_argument("names", nargs="*", help="models; all of them if none is named")
    parser.add_argument("--group", help="only models of this group, e.g. small")
    parser.add_argument("--against", default="onnxruntime", help="engines, by commas (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="for each engine (default: all processors)")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one model (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS / "zoo.json", help="JSON file (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    chosen = options.names or names(options.group)
    unknown = sorted(set(chosen) - set(names()))
    if unknown or not chosen:
        parser.error(f"no such model or group: {', '.join(unknown) or options.group}")
    against = options.against.split(",")
    settings = {"against": against, "rounds": options.rounds, "threads": options.threads}

    results = []
    for index, name in enumerate(chosen, 1):
        print(f"\r\033[K[{index}/{len(chosen)}] {name}", end="", file=sys.stderr, flush=True)
        results.append(measure(name, settings, options.timeout))
    print("\r\033[K", end="", file=sys.stderr)
    print((as_markdown if options.markdown else as_text)(results, against))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
    print(f"written to {options.output}", file=sys.stderr)
    return 0 if all(agrees(result, against[0]) for result in results) else 1


def measure(name: str, settings: dict[str, Any], timeout: float) -> dict[str, Any]:
    """One model's result, or the reason why there is none under "failure"."""
    group = load(name).group
    command = [sys.executable, "-m", "bench.worker", name, json.dumps(settings)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"model": name, "group": group, "failure": f"took more than {timeout:g} s"}
    lines = done.stdout.splitlines()
    if not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"model": name, "group": group, "failure": f"exit status {done.returncode}: {last}"}
    return {**json.loads(lines[-1]), "model": name, "group": group}


if __name__ == "__main__":
    sys.exit(main())
