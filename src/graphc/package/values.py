"""Values of parameters: as a variant holds them, and as people read and type them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.package.manifest import Manifest
from graphc.package.tensor import numpy_dtype
from graphc.package.variant import Variant

Array = np.ndarray[Any, Any]


def parameter_values(manifest: Manifest, variant: Variant) -> dict[str, Array]:
    """The values that a variant of a manifest is for, by input."""
    found = {}
    for spec, shape in zip(manifest.inputs, variant.inputs, strict=True):
        if (data := variant.values.get(spec.name)) is not None:
            found[spec.name] = np.frombuffer(data, numpy_dtype(spec.dtype)).reshape(shape)
    return found


def format_value(array: Array) -> str:
    """A value as `--value` takes it: `3`, `true`, `[1, -1]`."""
    plain = array if array.dtype.kind in "biu" else array.astype(np.float64)
    return json.dumps(plain.tolist())


def format_values(values: Mapping[str, Array]) -> str:
    """`axes=[1], k=3`; empty where there are none."""
    return ", ".join(f"{name}={format_value(array)}" for name, array in values.items())
