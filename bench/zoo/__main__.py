"""`python -m bench.zoo list|fetch|path [names]`."""

from __future__ import annotations

import argparse
import sys

from bench.zoo import load, names
from bench.zoo.entry import cache_dir


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description="List or fetch the zoo's models.")
    parser.add_argument("action", choices=["list", "fetch", "path"])
    parser.add_argument("names", nargs="*", help="models; all of them if none is named")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; `list` shows them")
    entries = [load(name) for name in options.names or names()]
    if options.action == "list":
        for entry in entries:
            mark = "cached" if (cache_dir() / f"{entry.name}.onnx").exists() else "-"
            print(f"{entry.name:24} {entry.group:9} {mark:7} {entry.source.describe()}")
        return 0
    for index, entry in enumerate(entries, 1):
        path = entry.path
        if options.action == "path":
            print(path)
        else:
            print(f"[{index}/{len(entries)}] {entry.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
