"""One zoo model in a process of its own: `python -m bench.worker NAME OPTIONS-AS-JSON` prints a JSON object."""

from __future__ import annotations

import json
import sys

from bench.zoo import load
from graphc.errors import GraphcError
from graphc.testing.benchmark import benchmark


def main(name: str, options: str) -> int:
    entry = load(name)
    chosen = json.loads(options)
    dims = {**entry.dims, **chosen.pop("dims", {})}
    try:
        result = benchmark(entry.path, entry.inputs(dims=dims), dims=dims, **chosen)
    except GraphcError as error:
        print(json.dumps({"model": name, "failure": str(error)}))
        return 1
    print(json.dumps(result.to_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
