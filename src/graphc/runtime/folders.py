"""Where what is compiled and measured on this machine is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$GRAPHC_CACHE`, else `graphc` in the user's cache folder."""
    given = os.environ.get("GRAPHC_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphc"


def tuning_path(isa: str) -> Path:
    """Where what `graphc tune` found for an instruction set is kept."""
    return cache_folder() / "tuning" / f"{isa}.json"
