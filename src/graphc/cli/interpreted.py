"""`graphc verify --interpret`: a compile for GPUs judged on a machine without one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np

from graphc.cli.common import compile_options, is_package
from graphc.cli.feeds import single_feed
from graphc.cli.judges import Judge, Verdict
from graphc.cli.progress import Progress
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values
from graphc.errors import OptionError


def interpreted(options: argparse.Namespace, engines: Sequence[str]) -> list[Verdict]:
    """What interpreted kernels make of one set of inputs, beside each engine.

    Raises:
        OptionError: The target is no GPU, or what is given cannot be interpreted.
        ExecutionError: A kernel touches what it must not; names the nodes.
    """
    _check(options)
    with installed():
        from graphc.compiler import lower_model
        from graphc.testing.triton.programs import interpret_program
        from graphc.testing.verification import told_tolerance
    inputs, dims = single_feed(options, options.model, "an interpreted run")
    with Progress() as progress:
        chosen = compile_options(options, progress)
        bound = {name: np.shape(array) for name, array in inputs.items() if isinstance(array, np.ndarray)}
        lowered = lower_model(
            options.model, target=options.target, dims=bound, values=compile_values(options), options=chosen
        )
        (program,) = lowered.programs[:1]
        total = len(program.buffers.steps)
        outputs = interpret_program(
            program,
            [inputs[value.name] for value in program.graph.inputs],
            begin=lambda number, node: progress(f"interpreting {node.name or node.op}", number, total),
        )
    found = {value.name: datum for value, datum in zip(program.graph.outputs, outputs, strict=True)}
    judge = Judge(options.model, bound, options.threads or os.cpu_count() or 1, chosen.precision)
    tolerance = told_tolerance(chosen.precision, options.scale, options.rtol, options.atol)
    where = ", ".join(f"{name}={value}" for name, value in dims.items() if isinstance(value, int))
    name = f"{program.target.isa}{f', {where}' if where else ''}, interpreted"
    return [judge.verdict(engine, name, inputs, found, tolerance) for engine in engines]


def _check(options: argparse.Namespace) -> None:
    if is_package(options.model):
        raise OptionError(
            "a package holds machine code, which nothing interprets",
            hint="verify the ONNX model that it was compiled from, with the same --target",
        )
    if options.layers:
        raise OptionError("--layers looks at what a machine runs; --interpret names the step by itself where one fails")
    if options.onnx is not None:
        raise OptionError("--model is for packages, and an ONNX model is given already")
    kinds = [name.strip().partition(":")[0].lower() for name in (options.target or "cpu").split(",")]
    if kinds != ["cuda"]:
        raise OptionError(
            f"--interpret runs kernels of one GPU, not of {options.target or 'cpu'}",
            hint="--target cuda:sm_90; graphc devices lists others",
        )
