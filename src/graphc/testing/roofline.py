"""What this machine can do at best, measured once: the roof that a kernel's time is held against.

The roofline model (Williams, Waterman and Patterson, 2009): a kernel of so many operations and so many bytes takes at
least as long as its operations at the peak rate, and as its bytes at the bandwidth of the level of memory that they
fit. The peak is of fused multiply-adds of float32 in registers; the bandwidth is the better of reading and copying.
"""

from __future__ import annotations

import bisect
import ctypes
import hashlib
import itertools
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graphc.backends.tvm.link import find_linker
from graphc.errors import GraphcError, ToolchainError
from graphc.package import atomic_file
from graphc.runtime.folders import cache_folder
from graphc.target import read_processor

_SOURCE = Path(__file__).with_name("native") / "roofline.c"
_SIZES = tuple(1 << power for power in range(14, 27, 2))
"""Bytes that one thread goes through: 16 KiB to 64 MiB."""
_TURNS, _SECONDS = 5, 0.012
"""The best of so many turns of so long counts: what else runs on the machine can only slow a turn down."""
_BUSY = 0.5
"""Load of each processor from which on figures are not kept: they would be too low for ever."""


@dataclass(frozen=True)
class Roofline:
    """Rates of this machine with some number of threads.

    Attributes:
        threads: That worked together.
        peak: Operations of float32 a second; a fused multiply-add is two.
        bandwidth: (bytes, bytes a second): what all threads together go through again and again, ascending, and the
            better rate of reading and copying it.
    """

    threads: int
    peak: float
    bandwidth: tuple[tuple[int, float], ...]

    def bandwidth_of(self, size: int) -> float:
        """Bytes a second for a working set of `size` bytes, between the measured ones by their logarithms."""
        sizes = [entry[0] for entry in self.bandwidth]
        place = bisect.bisect_left(sizes, size)
        if place == 0:
            return self.bandwidth[0][1]
        if place == len(sizes):
            return self.bandwidth[-1][1]
        (low, slow), (high, fast) = self.bandwidth[place - 1], self.bandwidth[place]
        share = math.log(size / low) / math.log(high / low)
        return float(slow * (fast / slow) ** share)

    def seconds(self, flops: int, size: int) -> float:
        """The least time for so many operations and so many bytes of traffic."""
        return max(flops / self.peak, size / self.bandwidth_of(size) if size else 0.0)

    def bound(self, flops: int, size: int) -> str:
        """What sets that time: `compute` or `memory`."""
        return "compute" if size == 0 or flops / self.peak >= size / self.bandwidth_of(size) else "memory"


def measure(threads: int, progress: Callable[[int, int], None] | None = None) -> Roofline:
    """Measures this machine, for about two seconds.

    Args:
        threads: That work together, at least 1.
        progress: Told how many of all turns are done.

    Raises:
        ToolchainError: There is no C compiler, or the machine cannot run that many threads.
    """
    jobs = [(0, 0), *((size, copies) for size in _SIZES for copies in (0, 1))]
    with tempfile.TemporaryDirectory(prefix="graphc-roofline-") as folder:
        rate = _build(Path(folder))
        best: dict[tuple[int, int], float] = dict.fromkeys(jobs, 0.0)
        for done, (_, job) in enumerate(itertools.product(range(_TURNS), jobs), 1):
            found = rate(threads, *job, _SECONDS)
            if found < 0:
                raise ToolchainError(f"this machine cannot run {threads} threads on {threads * job[0]} bytes")
            best[job] = max(best[job], found)
            if progress is not None:
                progress(done, _TURNS * len(jobs))
    bandwidth = tuple((size * threads, max(best[size, 0], best[size, 1])) for size in _SIZES)
    return Roofline(threads, best[0, 0], bandwidth)


def roofline(threads: int, progress: Callable[[int, int], None] | None = None, *, again: bool = False) -> Roofline:
    """This machine's, from the cache folder, or measured now and kept there unless the machine is busy.

    Args:
        threads: As of `measure`.
        progress: As of `measure`.
        again: Measure and keep the result in any case.

    Raises:
        ToolchainError: As of `measure`.
    """
    path = cache_folder() / "machines" / f"{_identity(threads)}.json"
    if not again and (known := _read(path)) is not None:
        return known
    busy = os.getloadavg()[0] > _BUSY * len(os.sched_getaffinity(0))
    found = measure(threads, progress)
    if busy and not again:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps({"threads": threads, "peak": found.peak, "bandwidth": found.bandwidth}).encode())
    except (OSError, GraphcError):
        # A cache that cannot be written costs the next profile two seconds.
        return found
    return found


def _identity(threads: int) -> str:
    processor = read_processor()
    facts = [processor.architecture, processor.vendor, processor.family, processor.model, sorted(processor.flags)]
    return hashlib.sha256(repr([*facts, os.cpu_count(), threads, _SOURCE.read_text()]).encode()).hexdigest()[:32]


def _read(path: Path) -> Roofline | None:
    try:
        data = json.loads(path.read_text())
        bandwidth = tuple((int(size), float(rate)) for size, rate in data["bandwidth"])
        return Roofline(int(data["threads"]), float(data["peak"]), bandwidth) if bandwidth else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _build(folder: Path) -> Callable[[int, int, int, float], float]:
    """`roofline_rate` of native/roofline.c, for this machine's vectors."""
    flags = read_processor().flags
    if "avx512f" in flags:
        width, extensions = 64, ["-mavx512f", "-mfma"]
    elif {"avx2", "fma"} <= flags:
        width, extensions = 32, ["-mavx2", "-mfma"]
    else:
        width, extensions = 16, []
    library = folder / "roofline.so"
    options = ["-std=gnu11", "-O2", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", f"-DWIDTH={width}"]
    command = [*find_linker().command, *options, *extensions, str(_SOURCE), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise ToolchainError(f"{command[0]} cannot build what measures this machine: {done.stderr.strip()[-500:]}")
    function = ctypes.CDLL(str(library)).roofline_rate
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int, ctypes.c_double]
    rate: Callable[[int, int, int, float], float] = function
    return rate
