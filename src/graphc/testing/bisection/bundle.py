"""A folder from which a failure can be repeated: model, inputs, plugins, and how they are put together."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphc.errors import OptionError
from graphc.package import numpy_dtype
from graphc.testing.bisection.blame import Blame
from graphc.testing.bisection.case import Case, Setup
from graphc.testing.bisection.finding import Finding
from graphc.testing.verification import Tolerance

MODEL, INPUTS, RECORD = "model.onnx", "inputs.npz", "case.json"


def write_bundle(folder: str | os.PathLike[str], case: Case, blame: Blame) -> Path:
    """Writes the smallest model found, or the one given, with all that shows the failure again.

    Args:
        folder: Made, or overwritten if a bundle is there; whole or not at all.
        case: What was bisected.
        blame: What it came to.

    Raises:
        OptionError: The folder holds something else, or cannot be written.
    """
    target = Path(folder)
    if target.exists() and not (target / RECORD).is_file():
        raise OptionError(f"{str(target)!r} exists already, and bisect did not write it", hint="name another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".graphc-"))
        try:
            _fill(made, case, blame)
            made.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            made.rename(target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise OptionError(f"cannot write {str(target)!r}: {error.strerror}") from error
    return target


def _fill(folder: Path, case: Case, blame: Blame) -> None:
    reduced = blame.reduced
    inputs: Mapping[str, Any] = case.inputs if reduced is None else reduced.inputs
    if reduced is not None:
        (folder / MODEL).write_bytes(reduced.model.SerializeToString())
    elif isinstance(case.model, bytes):
        (folder / MODEL).write_bytes(case.model)
    else:
        # Weights that lie beside the model come along.
        onnx.save_model(onnx.load(case.model), folder / MODEL, save_as_external_data=_is_large(Path(case.model)))
    # NumPy's format has no words for bfloat16 and its like.
    np.savez(folder / INPUTS, **{name: array.view(_plain(array)) for name, array in inputs.items()})
    plugins = []
    for number, plugin in enumerate(case.setup.plugins):
        copy = f"plugin_{number}_{Path(plugin).name}"
        shutil.copyfile(plugin, folder / copy)
        plugins.append(copy)
    record = {
        "setup": {**dataclasses.asdict(case.setup), "plugins": plugins},
        "dtypes": {name: array.dtype.name for name, array in inputs.items()},
        "finding": dataclasses.asdict(blame.finding),
        "culprit": None if blame.culprit is None else dataclasses.asdict(blame.culprit),
        "stepwise": case.stepwise,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    if blame.culprit is not None:
        (folder / "rewrite.diff").write_text(blame.culprit.difference + "\n")
    if blame.finding.region:
        (folder / "region.txt").write_text(blame.finding.region + "\n")


def _is_large(path: Path) -> bool:
    return path.stat().st_size < sum(f.stat().st_size for f in path.parent.glob(f"{path.name}*") if f != path)


def _plain(array: Any) -> Any:
    return array.dtype if array.dtype.kind != "V" else np.dtype(f"u{array.dtype.itemsize}")


def read_bundle(folder: str | os.PathLike[str]) -> tuple[Case, Finding]:
    """The case of a bundle and what it came to when it was written.

    Raises:
        OptionError: The folder is no bundle, or damaged.
    """
    path = Path(folder)
    try:
        record = json.loads((path / RECORD).read_text())
        given = record["setup"]
        tolerance = None if given["tolerance"] is None else Tolerance(**given["tolerance"])
        plugins = tuple(str(path / name) for name in given["plugins"])
        setup = Setup(**{**given, "tolerance": tolerance, "plugins": plugins})
        finding = Finding(**{**record["finding"], "origins": tuple(record["finding"]["origins"])})
        with np.load(path / INPUTS, allow_pickle=False) as archive:
            inputs = {name: archive[name].view(numpy_dtype(kind)) for name, kind in record["dtypes"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(
            f"{str(path)!r} is no folder that bisect wrote: {error}", hint=f"it must hold {RECORD}, {MODEL}, {INPUTS}"
        ) from error
    return Case(str(path / MODEL), inputs, setup), finding
