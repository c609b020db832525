"""What a compile is told, checked once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from graphc.backends.base import backend_names
from graphc.backends.tuning import TuningDatabase
from graphc.errors import OptionError
from graphc.ir import DType
from graphc.passes import PassObserver
from graphc.passes.precision import HALVES

DimChoice: TypeAlias = "int | Sequence[int | str | range | None]"
"""One extent, several (a variant each), a range that one variant is for, or the shape of an input."""

PRECISIONS = ("fp32", "tf32", *HALVES)
"""What floats may be computed in."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides what a compile writes.

    Args:
        level: Optimization level, `O0` to `O3`.
        passes: A pipeline as text, in place of the level's.
        backend: `tvm` for CPUs, `triton` for GPUs, `reference` to evaluate every node in NumPy, or one that a plugin
            registered; None is the one of each target's kind.
        winograd: Whether 3x3 convolutions may use Winograd's algorithm (relative error up to about 6e-6).
        precision: What floats are computed in: `fp32`; `tf32`, products of float32 on tensor cores, which round
            operands to 10 bits; `fp16` or `bf16`, products and what follows them safely half-width, the rest float32.
            With `,io` behind a half-width type, float32 inputs and outputs of the model become of that type.
        require_compiled: Whether a step on the host is an error.
        embed_model: Whether the package carries the model, so that further shapes can be compiled where it runs.
        specializations: Variants that one load of the package may have compiled for values of its parameters, where
            the compile leaves some open; 0 leaves them to the variant for any value, with its steps on the host.
        open_variants: Whether dimensions that are left open, or given as ranges, get kernels for any extent.
        tuning: Whether regions are cut as measurements say: those that ship with graphc, and those of `graphc tune`.
        tuned: Measurements to use in place of those.
        verify: Whether the graph is verified after every pass.
        cache: Folder of compiled objects; None compiles everything anew.
        jobs: Kernels compiled at once.
        progress: Told how far the work is.
        print_before: Names of passes before which the graph is printed to standard error; `all` is every one.
        print_after: Names of passes after which it is printed.
        observers: Told before and after every pass, over the model and over the bodies of its loops.
    """

    level: str = "O2"
    passes: str | None = None
    backend: str | None = None
    winograd: bool = True
    precision: str = "fp32"
    require_compiled: bool = False
    embed_model: bool = False
    specializations: int = 16
    open_variants: bool = True
    tuning: bool = True
    tuned: TuningDatabase | None = None
    verify: bool = False
    cache: Path | None = None
    jobs: int = 2
    progress: Progress = field(default=lambda what, done, total: None, compare=False)
    print_before: tuple[str, ...] = ()
    print_after: tuple[str, ...] = ()
    observers: tuple[PassObserver, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Refuses what would fail later in the words of a library below.

        Raises:
            OptionError: A value is of another type, or out of range.
        """
        if self.backend is not None and self.backend not in backend_names():
            raise OptionError(f"unknown backend {self.backend!r}; known: {', '.join(backend_names())}")
        kind, comma, borders = self.precision.partition(",") if isinstance(self.precision, str) else ("", "", "")
        if kind not in PRECISIONS or (comma and (borders != "io" or kind not in HALVES)):
            raise OptionError(
                f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}; fp16,io and bf16,io"
            )
        if self.passes is not None and not isinstance(self.passes, str):
            raise OptionError(f"passes is {self.passes!r}; expected a pipeline as text, e.g. 'fold,dce'")
        if not isinstance(self.jobs, int) or self.jobs < 1:
            raise OptionError(f"jobs is {self.jobs!r}; expected a positive integer")
        if type(self.specializations) is not int or self.specializations < 0:
            raise OptionError(f"specializations is {self.specializations!r}; expected zero or a positive integer")
        if self.cache is not None:
            object.__setattr__(self, "cache", Path(self.cache))

    @property
    def computed_in(self) -> str:
        """The precision without what it says of inputs and outputs."""
        return self.precision.partition(",")[0]

    @property
    def border_type(self) -> DType | None:
        """What inputs and outputs of float32 become, if anything else."""
        return HALVES[self.computed_in] if self.precision.endswith(",io") else None

    def recorded(self) -> dict[str, str]:
        """What the package says of how it was made: options that change its contents."""
        return {
            "level": self.level,
            "passes": self.passes or "",
            **({} if self.backend is None else {"backend": self.backend}),
            "winograd": str(self.winograd).lower(),
            **({} if self.precision == "fp32" else {"precision": self.precision}),
            **({} if self.open_variants else {"open_variants": "false"}),
            **({} if self.tuning else {"tuning": "false"}),
            # What is compiled on demand is held to it too.
            **({"require_compiled": "true"} if self.require_compiled else {}),
        }

    @classmethod
    def from_record(cls, recorded: Mapping[str, str], cache: Path | None) -> CompileOptions:
        """The options that a package was made with, for a variant of bound extents and values more of it.

        Args:
            recorded: `Manifest.options`.
            cache: Folder of compiled objects.
        """
        return cls(
            level=recorded.get("level", "O2"),
            passes=recorded.get("passes") or None,
            backend=recorded.get("backend"),
            winograd=recorded.get("winograd", "true") == "true",
            precision=recorded.get("precision", "fp32"),
            require_compiled=recorded.get("require_compiled") == "true",
            specializations=0,
            open_variants=False,
            tuning=recorded.get("tuning", "true") == "true",
            cache=cache,
        )


def expand_dims(dims: Mapping[str, DimChoice] | None, inputs: Iterable[str]) -> list[dict[str, DimChoice]]:
    """One binding for each variant: every combination of the extents listed for symbols.

    Args:
        dims: `{"batch": 8}`, `{"batch": [1, 8, 32]}`, or a shape by input name: `{"x": [1, 3, 224, 224]}`.
        inputs: Names of the model's inputs.

    Raises:
        OptionError: An extent is no natural number, or a list is empty.
    """
    if dims is not None and not isinstance(dims, Mapping):
        raise OptionError(f"dims is {dims!r}; expected a dictionary, e.g. {{'batch': 8}}")
    names = set(inputs)
    fixed: dict[str, DimChoice] = {}
    varied: dict[str, list[int | range]] = {}
    for name, given in (dims or {}).items():
        if isinstance(given, bool) or not isinstance(given, int | Sequence) or isinstance(given, str):
            raise OptionError(f"dimension {name!r} is given as {given!r}; expected an integer or a list of them")
        if isinstance(given, int) or name in names:
            fixed[name] = given
            continue
        if isinstance(given, range):
            fixed[name] = _checked_range(name, given)
            continue
        extents = [
            _checked_range(name, extent) if isinstance(extent, range) else extent
            for extent in given
            if isinstance(extent, int | range) and not isinstance(extent, bool)
        ]
        if not extents or len(extents) != len(given):
            raise OptionError(f"dimension {name!r} is given as {list(given)!r}; expected integers")
        varied[name] = list(dict.fromkeys(extents))
    return [{**fixed, **dict(zip(varied, choice, strict=True))} for choice in itertools.product(*varied.values())]


def _checked_range(name: str, given: range) -> range:
    if given.step != 1 or given.start < 0 or not len(given):
        raise OptionError(f"dimension {name!r} is given as {given}; expected a range of natural numbers in steps of 1")
    return given


def without_ranges(dims: Mapping[str, DimChoice]) -> dict[str, int | Sequence[int | str | None]]:
    """What binds dimensions: the extents and shapes among the choices."""
    bound: dict[str, int | Sequence[int | str | None]] = {}
    for name, given in dims.items():
        if isinstance(given, int):
            bound[name] = given
        elif not isinstance(given, range):
            bound[name] = [extent for extent in given if not isinstance(extent, range)]
    return bound
