"""Arguments that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from graphc.cli.toolchain import installed
from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.compiler import CompileOptions

Dims: TypeAlias = "dict[str, int | list[int | range] | range | tuple[int | None, ...]]"
"""What `--dim` gives: an extent, a list of them (a variant each), or an input's shape, None for what stays open."""

PACKAGE_MAGIC = b"PK\x03\x04"
_SHAPE = re.compile(r"[0-9?]+(?:x[0-9?]+)*")


def add_model(parser: argparse.ArgumentParser, name: str = "model", what: str = "an ONNX model") -> None:
    """The positional argument MODEL, or MODEL_OR_PACKAGE."""
    metavar = "MODEL" if name == "model" else name.upper()
    parser.add_argument("model", metavar=metavar, type=Path, help=what)


def add_source(parser: argparse.ArgumentParser) -> None:
    """The positional argument of commands that take a model or a package."""
    add_model(parser, "model_or_package", "a .graphc package, or an ONNX model, which is then compiled first")


def add_dims(parser: argparse._ActionsContainer) -> None:
    """`--dim`."""
    parser.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="NAME=N[,N...]",
        dest="dims",
        help="bind a symbolic dimension (several extents: a variant each), or the shape of an input: x=1x3x224x224; "
        "graphc compile takes NAME=auto for the dimension that counts rows",
    )


def add_values(parser: argparse._ActionsContainer) -> None:
    """`--value`."""
    parser.add_argument(
        "--value",
        action="append",
        default=[],
        metavar="NAME=V[,V...]",
        dest="values",
        help="what an input always is, where its value decides shapes: axes=[1], k=3 (several values: a variant each)",
    )


def add_compile_options(parser: argparse.ArgumentParser, *, pipeline: str = "--passes") -> None:
    """Everything that decides what a compile writes.

    Args:
        parser: Where they go.
        pipeline: Name of the option that gives the pipeline; `inspect` has another meaning for `--passes`.
    """
    group = parser.add_argument_group("compilation")
    group.add_argument(
        "--target", metavar="NAME[,NAME...]", help="machines to compile for (default: cpu, this one); graphc devices"
    )
    add_dims(group)
    add_values(group)
    group.add_argument(
        "-O", dest="level", choices=("0", "1", "2", "3"), metavar="LEVEL", help="optimization level 0 to 3 (default: 2)"
    )
    group.add_argument(
        pipeline,
        dest="pipeline",
        metavar="PASSES",
        help="a pipeline in place of the level's, e.g. 'fold,simplify,fuse'; graphc passes",
    )
    group.add_argument(
        "--backend",
        metavar="NAME",
        help="what makes kernels: tvm (CPUs), triton (GPUs), reference for every node in NumPy, or one of a plugin",
    )
    group.add_argument(
        "--no-winograd", action="store_true", help="3x3 convolutions without Winograd's transform, which rounds more"
    )
    group.add_argument(
        "--precision",
        default="fp32",
        metavar="TYPE",
        help="what floats are computed in: fp32 (default), tf32 (products, on GPUs), fp16 or bf16 where that is safe;"
        " fp16,io changes the type of inputs and outputs too",
    )
    group.add_argument(
        "--specializations",
        type=natural,
        metavar="N",
        help="variants compiled for values that come where --value leaves them open (default: 16)",
    )
    group.add_argument(
        "--no-open-variants",
        action="store_true",
        help="no kernels for any extent: what --dim leaves open is compiled for each shape when it first comes",
    )
    group.add_argument("--no-tuning", action="store_true", help="cut kernels by the cost model alone; graphc tune")
    group.add_argument("--require-compiled", action="store_true", help="a step that has no kernel is an error")
    group.add_argument("--verify-passes", action="store_true", help="verify the graph after every pass")
    group.add_argument("--jobs", type=positive, metavar="N", help="kernels compiled at once (default: all processors)")
    group.add_argument("--no-cache", action="store_true", help="compile every kernel anew")
    add_plugins(group)


def add_plugins(parser: argparse._ActionsContainer) -> None:
    """`--plugin`."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        dest="plugins",
        help="run a Python file first, which registers passes, rules, operators or targets",
    )


def add_threads(parser: argparse._ActionsContainer) -> None:
    """`--threads`."""
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="threads of a call (default: GRAPHC_NUM_THREADS, or all)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def positive(text: str) -> int:
    """A positive integer, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value


def positive_number(text: str) -> float:
    """A positive finite number, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def natural(text: str) -> int:
    """Zero or a positive integer, for argparse."""
    return 0 if text == "0" else positive(text)


def comma_list(text: str) -> list[str]:
    """Words with commas between, for argparse."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError("it is empty")
    return words


def parse_dims(texts: list[str]) -> Dims:
    """What `--dim` options say.

    Raises:
        OptionError: One of them is malformed, or a name is given twice.
    """
    dims: Dims = {}
    for text in texts:
        # Names may hold an equals sign; extents do not.
        name, equals, given = text.rpartition("=")
        if not equals or not name or not given:
            raise OptionError(f"--dim {text}: expected NAME=EXTENT", hint="for example --dim batch=8")
        if name in dims:
            raise OptionError(
                f"--dim {name} is given twice", hint=f"several extents are one option: --dim {name}=1,{given}"
            )
        dims[name] = _extents(text, given)
    return dims


def _extents(text: str, given: str) -> int | list[int | range] | range | tuple[int | None, ...]:
    if given == "auto":
        raise OptionError(f"--dim {text}: only graphc compile chooses extents", hint="name one, e.g. 8")
    if given.isdecimal():
        return int(given)
    if given.startswith("[") and given.endswith("]"):
        return _shape(text, [extent.strip() for extent in given[1:-1].split(",") if extent.strip()])
    if _SHAPE.fullmatch(given):
        return _shape(text, given.split("x"))
    words = [_range(word) if ".." in word else int(word) if word.isdecimal() else None for word in given.split(",")]
    known = [word for word in words if word is not None]
    if len(known) != len(words):
        raise OptionError(
            f"--dim {text}: {given!r} is neither an extent, nor a range, nor extents with commas, nor a shape",
            hint="for example --dim batch=8, --dim seq=1..512, --dim batch=1,8 or --dim x=1x3x224x224",
        )
    return known[0] if len(known) == 1 else known


def _range(text: str) -> range | None:
    """`1..512`, both inclusive, or `1..` without an end."""
    low, _, high = text.partition("..")
    if not low.isdecimal() or not (high.isdecimal() or not high):
        return None
    found = range(int(low), int(high) + 1 if high else sys.maxsize)
    return found if found else None


def _shape(text: str, extents: list[str]) -> tuple[int | None, ...]:
    for extent in extents:
        if extent != "?" and not extent.isdecimal():
            raise OptionError(f"--dim {text}: {extent!r} is not an extent")
    return tuple(None if extent == "?" else int(extent) for extent in extents)


def is_package(path: Path) -> bool:
    """Whether a file is a package, by its first bytes; by its name where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(PACKAGE_MAGIC)) == PACKAGE_MAGIC or path.suffix == ".graphc"
    except OSError:
        return path.suffix == ".graphc"


def compile_options(options: argparse.Namespace, progress: Callable[[str, int, int], None]) -> CompileOptions:
    """The compile options that the arguments mean; plugins are loaded, since passes may be theirs.

    Raises:
        ToolchainError: The compiler is not installed.
        OptionError: A plugin fails.
    """
    with installed():
        from graphc.compiler import CompileOptions, default_cache, load_plugins

    load_plugins(options.plugins)
    return CompileOptions(
        level=f"O{options.level or 2}",
        passes=options.pipeline,
        backend=options.backend,
        winograd=not options.no_winograd,
        precision=options.precision,
        open_variants=not options.no_open_variants,
        tuning=not options.no_tuning,
        require_compiled=options.require_compiled,
        embed_model=getattr(options, "embed_model", False),
        specializations=16 if options.specializations is None else options.specializations,
        verify=options.verify_passes,
        cache=None if options.no_cache else default_cache(),
        jobs=options.jobs or len(os.sched_getaffinity(0)),
        progress=progress,
        print_before=tuple(getattr(options, "print_before", ())),
        print_after=tuple(getattr(options, "print_after", ())),
    )


def refuse_compile_options(options: argparse.Namespace) -> None:
    """Says so where an option of the compiler is given with a package, on which it has no effect.

    Raises:
        OptionError: Such an option is given.
    """
    given = {
        "-O": options.level,
        "--passes": options.pipeline,
        "--backend": options.backend,
        "--no-winograd": options.no_winograd,
        "--precision": options.precision != "fp32",
        "--specializations": options.specializations is not None,
        "--no-open-variants": options.no_open_variants,
        "--no-tuning": options.no_tuning,
        "--require-compiled": options.require_compiled,
        "--verify-passes": options.verify_passes,
        "--plugin": options.plugins,
    }
    for name, value in given.items():
        if value:
            raise OptionError(
                f"{str(options.model)!r} is compiled already, so {name} has no effect",
                hint="give the ONNX model instead of the package",
            )


def print_json(data: Any) -> None:
    """Prints JSON to standard output; NaN and infinities, which JSON has no words for, as null."""
    json.dump(_plain(data), sys.stdout, indent=2, ensure_ascii=False)
    print()


def _plain(data: Any) -> Any:
    match data:
        case Mapping():
            return {str(key): _plain(value) for key, value in data.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in data]
        case float():
            return data if math.isfinite(data) else None
        case str() | int() | None:
            return data
    return str(data)
