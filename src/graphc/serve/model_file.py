"""`model.toml`: what one may say about a model in its folder. Nothing has to be said."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphc.errors import OptionError, RepositoryError
from graphc.runtime.scheduler import ModelSettings
from graphc.serve.facts import VersionPolicy

NAME = "model.toml"
_SERVING = tuple(each.name for each in dataclasses.fields(ModelSettings))


@dataclass(frozen=True)
class CompileFacts:
    """How ONNX models of this model are compiled.

    Attributes:
        dims: Extents by dimension or input, as of `graphc.compile`; `auto` for the one that counts rows.
        values: What inputs always are.
        level: Optimization level.
        winograd: Whether convolutions may use Winograd's transform.
        target: What for, as of `graphc.compile`: `cpu` is this machine's, `cuda:sm_90` a GPU.
        precision: What floats are computed in, as of `graphc.compile`.
    """

    dims: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    level: str = "O2"
    winograd: bool = True
    target: str = "cpu"
    precision: str = "fp32"


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may be from those of `check.npz`.

    Attributes:
        rtol: Relative to each element.
        atol: Absolute.
    """

    rtol: float = 1e-3
    atol: float = 1e-4


@dataclass(frozen=True)
class ModelFile:
    """What a `model.toml` says.

    Attributes:
        serving: How the scheduler serves it.
        versions: Which versions are served.
        labels: Versions by label.
        traffic: Weights by label or version, of requests that name neither.
        threads: Of a call; the server's if None.
        instances: Batches that run at once; as many as there are devices if None.
        device: What runs its packages: `cpu`, `cuda`, `cuda:1`; None is the first GPU that they have code for, else the
            CPU.
        compile: How ONNX models are compiled.
        check: How `check.npz` is compared.
    """

    serving: ModelSettings = field(default_factory=ModelSettings)
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    labels: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, float] = field(default_factory=dict)
    threads: int | None = None
    instances: int | None = None
    device: str | None = None
    compile: CompileFacts = field(default_factory=CompileFacts)
    check: Tolerance = field(default_factory=Tolerance)

    def routes_only(self, other: ModelFile) -> bool:
        """Whether it differs from another in nothing that a loaded version would have to be loaded anew for."""
        routes = {"versions": self.versions, "labels": self.labels, "traffic": self.traffic}
        return dataclasses.replace(other, **routes) == self  # type: ignore[arg-type]


def read_model_file(path: Path, defaults: ModelSettings) -> ModelFile:
    """What the file says; `defaults` for what it does not say.

    Args:
        path: The file; need not exist.
        defaults: Of the server.

    Raises:
        RepositoryError: It cannot be read, or a key is unknown, ill-typed or out of range: names file and key.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return ModelFile(serving=defaults)
    except OSError as error:
        raise RepositoryError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{str(path)!r} is no text: {error}") from error
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RepositoryError(f"{str(path)!r} is no TOML: {error}") from error
    try:
        return _model_file(table, defaults)
    except OptionError as error:
        raise RepositoryError(f"{str(path)!r}: {error.message}", hint=error.hint) from error


def _model_file(table: dict[str, Any], defaults: ModelSettings) -> ModelFile:
    serving = {name: table.pop(name) for name in _SERVING if name in table}
    if isinstance(preferred := serving.get("preferred_batch_sizes", []), list):
        serving["preferred_batch_sizes"] = tuple(preferred)
    else:
        raise OptionError(f"preferred_batch_sizes is {preferred!r}; expected a list of integers")
    if type(padding := serving.get("padding", True)) is not bool:
        raise OptionError(f"padding is {padding!r}; expected true or false")
    fields: dict[str, Any] = {"serving": dataclasses.replace(defaults, **serving)}
    for name, read in _READERS.items():
        if name in table:
            fields[name] = read(name, table.pop(name))
    if table:
        known = ", ".join((*_SERVING, *_READERS))
        raise OptionError(f"unknown key {next(iter(table))!r}", hint=f"known are: {known}")
    _check_traffic(fields.get("traffic", {}), fields.get("labels", {}))
    return ModelFile(**fields)


def _check_traffic(traffic: Mapping[str, float], labels: Mapping[str, int]) -> None:
    for name in traffic:
        if name not in labels and not name.isdecimal():
            raise OptionError(f"traffic: {name!r} is neither a version nor a label", hint="labels go into [labels]")
    if traffic and not sum(traffic.values()) > 0:
        raise OptionError("traffic: all weights are 0")


def _versions(name: str, value: Any) -> VersionPolicy:
    match value:
        case "all":
            return VersionPolicy("all")
        case "latest":
            return VersionPolicy()
        case {"latest": int(count), **rest} if not rest and type(count) is int and count > 0:
            return VersionPolicy(count=count)
        case [*numbers] if numbers and all(type(number) is int and number > 0 for number in numbers):
            return VersionPolicy("specific", versions=tuple(sorted(set(numbers))))
    raise OptionError(f'{name} is {value!r}; expected "all", {{latest = 2}}, or a list of versions such as [1, 3]')


def _labels(name: str, value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise OptionError(f"{name} is {value!r}; expected a table: stable = 3")
    for label, version in value.items():
        if label.isdecimal() or not label:
            raise OptionError(f"{name}: {label!r} cannot be a label, since it reads as a version")
        if type(version) is not int or version < 1:
            raise OptionError(f"{name}.{label} is {version!r}; expected the number of a version")
    return value


def _traffic(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise OptionError(f"{name} is {value!r}; expected a table: stable = 90")
    for target, weight in value.items():
        if type(weight) not in (int, float) or not 0 <= weight < math.inf:
            raise OptionError(f"{name}.{target} is {weight!r}; expected a weight, a number from 0 on")
    return {target: float(weight) for target, weight in value.items()}


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise OptionError(f"{name} is {value!r}; expected a positive integer")
    return value


def _device(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", value):
        raise OptionError(f'{name} is {value!r}; expected "cpu", "cuda", or a GPU by number such as "cuda:1"')
    return value


def _table(kind: type[Any], checks: Mapping[str, tuple[Callable[[Any], bool], str]]) -> Callable[[str, Any], Any]:
    """Reads a table of a dataclass's fields."""

    def read(name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            raise OptionError(f"{name} is {value!r}; expected a table")
        for key, given in value.items():
            if key not in checks:
                raise OptionError(f"unknown key '{name}.{key}'", hint=f"known are: {', '.join(checks)}")
            fits, expected = checks[key]
            if not fits(given):
                raise OptionError(f"{name}.{key} is {given!r}; expected {expected}")
        return kind(**value)

    return read


def _is_extents(value: Any) -> bool:
    """Whether `dims` may have this value: an extent, several of them or a shape, or `auto`."""
    return type(value) is int or value == "auto" or (isinstance(value, list) and all(type(n) is int for n in value))


def _is_tolerance(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "versions": _versions,
    "labels": _labels,
    "traffic": _traffic,
    "threads": _count,
    "instances": _count,
    "device": _device,
    "compile": _table(
        CompileFacts,
        {
            "dims": (
                lambda value: isinstance(value, dict) and all(map(_is_extents, value.values())),
                'a table of extents: {batch = [1, 8], seq = 128}, or {batch = "auto"}',
            ),
            "values": (lambda value: isinstance(value, dict), "a table of values by input"),
            "level": (lambda value: value in ("O0", "O1", "O2", "O3"), '"O0" to "O3"'),
            "winograd": (lambda value: type(value) is bool, "true or false"),
            "target": (lambda value: isinstance(value, str), 'the name of a target: "cpu", "cuda:sm_90"'),
            "precision": (lambda value: isinstance(value, str), 'the name of a precision: "fp32", "fp16"'),
        },
    ),
    "check": _table(
        Tolerance,
        {"rtol": (_is_tolerance, "a number from 0 on"), "atol": (_is_tolerance, "a number from 0 on")},
    ),
}
