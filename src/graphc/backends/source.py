"""What the code generator is: a digest of its own source, so that no cache outlives a change to it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


@cache
def source_digest(*folders: str) -> str:
    """sha256 over the Python files of folders of this package, in hexadecimal; all of the package without any.

    Args:
        folders: Names below `graphc`.
    """
    digest = hashlib.sha256()
    for folder in folders or (".",):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            text = path.read_bytes()
            digest.update(f"{path.relative_to(_ROOT).as_posix()} {len(text)}\n".encode())
            digest.update(text)
    return digest.hexdigest()
