"""What is in a cubin: the machine instructions that a schedule was meant to bring about, counted.

`nvdisasm` comes with Triton's wheel. Counts tell what no run on a CPU can: whether a product uses tensor cores, whether
tiles are copied asynchronously, and how wide loads are.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from graphc.errors import BackendError, ToolchainError

TENSOR_CORE = ("HGMMA", "HMMA", "IMMA", "IGMMA", "DMMA", "QGMMA", "QMMA", "UTCHMMA", "UTCIMMA", "UTCQMMA", "OMMA")
"""Instructions of tensor cores, by the names of all generations."""

ASYNCHRONOUS = ("LDGSTS", "UTMALDG", "UBLKCP")
"""Instructions that copy from memory to shared memory while others go on."""

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
_SECONDS = 60.0


@cache
def _disassembler() -> Path:
    spec = find_spec("triton")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    for place in places:
        found = Path(place) / "backends" / "nvidia" / "bin" / "nvdisasm"
        if found.exists():
            return found
    raise ToolchainError("nvdisasm, which comes with Triton, is not there", hint="pip install 'graphc[cuda]'")


def disassemble(cubin: bytes) -> str:
    """A cubin as text of its machine instructions.

    Raises:
        ToolchainError: Triton is not installed.
        BackendError: The bytes are no cubin.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = (str(_disassembler()), "--print-code", file.name)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise BackendError(f"nvdisasm took more than {_SECONDS:g} seconds") from error
    if done.returncode:
        raise BackendError(f"nvdisasm: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def instructions(cubin: bytes) -> Mapping[str, int]:
    """How often each instruction stands in a cubin, by its whole name, e.g. `LDG.E.128`."""
    return Counter(_INSTRUCTION.findall(disassemble(cubin)))


def count(found: Mapping[str, int], *names: str) -> int:
    """How often instructions of any of these names stand there, whatever follows the name: `LDG` takes `LDG.E.128`.

    A name with dots asks for each of its parts: `LDG.128` takes `LDG.E.128.CONSTANT`.
    """
    wanted = [set(name.split(".")) for name in names]
    heads = [name.split(".")[0] for name in names]
    return sum(
        times
        for instruction, times in found.items()
        if any(
            instruction.split(".")[0] == head and parts <= set(instruction.split("."))
            for head, parts in zip(heads, wanted, strict=True)
        )
    )
