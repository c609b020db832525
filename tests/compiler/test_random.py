"""Random graphs through the whole compile, at every vector width, against NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.compiler import CompileOptions, compile_package
from graphc.frontend import export_model
from graphc.ir import Graph
from graphc.package import numpy_dtype
from graphc.runtime import Executable
from graphc.testing import check_backend
from tests.compiler.agreement import WIDTHS, target_or_skip
from tests.frontend.models import Array

CANARY = 0xA5
GUARD = 256
HOST_OPERATORS: frozenset[str] = frozenset()
"""Operators of random graphs that have no kernel."""


def poison(module: Executable) -> Callable[[], None]:
    """Fills arenas with NaN, and with canaries between the buffers; answers what checks those after a call."""
    (program,) = module._programs._made()
    contexts = list(program._idle)
    assert contexts, "a call has been made and is over"
    used = np.zeros(program.variant.arena_size, bool)
    for buffer in program.variant.buffers:
        used[buffer.offset : buffer.offset + buffer.size] = True
    for context in contexts:
        context.arena[:] = np.where(used, 0xFF, CANARY)

    def check() -> None:
        for context in contexts:
            assert (context.arena[~used] == CANARY).all(), "a kernel wrote between the buffers"

    return check


def guarded(module: Executable) -> tuple[dict[str, Array], Callable[[], None]]:
    """Outputs of NaN between canaries, and what checks those after a call."""
    (variant,) = module.variants
    blocks: list[Array] = []
    out = {}
    for spec, shape in zip(module.outputs, variant.outputs, strict=True):
        if shape is None:
            continue
        dtype = numpy_dtype(spec.dtype)
        size = math.prod(shape) * dtype.itemsize
        block = np.full(size + 2 * GUARD, CANARY, np.uint8)
        block[GUARD : GUARD + size] = 0xFF
        out[spec.name] = block[GUARD : GUARD + size].view(dtype).reshape(shape)
        blocks.append(block)

    def check() -> None:
        for block in blocks:
            assert (block[:GUARD] == CANARY).all() and (block[-GUARD:] == CANARY).all(), "wrote beside an output"

    return out, check


def compiled(target: str, folder: Path, hosts: list[str]) -> Callable[[Graph, Sequence[Array]], list[Any]]:
    """Compiles a graph and calls it twice: the second time on poisoned memory, which must not matter."""

    def run(graph: Graph, inputs: Sequence[Array]) -> list[Any]:
        path = folder / "random.graphc"
        options = CompileOptions(cache=folder, verify=True)
        compile_package(export_model(graph), path, target=target, options=options)
        feeds = {value.name: array for value, array in zip(graph.inputs, inputs, strict=True)}
        before = [array.copy() for array in inputs]
        with graphc.load(path, threads=2) as module:
            hosts.extend(step.op_type for step in module.variants[0].host_steps)
            first = module(feeds)
            # Outputs given are written the long way, whose memory is kept where it can be poisoned.
            module(feeds, guarded(module)[0])
            out, check_outputs = guarded(module)
            check_arena = poison(module)
            second = module(feeds, out)
            check_outputs()
            check_arena()
        for array, old in zip(inputs, before, strict=True):
            np.testing.assert_array_equal(array, old, "an input was written to")
        for value in graph.outputs:
            assert first[value.name].tobytes() == second[value.name].tobytes(), "old contents of memory show"
        return [second[value.name] for value in graph.outputs]

    return run


@pytest.mark.parametrize("target", WIDTHS)
def test_random_graphs_mean_the_same_compiled(target: str, tmp_path: Path) -> None:
    hosts: list[str] = []
    run = compiled(target_or_skip(target), tmp_path, hosts)
    check_backend(run, examples=40, max_nodes=8, seed=1)
    assert set(hosts) <= HOST_OPERATORS


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", WIDTHS)
@pytest.mark.parametrize("seed", range(5))
def test_many_random_graphs_mean_the_same_compiled(target: str, seed: int, tmp_path: Path) -> None:
    hosts: list[str] = []
    run = compiled(target_or_skip(target), tmp_path, hosts)
    check_backend(run, examples=200, max_nodes=12, seed=seed)
    assert set(hosts) <= HOST_OPERATORS
