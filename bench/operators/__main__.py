"""Single operators beside ONNX Runtime: `python -m bench.operators [names] [--family pooling]`.

Each operator is a model of its own, compiled and timed in turns with ONNX Runtime in a worker process; one that
crashes or hangs fails alone. The inputs are what such an operator gets in the models that it is from.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.operators.cases import CASES
from bench.operators.measure import measured
from bench.operators.report import as_text, speedup_of
from bench.report import machine
from graphc.testing.isolation import Isolation

RESULTS = Path(__file__).parents[1] / "results" / "operators.json"
_SECONDS = 300.0
"""Of processor time for one operator: compiling, and both engines' calls."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.operators", description="Time single operators beside ONNX Runtime."
    )
    parser.add_argument("names", nargs="*", help="operators, such as MaxPool; all of them if none is named")
    parser.add_argument("--family", help="only operators of this family, e.g. pooling")
    parser.add_argument("--threads", type=int, help="for each engine (default: all processors)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file (default: bench/results/operators.json for all of them)")
    parser.add_argument("--below", type=float, metavar="RATIO", help="exit with 1 if a speedup is below this")
    options = parser.parse_args(arguments)
    chosen = [
        (number, case)
        for number, case in enumerate(CASES)
        if options.family in (None, case.family) and (not options.names or case.op_type in options.names)
    ]
    unknown = sorted(set(options.names) - {case.op_type for _, case in chosen})
    if unknown or not chosen:
        parser.error(f"no such operator or family: {', '.join(unknown) or options.family}")

    results: list[dict[str, Any]] = []
    tasks = [(case, (number, options.rounds, options.threads)) for number, case in chosen]
    with Isolation(measured, workers=1, seconds=_SECONDS) as pool:
        for case, outcome in pool.run(tasks):
            found = outcome.value if outcome.status == "done" else {"failure": f"{outcome.status}: {outcome.detail}"}
            results.append({"name": case.name, "family": case.family, **found})
            print(f"\r\033[K[{len(results)}/{len(chosen)}] {case.name}", end="", file=sys.stderr, flush=True)
    print("\r\033[K", end="", file=sys.stderr)
    print(as_text(results))
    output = options.output or (RESULTS if len(chosen) == len(CASES) else None)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
        print(f"written to {output}", file=sys.stderr)
    speedups = [speedup for result in results if (speedup := speedup_of(result)) is not None]
    return 1 if options.below is not None and min(speedups, default=0.0) < options.below else 0


if __name__ == "__main__":
    sys.exit(main())
