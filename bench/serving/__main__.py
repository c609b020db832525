"""The model server: what it answers, how soon, beside rivals and through reloads and faults."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from bench.report import machine
from bench.scheduler.__main__ import rounded
from bench.serving.claims import verdict

RESULTS = Path(__file__).resolve().parents[1] / "results"
PARTS = {
    "images": "images",
    "grpc": "overhead",
    "clients": "clients",
    "reload": "reload",
    "faults": "faults",
    "rival": "rival",
    "start": "start",
}
"""What can be measured, each by a module of this folder."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving",
        description=__doc__,
        epilog="The load runs on the last processor, servers on the others. Exits with 1 where a claim is missed.",
    )
    parser.add_argument("parts", nargs="*", choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)}; or all")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that all works")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the figures (default: bench/results)")
    options = parser.parse_args(arguments)
    missed = False
    figures = {}
    for name in options.parts or PARTS:
        part = import_module(f"bench.serving.{PARTS[name]}")
        _progress(f"{name} ...")
        results = part.measure(options.quick, lambda text, name=name: _progress(f"{name}: {text}"))
        _progress("")
        claims = part.claims(results)
        missed |= not all(claim.holds for claim in claims)
        figures[name] = {
            "machine": machine(),
            "claims": [{**asdict(claim), "holds": claim.holds} for claim in claims],
            **results,
        }
        if not options.json:
            print(f"\n{name}\n\n{part.summary(results)}\n\n{verdict(claims)}")
        if not options.quick:
            options.output.mkdir(parents=True, exist_ok=True)
            path = options.output / f"serving-{name}.json"
            path.write_text(json.dumps(rounded(figures[name]), indent=1) + "\n")
            print(f"written to {path}", file=sys.stderr)
    if options.json:
        print(json.dumps(rounded(figures)))
    return 1 if missed else 0


def _progress(text: str) -> None:
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
