"""Compiles a small model, runs it and asks ONNX Runtime whether the answers are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import graphc
from graphc.runtime import Executable
from graphc.target import Target, detect_host, parse_target
from tests.frontend.models import Array, run_ort

HOST = detect_host()
WIDTHS = ["cpu:x86-64-v3", "cpu:x86-64-v4"] if HOST.architecture == "x86_64" else ["cpu"]
"""Targets of every vector width that x86 kernels are made for; only those that this machine lacks are skipped."""


def target_or_skip(name: str) -> str:
    """`name`, where this machine runs its code."""
    target = parse_target(name)
    assert isinstance(target, Target)
    missing = target.missing(HOST.features)
    if missing:
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    return name


def assert_close(name: str, expected: Any, found: Any, tolerance: float = 1e-5) -> None:
    """Equal dtype and shape; floats within `tolerance` of the expected output's largest magnitude, others equal."""
    if isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected), name
        for left, right in zip(expected, found, strict=True):
            assert_close(name, left, right, tolerance)
        return
    expected, found = np.asarray(expected), np.asarray(found)
    assert found.shape == expected.shape, f"{name}: {found.shape}, expected {expected.shape}"
    if expected.dtype == object:
        assert found.tolist() == expected.tolist(), name
        return
    assert found.dtype == expected.dtype, name
    if expected.dtype.kind not in "fV":
        np.testing.assert_array_equal(found, expected, name)
        return
    wide = expected.astype(np.float64)
    scale = float(np.max(np.abs(wide[np.isfinite(wide)]), initial=0.0)) or 1.0
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_agrees(
    proto: onnx.ModelProto, feeds: Mapping[str, Array], *, tolerance: float = 1e-5, **options: Any
) -> Executable:
    """Compiles, verifying the graph after each pass, and compares every output; answers the executable."""
    module = graphc.compile(proto, **{"verify": True, **options})
    found = module(feeds)
    names = [value.name for value in proto.graph.output]
    assert list(found) == names
    for name, expected in zip(names, run_ort(proto, feeds), strict=True):
        assert_close(name, expected, found[name], tolerance)
    return module
