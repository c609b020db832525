"""`graphc reduce`: the smallest model on which a command still fails."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphc.cli.common import (
    add_dims,
    add_json,
    add_model,
    add_plugins,
    add_values,
    positive,
    positive_number,
    print_json,
)
from graphc.cli.feeds import add_inputs, single_feed
from graphc.cli.progress import Progress
from graphc.cli.table import count
from graphc.cli.toolchain import installed
from graphc.errors import OptionError

DESCRIPTION = """Make a model small while a command still fails on it.

The command is run by the shell, with {model} and {inputs} replaced by the files of a smaller model and its inputs (an
.npz with an array for each); where it names neither, both are added to its end. Its exit status on the whole model,
which must not be 0, is what is kept; with --match, also that its output matches. A command that does not come back in
--seconds is ended, and that counts as its status.

Any command will do: graphc itself, another runtime, a script. Ctrl-C keeps the smallest model so far."""

EXAMPLES = """
  graphc reduce model.onnx --check "graphc verify {model} --input {inputs}" --dim batch=1
  graphc reduce model.onnx --check "python crash.py {model} {inputs}" --match "Segmentation fault" -o small.onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_model(parser)
    parser.add_argument(
        "--check", required=True, metavar="COMMAND", help="fails while a model shows what is looked for"
    )
    parser.add_argument("--match", type=_pattern, metavar="REGEX", help="what its output must hold too")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="the small model (default: MODEL.small.onnx)")
    parser.add_argument(
        "--attempts", type=positive, default=1000, metavar="N", help="smaller models to try (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=positive_number, metavar="N", help="how long to look for a smaller model")
    parser.add_argument(
        "--seconds", type=positive_number, default=60.0, metavar="N", help="time of one check (default: %(default)g)"
    )
    add_inputs(parser)
    add_dims(parser)
    add_values(parser)
    add_plugins(parser)
    add_json(parser)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


def run(options: argparse.Namespace) -> int:
    """Reduces; 0 with the smallest model written."""
    with installed():
        from graphc.compiler import load_plugins
        from graphc.testing.reduction import reduce
    load_plugins(options.plugins)
    output: Path = options.output or Path(f"{options.model.stem}.small.onnx")
    if not output.absolute().parent.is_dir():
        raise OptionError(f"cannot write {str(output)!r}: there is no such folder")
    inputs, _ = single_feed(options, options.model, "a reduction")
    with tempfile.TemporaryDirectory(prefix="graphc-reduce-") as folder, Progress() as progress:
        check = _Check(options.check, options.match, options.seconds, Path(folder))
        reduced = reduce(
            options.model,
            check.fails,
            inputs,
            attempts=options.attempts,
            seconds=None if options.minutes is None else 60 * options.minutes,
            progress=progress,
        )
    arrays = output.with_suffix(".npz")
    _write(output, lambda path: path.write_bytes(reduced.model.SerializeToString()))
    _write(arrays, lambda path: _save_inputs(path, reduced.inputs))
    shapes = {name: list(array.shape) for name, array in reduced.inputs.items()}
    if options.json:
        print_json(
            {
                "model": str(output),
                "inputs": str(arrays),
                "shapes": shapes,
                "status": check.status,
                **{name: getattr(reduced, name) for name in ("nodes", "nodes_before", "attempts", "complete")},
            }
        )
    else:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
        print(f"{count(reduced.nodes, 'node')} of {reduced.nodes_before}, inputs {told}")
        print(
            f"{reduced.attempts} tried{'' if reduced.complete else ', not finished'}; the check ends as before: {check}"
        )
        print(f"written to {output} and {arrays}")
    return 0


_UNKNOWN = "unknown"


@dataclass
class _Check:
    """The command, and how it ended on the whole model.

    Args:
        command: With `{model}` and `{inputs}`.
        match: What its output must hold.
        seconds: Until it is ended.
        folder: For the files that it reads.
    """

    command: str
    match: re.Pattern[str] | None
    seconds: float
    folder: Path
    _kept: int | str | None = _UNKNOWN

    @property
    def status(self) -> int | None:
        """How the whole model made it end; None where it had to be ended."""
        return self._kept if isinstance(self._kept, int) else None

    def fails(self, model: Any, inputs: Mapping[str, Any]) -> bool:
        """Whether it ends on a model as it did on the whole one."""
        files = {"model": self.folder / "model.onnx", "inputs": self.folder / "inputs.npz"}
        files["model"].write_bytes(model.SerializeToString())
        _save_inputs(files["inputs"], inputs)
        command = self.command
        if not any(f"{{{name}}}" in command for name in files):
            command += " {model} {inputs}"
        for name, path in files.items():
            command = command.replace(f"{{{name}}}", shlex.quote(str(path)))
        status, text = self._run(command)
        if self.match is not None and not self.match.search(text):
            return False
        if status == 0:
            return False
        if self._kept is _UNKNOWN:
            self._kept = status
        return status == self._kept

    def _run(self, command: str) -> tuple[int | None, str]:
        """Its exit status, None where it had to be ended, and what it printed."""
        with subprocess.Popen(
            command, shell=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            try:
                text, _ = process.communicate(timeout=self.seconds)
                return process.returncode, text.decode(errors="replace")
            except BaseException as error:
                # With it goes what it has started; Ctrl-C does not reach another session.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                text, _ = process.communicate()
                if isinstance(error, subprocess.TimeoutExpired):
                    return None, text.decode(errors="replace")
                raise

    def __str__(self) -> str:
        return f"status {self.status}" if self.status is not None else f"no end after {self.seconds:g} s"


def _save_inputs(path: Path, inputs: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **inputs)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file that appears whole.

    Raises:
        OptionError: It cannot be written.
    """
    half = path.with_name(f".{path.name}.half")
    try:
        write(half)
        half.replace(path)
    except OSError as error:
        raise OptionError(f"cannot write {str(path)!r}: {error.strerror}") from error
    finally:
        half.unlink(missing_ok=True)
