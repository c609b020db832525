"""The ONNX backend suite as data: models with inputs and the outputs that are expected, from the installed onnx."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

KINDS = ("node", "real", "simple", "pytorch-converted", "pytorch-operator")
EXPANDED = "_expanded"
"""What names of cases that spell an operator out in others hold."""


@dataclass(frozen=True)
class Case:
    """One case of the suite.

    Args:
        name: Kind and name, `node/test_abs`.
        model: The serialized model.
        data_sets: Inputs and expected outputs: arrays, lists (sequences) and None (an empty optional).
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """

    name: str
    model: bytes
    data_sets: tuple[tuple[Sequence[Any], Sequence[Any]], ...]
    rtol: float
    atol: float

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.name.partition("/")[0]

    @property
    def is_expanded(self) -> bool:
        """Whether the case spells out in other operators what its operator means."""
        return EXPANDED in self.name

    def proto(self) -> onnx.ModelProto:
        """The model, parsed."""
        parsed: onnx.ModelProto = onnx.ModelProto.FromString(self.model)
        return parsed


@cache
def load_cases(*kinds: str) -> Mapping[str, Case]:
    """Cases of some kinds, all of them if none is named, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        # The suite computes its expected outputs as it loads, infinities and all.
        warnings.simplefilter("ignore")
        loaded = [_read(test) for kind in kinds or KINDS for test in load_model_tests(kind=kind)]
    return {case.name: case for case in loaded}


def datum(given: Any) -> Any:
    """A value of a data set as evaluation takes it: an array, a list or None."""
    if isinstance(given, onnx.TensorProto):
        return datum(numpy_helper.to_array(given))
    if given is None:
        return None
    if isinstance(given, list):
        return [datum(item) for item in given]
    array = np.asarray(given)
    return array.astype(object) if array.dtype.kind in "UST" else array


def _read(test: Any) -> Case:
    if test.model is not None:
        model = test.model.SerializeToString()
        sets = [([datum(x) for x in inputs], [datum(x) for x in outputs]) for inputs, outputs in test.data_sets]
    elif test.model_dir is not None:
        model = (Path(test.model_dir) / "model.onnx").read_bytes()
        graph = onnx.ModelProto.FromString(model).graph
        folders = sorted(Path(test.model_dir).glob("test_data_set_*"))
        sets = [(_stored(path, "input", graph.input), _stored(path, "output", graph.output)) for path in folders]
    else:
        path = Path(onnx.__file__).parent.parent / test.url
        model = path.read_bytes()
        sets = [_light_data(path, onnx.ModelProto.FromString(model).graph)]
    return Case(f"{test.kind}/{test.name}", model, tuple(sets), test.rtol, test.atol)


def _stored(folder: Path, what: str, infos: Sequence[Any]) -> list[Any]:
    files = sorted(folder.glob(f"{what}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))
    found = []
    for path, info in zip(files, infos, strict=False):
        content = path.read_bytes()
        match info.type.WhichOneof("value"):
            case "sequence_type":
                found.append(datum(numpy_helper.to_list(onnx.SequenceProto.FromString(content))))
            case "optional_type":
                found.append(datum(numpy_helper.to_optional(onnx.OptionalProto.FromString(content))))
            case _:
                found.append(datum(onnx.TensorProto.FromString(content)))
    return found


def _light_data(path: Path, graph: onnx.GraphProto) -> tuple[list[Any], list[Any]]:
    """Inputs as the suite's own runner makes them for its light models, and the outputs stored beside the model."""
    constant = {tensor.name for tensor in graph.initializer}
    inputs = []
    for info in graph.input:
        if info.name not in constant:
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in info.type.tensor_type.shape.dim)
            size = int(np.prod(shape))
            inputs.append((np.arange(size).reshape(shape) / size).astype(np.float32))
    files = [path.with_name(f"{path.stem}_output_{index}.pb") for index in range(len(graph.output))]
    return inputs, [datum(onnx.TensorProto.FromString(file.read_bytes())) for file in files]
