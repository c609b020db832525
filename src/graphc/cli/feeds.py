"""Inputs of a call from the command line: files of NumPy, and seeded values where no file is given."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.cli.common import Dims, natural, parse_dims
from graphc.cli.source import Source
from graphc.cli.values import allows_values, describe_variant, parse_values, value_arrays
from graphc.cli.wrapped import Arrays, gather
from graphc.errors import InputError, OptionError
from graphc.package import OpenVariant, TensorSpec, Variant, evaluate, instantiate, parameter_values, symbols_of
from graphc.testing.inputs import Range, seeded_inputs

Inputs = dict[str, Any]
"""An array for each input by name; a list, a dict or None where the model takes a sequence, a map or an optional."""


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """`--input` and `--seed`."""
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="inputs",
        help="an input: NAME=file.npy, file.npz with several by name (NAME[0], NAME[1] of a sequence), "
        "or NAME=LOW..HIGH to draw from a range",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of the inputs not given (default: %(default)s)")


@dataclass(frozen=True)
class Given:
    """What `--input` says.

    Args:
        arrays: Read from files, by input.
        ranges: To draw from, by input.
    """

    arrays: Arrays = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)


def parse_inputs(texts: list[str]) -> Given:
    """Reads what `--input` options name.

    Raises:
        InputError: A file cannot be read, or a range is empty.
        OptionError: An option is malformed.
    """
    given = Given()
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and text.endswith(".npz"):
            given.arrays.update(_read_npz(Path(text)))
        elif not name or not value:
            raise OptionError(
                f"--input {text}: expected NAME=file.npy, file.npz or NAME=LOW..HIGH",
                hint="for example --input x=image.npy",
            )
        elif value.endswith(".npy"):
            given.arrays[name] = _read_npy(Path(value))
        elif ".." in value:
            given.ranges[name] = _read_range(text, value)
        else:
            raise OptionError(
                f"--input {text}: {value!r} is neither a .npy file nor a range LOW..HIGH",
                hint="save an array with numpy.save('file.npy', array)",
            )
    return given


def _read_npy(path: Path) -> npt.NDArray[Any]:
    try:
        with path.open("rb") as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise InputError(
            f"{str(path)!r} is no .npy file that can be read: {error}", hint="pickled objects are not read"
        ) from error
    return array


def _read_npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{str(path)!r} is no .npz file that can be read: {error}") from error


def _read_range(text: str, value: str) -> Range:
    low, _, high = value.partition("..")
    try:
        return Range(float(low), float(high))
    except ValueError as error:
        raise OptionError(f"--input {text}: {value!r} is no range; expected LOW..HIGH") from error


def feed(source: Source, options: argparse.Namespace, variant: Variant | None = None) -> Inputs:
    """Inputs for one call: those given, and seeded values for the others.

    Args:
        source: What is called.
        options: With `inputs`, `values`, `seed` and `dims`.
        variant: Whose shapes and parameters the arrays have; chosen by the given arrays, `--dim` and `--value` if None.

    Raises:
        InputError: The inputs given do not fit, or no variant fits them.
    """
    given = parse_inputs(options.inputs)
    specs = source.executable.inputs
    names = [spec.name for spec in specs]
    arrays = gather(specs, given.arrays)
    for name in (*arrays, *given.ranges):
        if name not in names:
            raise InputError(
                f"--input {name}: the model has no such input", hint=f"its inputs are {'; '.join(map(str, specs))}"
            )
    told = value_arrays(parse_values(options.values), specs)
    if variant is None:
        variant = _fitting_variant(source, {**told, **arrays}, options)
    own = parameter_values(source.executable.manifest, variant) if variant is not None else {}
    arrays = {**told, **own, **arrays}
    if len(arrays) == len(specs):
        return {name: arrays[name] for name in names}
    shapes = variant.inputs if variant is not None else _shapes(source, arrays, parse_dims(options.dims))
    drawn = seeded_inputs(specs, shapes, seed=options.seed, ranges={**source.ranges, **given.ranges})
    return {**drawn, **arrays}


def chosen_variants(source: Source, options: argparse.Namespace) -> list[Variant]:
    """The variants of the instruction set that runs which `--dim` and `--value` allow; all where they say nothing.

    Where extents are open, the one at what `--dim` and the inputs given say of them.

    Raises:
        OptionError: There is none.
    """
    executable = source.executable
    dims = parse_dims(options.dims) if source.is_package else {}
    values = parse_values(options.values) if source.is_package else {}
    manifest = executable.manifest
    found = [v for v in executable.variants if allows(manifest.inputs, dims, v) and allows_values(manifest, values, v)]
    if not found:
        shown: Dims = {**dims, **_bindings_of(manifest.inputs, parse_inputs(options.inputs).arrays)}
        found = [
            instantiate(variant, bindings, alignment=executable.manifest.code[variant.isa].alignment)
            for variant in manifest.open
            for bindings in [open_bindings(variant, shown)]
            if variant.isa == executable.isa and variant.takes(bindings) and is_settled(variant, shown)
        ][:1]
    if not found and not executable.variants and not manifest.symbols:
        raise OptionError(
            f"no variant is compiled yet: the values of {', '.join(manifest.parameters)} are open",
            hint="give them with --value" + ("; give the model, not the package" if source.is_package else ""),
        )
    if not found and not executable.variants:
        raise OptionError(
            f"no shape is compiled yet: dimensions {', '.join(executable.manifest.symbols)} are open",
            hint="bind them: "
            + " ".join(f"--dim {name}=N" for name in executable.manifest.symbols)
            + ", or give inputs with --input"
            + ("; give the model, not the package" if source.is_package else ""),
        )
    if not found:
        have = "; ".join(describe_variant(manifest, variant) for variant in executable.variants)
        raise OptionError(f"the package has no variant for {' '.join(options.dims + options.values)}; it has: {have}")
    return found


USUAL = 128
"""The extent at which an open variant is shown where nothing says another."""


def open_bindings(variant: OpenVariant, dims: Dims) -> dict[str, int]:
    """What `--dim` says of an open variant's symbols, and usual values of the others."""
    bindings: dict[str, int] = {}
    for name, bounds in variant.ranges.items():
        given = dims.get(name)
        usual = max(bounds.minimum, min(USUAL, USUAL if bounds.maximum is None else bounds.maximum))
        bindings[name] = given if isinstance(given, int) else usual
    for name, extent in variant.equal.items():
        if not isinstance(dims.get(name), int):
            bindings[name] = evaluate(extent, bindings)
    return bindings


def is_settled(variant: OpenVariant, dims: Dims) -> bool:
    """Whether `--dim` says one extent of each symbol that has several."""
    several = (name for name in variant.free if variant.ranges[name].minimum != variant.ranges[name].maximum)
    return all(isinstance(dims.get(name), int) for name in several)


def allows(specs: Sequence[TensorSpec], dims: Dims, variant: Variant) -> bool:
    """Whether a variant is one of those that `--dim` options name."""
    positions = {spec.name: index for index, spec in enumerate(specs)}
    for name, given in dims.items():
        if isinstance(given, int):
            if variant.bindings.get(name) != given:
                return False
        elif name in positions and isinstance(given, tuple):
            shape = variant.inputs[positions[name]]
            if (
                shape is None
                or len(shape) != len(given)
                or any(g not in (None, s) for g, s in zip(given, shape, strict=True))
            ):
                return False
        else:
            several = given if isinstance(given, list) else [given]
            own = variant.bindings.get(name)
            if not any(own in one if isinstance(one, range) else own == one for one in several):
                return False
    return True


def _fitting_variant(source: Source, arrays: Inputs, options: argparse.Namespace) -> Variant | None:
    """The first variant that agrees with what is given."""
    manifest = source.executable.manifest
    wanted = parse_dims(options.dims) if source.is_package else {}
    for variant in source.executable.variants:
        values = parameter_values(manifest, variant)
        fits = all(array.tobytes() == arrays[name].tobytes() for name, array in values.items() if name in arrays)
        if fits and _has_shapes(manifest.inputs, variant, arrays) and allows(manifest.inputs, wanted, variant):
            return variant
    return None


def _has_shapes(specs: Sequence[TensorSpec], variant: Variant, arrays: Inputs) -> bool:
    return all(
        spec.name not in arrays or spec.wraps or arrays[spec.name].shape == shape
        for spec, shape in zip(specs, variant.inputs, strict=True)
    )


def _shapes(source: Source, arrays: Inputs, dims: Dims) -> tuple[tuple[int, ...] | None, ...]:
    """Shapes of all inputs: of the first variant that has those given, else what arrays and `dims` say."""
    specs = source.executable.inputs
    for variant in source.executable.variants:
        if _has_shapes(specs, variant, arrays) and allows(specs, dims if source.is_package else {}, variant):
            return variant.inputs
    bindings = {name: value for name, value in dims.items() if isinstance(value, int)}
    bindings |= _bindings_of(specs, arrays)
    missing = sorted({s for spec in specs for d in spec.shape for s in symbols_of(d)} - bindings.keys())
    if missing:
        raise InputError(
            f"nothing says what {', '.join(missing)} {'is' if len(missing) == 1 else 'are'}",
            hint=" ".join(f"--dim {name}=N" for name in missing),
        )
    return tuple(None if spec.wraps else tuple(evaluate(extent, bindings) for extent in spec.shape) for spec in specs)


def _bindings_of(specs: tuple[TensorSpec, ...], arrays: Inputs) -> dict[str, int]:
    """Symbols' values that the arrays given mean."""
    bindings: dict[str, int] = {}
    for spec in specs:
        shape = arrays[spec.name].shape if spec.name in arrays and not spec.wraps else ()
        for extent, found in zip(spec.shape, shape, strict=False):
            if isinstance(extent, str) and symbols_of(extent) == (extent,):
                bindings[extent] = found
    return bindings


def single_feed(options: argparse.Namespace, model: Path, what: str) -> tuple[dict[str, Any], Dims]:
    """Inputs for a model at the one shape that the options mean, and what its dimensions are bound to.

    Args:
        options: With the arguments of `add_inputs` and `add_compile_options`.
        model: An ONNX file.
        what: That needs one shape, for messages.

    Raises:
        OptionError: An option gives several extents or values.
        InputError: Nothing says what shape an input has.
    """
    given = parse_inputs(options.inputs)
    dims = parse_dims(options.dims)
    for name, extents in dims.items():
        if isinstance(extents, list | range):
            raise OptionError(f"--dim {name}: {what} is of one shape; give one extent")
    values = parse_values(options.values)
    for name, several in values.items():
        if len(several) > 1:
            raise OptionError(f"--value {name}: {what} is of one value; give one")
    given.arrays.update(value_arrays(values, _specs(model)) if values else {})
    dims |= {name: array.shape for name, array in given.arrays.items()}
    return _model_inputs(given, options.seed, model, dims), dims


def _specs(model: Path) -> list[TensorSpec]:
    """The model's inputs that are tensors of known rank."""
    from graphc.frontend import import_model
    from graphc.ir import TensorType

    kinds = [(value.name, value.type) for value in import_model(model).inputs]
    return [
        TensorSpec(name, kind.dtype.name, tuple(dim if isinstance(dim, int) else str(dim) for dim in kind.shape or ()))
        for name, kind in kinds
        if isinstance(kind, TensorType)
    ]


def _model_inputs(given: Given, seed: int, model: Path, dims: Dims) -> dict[str, Any]:
    """Inputs for the model with its dimensions bound: those given, and seeded ones."""
    from graphc.frontend import import_model
    from graphc.ir import TensorType
    from graphc.testing.inputs import index_ranges, seeded_inputs

    bound = {name: given for name, given in dims.items() if isinstance(given, int | tuple)}
    graph = import_model(model, dims=bound)
    specs, shapes = [], []
    for value in graph.inputs:
        kind = value.type
        if value.name in given.arrays:
            continue
        if not isinstance(kind, TensorType) or not kind.is_static:
            symbols = sorted(kind.symbols()) if isinstance(kind, TensorType) else []
            raise InputError(
                f"{model.name}: nothing says what shape input {value.name!r} ({kind}) has",
                hint=" ".join(f"--dim {name}=N" for name in symbols) or f"give it with --input {value.name}=file.npy",
            )
        shapes.append(kind.static_shape)
        specs.append(TensorSpec(value.name, kind.dtype.name, kind.static_shape))
    drawn = seeded_inputs(specs, shapes, seed=seed, ranges={**index_ranges(graph), **given.ranges})
    return {value.name: {**drawn, **given.arrays}[value.name] for value in graph.inputs}
