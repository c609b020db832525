"""`graphc inspect`: what is in a model or a package, what the passes did, what runs where, and where tensors live."""

from __future__ import annotations

import argparse
from pathlib import Path

from graphc.cli.common import add_compile_options, add_json, add_source, is_package, print_json, refuse_compile_options
from graphc.cli.inspect_model import ModelView
from graphc.cli.inspect_package import PackageView
from graphc.errors import OptionError

DESCRIPTION = """Show what is in a model and what a compile makes of it, or what is in a package.

A model goes through the passes, lowering and memory planning; no kernel is compiled. A package is read by its manifest
alone, without the compiler. Without options: the interface, operators, kernels by template, host steps and memory in
brief."""

EXAMPLES = """
  graphc inspect model.onnx --dim batch=1
  graphc inspect model.onnx --dim batch=1 --passes           what each pass did, and what it refused to do
  graphc inspect model.graphc --kernels --memory             every kernel, the memory plan with its timeline
  graphc inspect model.onnx --draw-memory arena.svg          every buffer of the arena, from step to step
  graphc inspect model.onnx --graph --pipeline fold,simplify the graph after these passes, as text
  graphc inspect model.onnx --print-after fuse 2> after.txt  the graph after one pass of the pipeline
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source(parser)
    parser.add_argument("--passes", action="store_true", help="what each pass did")
    parser.add_argument("--history", action="store_true", help="every change of every pass, in order")
    parser.add_argument("--kernels", action="store_true", help="every kernel")
    parser.add_argument("--memory", action="store_true", help="the memory plan: timeline, bound, largest buffers")
    parser.add_argument(
        "--draw-memory", type=Path, metavar="FILE", help="draw the arena over time as .svg or .png (needs matplotlib)"
    )
    parser.add_argument("--graph", action="store_true", help="the graph after all passes, as text, and nothing else")
    parser.add_argument("--all", action="store_true", help="--passes --kernels --memory")
    for when in ("before", "after"):
        parser.add_argument(
            f"--print-{when}",
            action="append",
            default=[],
            metavar="PASS",
            help=f"print the graph {when} that pass to standard error; all for every one",
        )
    add_compile_options(parser, pipeline="--pipeline")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Shows it."""
    if options.all:
        options.passes, options.kernels, options.memory = not is_package(options.model), True, True
    view: PackageView | ModelView
    if is_package(options.model):
        refuse_compile_options(options)
        for name in ("passes", "history", "graph", "print_before", "print_after"):
            if getattr(options, name):
                raise OptionError(
                    f"a package holds no passes and no graph, so --{name.replace('_', '-')} has nothing to show",
                    hint="inspect the ONNX model instead",
                )
        view = PackageView.open(options)
    else:
        view = ModelView.open(options)
    if options.draw_memory is not None:
        from graphc.cli.memory_picture import draw_arenas

        draw_arenas(view.arenas(), options.draw_memory)
    if options.json:
        print_json(view.to_json())
    else:
        print("\n\n".join(section for section in view.sections(options) if section))
    return 0
