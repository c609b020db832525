"""The command `graphc`: one file per command, loaded when it is called."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import graphc
from graphc.errors import GraphcError, PassError

FAILED, USAGE, INTERNAL, INTERRUPTED, BROKEN_PIPE = 1, 2, 70, 130, 141
"""Exit statuses: the answer is no or the work failed; wrong usage; a defect of graphc; Ctrl-C; the reader went away."""


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        module: Under `graphc.cli`: has `DESCRIPTION`, `EXAMPLES`, `add_arguments(parser)` and `run(options) -> status`.
        summary: One line for `graphc --help`.
    """

    module: str
    summary: str


COMMANDS: Mapping[str, Command] = {
    "check": Command("check", "what graphc cannot compile or run in a model, all at once"),
    "compile": Command("compile", "an ONNX model into a package"),
    "run": Command("run", "a package or a model, on your inputs or on seeded ones"),
    "inspect": Command("inspect", "what is in it, what each pass did, what runs where, the memory plan and its bound"),
    "why": Command("why", "why a rule or a pass did not do something, or what it did, node by node"),
    "verify": Command("verify", "is it right, and where it first is not"),
    "bisect": Command("bisect", "which pass, rewrite or kernel made it wrong, and the smallest model that shows it"),
    "reduce": Command("reduce", "the smallest model on which a command still fails"),
    "profile": Command("profile", "where the time goes, kernel by kernel"),
    "calibrate": Command("calibrate", "how long each variant of a package takes here, for the scheduler's promises"),
    "serve": Command("serve", "the models of a repository over HTTP and gRPC, within a promised latency"),
    "bench": Command("bench", "how fast it is beside ONNX Runtime and OpenVINO"),
    "tune": Command("tune", "how each kernel is best cut on this machine, by measuring"),
    "passes": Command("passes", "the passes there are, their options, the pipelines"),
    "rules": Command("rules", "the rewrite rules, and tests of them on random instances of their own patterns"),
    "operators": Command("operators", "which operators are compiled, and which run in NumPy, by dtype"),
    "fuzz": Command("fuzz", "damaged models, to be refused or compiled; random ones, beside ONNX Runtime"),
    "conformance": Command("conformance", "the ONNX backend suite: what passes, compiled or with steps in NumPy"),
    "devices": Command("devices", "what this machine is, what code it runs, what can be compiled for"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        0 if all is well, 1 where the work failed or the answer is no, 70 for a defect of graphc, 130 after Ctrl-C.

    Raises:
        SystemExit: The usage is wrong (2), or help or the version was asked for (0).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser(arguments).parse_args(arguments)
    name = f"graphc {options.command}"
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except GraphcError as error:
        if options.debug:
            traceback.print_exc()
            _print_reproducer(error)
        else:
            print(f"{name}: error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # `graphc ... | head`: the reader has what it wants. Python would complain once more when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        else:
            print(f"{name}: internal error: {type(error).__name__}: {error}", file=sys.stderr)
            print("  hint: this is a defect of graphc; --debug shows where", file=sys.stderr)
        return INTERNAL


def _print_reproducer(error: GraphcError) -> None:
    if isinstance(error, PassError) and error.reproducer:
        print(f"\nThe graph that the pass was given:\n{error.reproducer}", file=sys.stderr)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines as they are, and gives the options' names room."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the program. Only the command that is called has its arguments, so that only it is imported."""
    parser = argparse.ArgumentParser(
        prog="graphc",
        description="An ONNX graph compiler: a model in, a fast self-contained package out.",
        epilog="`graphc COMMAND --help` says more, with examples.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"graphc {graphc.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    if called is not None and called not in COMMANDS:
        close = difflib.get_close_matches(called, COMMANDS, 1)
        parser.error(
            f"there is no command {called!r}; "
            + (f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(COMMANDS)}")
        )
    for name, command in COMMANDS.items():
        if name != called:
            commands.add_parser(name, help=command.summary)
            continue
        module: Any = importlib.import_module(f"graphc.cli.{command.module}")
        own = commands.add_parser(
            name,
            help=command.summary,
            description=module.DESCRIPTION,
            epilog=f"examples:\n{module.EXAMPLES.rstrip()}",
            formatter_class=_Formatter,
        )
        module.add_arguments(own)
        own.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")
        own.set_defaults(run=module.run)
    return parser
