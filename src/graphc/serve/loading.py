"""From a package to something that may serve: opened, verified, warmed, checked. Runs in a thread of low priority."""

from __future__ import annotations

import contextlib
import os
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphc.errors import PackageError, RepositoryError
from graphc.package import Package, numpy_dtype
from graphc.runtime import Calibration, Executable
from graphc.runtime.calibration import can_sample, load_calibration, measure, sample_inputs
from graphc.serve.model_file import Tolerance

_NICE = 10
_SECONDS = 0.05
"""That each variant is measured for where nothing is known of it: the scheduler corrects what was a little off."""


@dataclass(frozen=True)
class Loaded:
    """A package ready to be served.

    Attributes:
        executable: That runs it.
        digest: Hash of its contents: equal digests answer equally.
        calibration: What calls of each variant take.
    """

    executable: Executable
    digest: str
    calibration: Calibration


def be_nice() -> None:
    """Lowers the priority of the calling thread, where the system knows threads apart."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def open_package(path: Path) -> tuple[Package, str]:
    """A private copy of a package, every byte of it checked, and its digest.

    Raises:
        PackageError: It cannot be read, or is damaged or not whole.
    """
    try:
        package = Package(path, private=True)
    except MemoryError as error:
        raise PackageError(f"{str(path)!r}: this machine has not the memory for it") from error
    package.verify()
    return package, package.digest


def ready(package: Package, digest: str, threads: int, known: Calibration, device: str | None = None) -> Loaded:
    """The package's executable, every variant of it run at least once.

    Args:
        package: Opened.
        digest: Of its contents.
        threads: Of a call.
        known: What calls take, as a version that served before has learned.
        device: That runs it, as of `graphc.load`.

    Raises:
        PackageError: Its code does not run here.
        DeviceError: There is no such GPU.
        ExecutionError: A call fails.
    """
    executable = Executable(package, threads=threads, device=device)
    variants = [variant for variant in executable.variants if can_sample(executable.manifest, variant)]
    found = known
    if any(variant.inputs not in known for variant in variants):
        found = {**load_calibration(package.path, executable), **known}
    costs: Calibration = {}
    for variant in variants:
        inputs = sample_inputs(executable.manifest, variant)
        if variant.inputs in found:
            executable(inputs)
            costs[variant.inputs] = found[variant.inputs]
        else:
            costs[variant.inputs] = measure(executable, inputs, warmup=1, least=2, seconds=_SECONDS)
    return Loaded(executable, digest, costs)


def check(executable: Executable, path: Path, tolerance: Tolerance) -> None:
    """Runs the inputs of a `check.npz` and compares the outputs with those in it.

    Args:
        executable: To check.
        path: Arrays named `inputs/NAME` and `outputs/NAME`; need not exist.
        tolerance: How far outputs may be off.

    Raises:
        RepositoryError: The file cannot be read, or names something that the model has not.
        PackageError: An output is not what it should be.
    """
    arrays = _read(path)
    if arrays is None:
        return
    inputs = {name.removeprefix("inputs/"): array for name, array in arrays.items() if name.startswith("inputs/")}
    expected = {name.removeprefix("outputs/"): array for name, array in arrays.items() if name.startswith("outputs/")}
    if len(inputs) + len(expected) != len(arrays) or not expected:
        raise RepositoryError(
            f"{str(path)!r} holds {', '.join(arrays) or 'nothing'}",
            hint="its arrays are inputs/NAME and outputs/NAME: numpy.savez(path, **{'inputs/x': x, 'outputs/y': y})",
        )
    dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in executable.inputs}
    outputs = executable({name: np.asarray(array, dtypes.get(name)) for name, array in inputs.items()})
    for name, wanted in expected.items():
        if name not in outputs:
            raise RepositoryError(f"{str(path)!r}: the model has no output {name!r}; it has {', '.join(outputs)}")
        _compare(name, np.asarray(outputs[name]), wanted, tolerance)


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file.items())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise RepositoryError(f"cannot read {str(path)!r}: {error}", hint="numpy.savez makes such a file") from error


def _compare(name: str, found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], tolerance: Tolerance) -> None:
    if found.shape != wanted.shape:
        raise PackageError(
            f"check: output {name!r} has shape {list(found.shape)}, and should have {list(wanted.shape)}"
        )
    if found.dtype == object or wanted.dtype.kind in "USO":
        if found.astype(str).tolist() != wanted.astype(str).tolist():
            raise PackageError(f"check: output {name!r} is another text than it should be")
        return
    kind = np.complex128 if found.dtype.kind == "c" else np.float64
    left, right = found.astype(kind), wanted.astype(kind)
    close = np.isclose(left, right, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True)
    if not close.all():
        place = tuple(int(index) for index in np.argwhere(~close)[0])
        raise PackageError(
            f"check: {int((~close).sum())} of {close.size} elements of output {name!r} are wrong, "
            f"the first at {list(place)}: {left[place]:g} instead of {right[place]:g}"
        )
