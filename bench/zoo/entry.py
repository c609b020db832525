"""An entry of the zoo: where a model comes from and what to feed it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kind = Literal["normal", "uniform", "integers", "ones", "zeros", "constant"]


def cache_dir() -> Path:
    """Where models are kept: `$GRAPHC_ZOO`, or `~/.cache/graphc/zoo`."""
    return Path(os.environ.get("GRAPHC_ZOO") or Path.home() / ".cache" / "graphc" / "zoo")


class Source(Protocol):
    """Where a model comes from."""

    def describe(self) -> str:
        """One line for a listing."""

    def write(self, destination: Path) -> None:
        """Write the model to that path, whole or not at all."""


@dataclass(frozen=True)
class Feed:
    """One input's values.

    Args:
        shape: Extents; a string is one of the entry's dims.
        kind: "normal" (mean 0, deviation 1: a normalized picture), "uniform" (−1 to 1: sound), "integers"
            (0 to `high`, exclusive), "ones", "zeros" or "constant" (`value`).
        dtype: A NumPy dtype's name.
        high: Bound of "integers".
        value: Value of "constant".
    """

    shape: tuple[int | str, ...]
    kind: Kind = "normal"
    dtype: str = "float32"
    high: int = 0
    value: float = 0.0

    def bound_shape(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The extents once the symbols are bound."""
        return tuple(dims[extent] if isinstance(extent, str) else extent for extent in self.shape)

    def array(self, rng: np.random.Generator, dims: Mapping[str, int]) -> Array:
        """Values of this input: the same for the same generator state and dims."""
        shape = self.bound_shape(dims)
        values: Array
        match self.kind:
            case "normal":
                values = rng.standard_normal(shape)
            case "uniform":
                values = rng.uniform(-1.0, 1.0, shape)
            case "integers":
                values = rng.integers(0, self.high, shape)
            case "ones":
                values = np.ones(shape)
            case "zeros":
                values = np.zeros(shape)
            case "constant":
                values = np.full(shape, self.value)
        return np.asarray(values, dtype=self.dtype).reshape(shape)


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Args:
        name: Its name here.
        group: "vision", "language", "ocr", "audio", "light" (architectures with constant weights) or "small".
        source: Where it comes from.
        feeds: Input name to its values.
        dims: The model's symbolic dimensions, bound as the figures in the documents use them.
        batch: Which of them counts the pictures, texts or sounds of a call; None where the model takes one.
    """

    name: str
    group: str
    source: Source
    feeds: Mapping[str, Feed]
    dims: Mapping[str, int] = field(default_factory=dict)
    batch: str | None = None

    @property
    def path(self) -> Path:
        """The ONNX file; fetched or rebuilt if the cache does not hold it."""
        path = cache_dir() / f"{self.name}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.source.write(path)
        return path

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every input's shape under `dims`: for models whose dynamic dimensions have no usable names."""
        return {name: feed.bound_shape(self.dims) for name, feed in self.feeds.items()}

    def inputs(self, seed: int = 0, dims: Mapping[str, int] | None = None) -> dict[str, Array]:
        """Seeded inputs in the model's range.

        Args:
            seed: Another seed, other values.
            dims: Overrides of the entry's dims.
        """
        bound = {**self.dims, **(dims or {})}
        rng = np.random.default_rng([seed, crc32(self.name.encode())])
        return {name: feed.array(rng, bound) for name, feed in self.feeds.items()}
