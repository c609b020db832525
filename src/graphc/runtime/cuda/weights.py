"""A package's weights on a GPU: those that its programs there read, uploaded once however many executables use them."""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from graphc.package import HostStep, Location, OpenVariant, Package, Variant
from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.memory import Block, aligned, upload

_lock = threading.Lock()
_uploaded: weakref.WeakValueDictionary[tuple[int, str, str], Weights] = weakref.WeakValueDictionary()


class Weights:
    """Tensors of a package's weights in a GPU's memory; get them from `load_weights`."""

    def __init__(self, package: Package, places: Iterator[Location], device: Device) -> None:
        blobs = sorted(package.blobs.values(), key=lambda blob: blob.offset)
        starts = [blob.offset for blob in blobs]
        wanted = sorted({bisect_right(starts, place.offset) - 1 for place in places})
        # A package's other code has weights of its own, packed for it.
        offsets, size = [], 0
        for number in wanted:
            offsets.append(size)
            size += aligned(blobs[number].nbytes)
        self._block = Block(device, size, f"the weights of {package.manifest.model!r}")
        self._starts = [starts[number] for number in wanted]
        self._addresses = [self._block.address + offset for offset in offsets]
        for number, target in zip(wanted, self._addresses, strict=True):
            blob = blobs[number]
            upload(device, target, package.weights[blob.offset : blob.offset + blob.nbytes])

    def address(self, offset: int) -> int:
        """Where in the GPU's memory the byte at an offset of the weights region lies."""
        number = bisect_right(self._starts, offset) - 1
        return self._addresses[number] + offset - self._starts[number]


def load_weights(package: Package, architecture: str, device: Device) -> Weights:
    """The weights that the programs of an architecture read.

    Raises:
        OutOfDeviceMemoryError: The GPU has not the memory for them.
    """
    key = device.ordinal, package.digest, architecture
    with _lock:
        if (weights := _uploaded.get(key)) is None:
            weights = _uploaded[key] = Weights(package, _places(package, architecture), device)
        return weights


def _places(package: Package, architecture: str) -> Iterator[Location]:
    """Every place in the weights that kernels, loops and copies of an architecture's programs name."""
    variants: list[Variant | OpenVariant] = [*package.manifest.variants, *package.manifest.open]
    for variant in variants:
        if variant.isa == architecture:
            yield from _weights_in(variant)


def _weights_in(part: Any) -> Iterator[Location]:
    if isinstance(part, Location):
        if part.kind == "weight":
            yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _weights_in(item)
    elif is_dataclass(part) and not isinstance(part, HostStep):
        for field in fields(part):
            yield from _weights_in(getattr(part, field.name))
