"""One zoo model, all engines in turns: `python -m bench.worker NAME OPTIONS-AS-JSON` prints a JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.zoo import load
from graphc.errors import GraphcError
from graphc.testing.benchmark import benchmark


def main(name: str, options: str) -> int:
    entry = load(name)
    chosen = json.loads(options)
    dims: dict[str, Any] = {**entry.dims, **chosen.pop("dims", {})}
    inputs: dict[str, Any] = entry.inputs(dims=dims)
    # Shapes too: some models have dimensions without names.
    dims |= {name: array.shape for name, array in inputs.items()}
    keep = chosen.pop("keep", None)
    package = None
    if keep is not None:
        np.savez(Path(keep, "inputs.npz"), **inputs)
        package = Path(keep, "model.graphc")
    try:
        result = benchmark(entry.path, inputs, dims=dims, package=package, **chosen)
    except GraphcError as error:
        print(json.dumps({"model": name, "failure": str(error)}))
        return 1
    print(json.dumps(result.to_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
