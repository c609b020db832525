"""Servers and loads as processes of their own, each on its own processors."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_GRPC = ("event_engine", "grpc_global_tim", "timer_manager")
"""Names of threads of gRPC's core; one of its has none of its own, and counts among the others."""
_PINNED = """
import os, sys
os.sched_setaffinity(0, {int(cpu) for cpu in sys.argv[1].split(",")})
os.execvp(sys.argv[2], sys.argv[2:])
"""


def processors() -> tuple[str, str]:
    """Those of servers and that of the load; the same one where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, available[:-1] or available)), str(available[-1])


def all_processors() -> str:
    """Those of servers and loads together."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


def pinned(command: Sequence[str], cpus: str) -> list[str]:
    """The command that runs another one on some processors only."""
    return [sys.executable, "-c", _PINNED, cpus, *command]


def environment(**more: str) -> dict[str, str]:
    """Variables under which this very code is what is imported."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **more}


@dataclass(frozen=True)
class Running:
    """A server that has said that it is ready.

    Args:
        pid: Of its process.
        ready: What it said, matched.
        log: Where it writes.
    """

    pid: int
    ready: re.Match[str]
    log: Path

    def memory(self) -> int:
        """Bytes in memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Seconds of processors that it has taken, with the processes that it has started."""
        ticks, parents = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = stat.read_text().rpartition(")")[2].split()
                pid = int(stat.parent.name)
                parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
        own = {self.pid}
        while more := {pid for pid, parent in parents.items() if parent in own} - own:
            own |= more
        return sum(ticks[pid] for pid in own) / os.sysconf("SC_CLK_TCK")

    def thread_seconds(self) -> dict[str, float]:
        """Seconds of processors of its threads: `front`, its main thread, where its event loop is; `grpc`; `others`."""
        found = dict.fromkeys(("others", "front", "grpc"), 0.0)
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                name = (task / "comm").read_text().strip()
                part = "front" if task.name == str(self.pid) else "grpc" if name in _GRPC else "others"
                found[part] += int((task / "schedstat").read_text().split()[0]) / 1e9
        return found


@contextmanager
def server(
    command: Sequence[str],
    ready: str,
    *,
    cpus: str | None = None,
    variables: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> Iterator[Running]:
    """Runs a server until the end of the block.

    Args:
        command: That starts it.
        ready: A pattern of what it writes when it can be asked.
        cpus: Processors that it runs on; those of servers by default.
        variables: Besides those of this process.
        timeout: Seconds that it may take to be ready.

    Raises:
        RuntimeError: It ended, or was not ready in time; says what it wrote.
    """
    with tempfile.NamedTemporaryFile("w+", prefix="graphc-bench-", suffix=".log") as log:
        process = subprocess.Popen(
            pinned(command, cpus or processors()[0]),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment(**(variables or {})),
        )
        try:
            deadline = time.monotonic() + timeout
            while (found := re.search(ready, Path(log.name).read_text())) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} is not ready:\n{Path(log.name).read_text()[-4000:]}")
                time.sleep(0.02)
            yield Running(process.pid, found, Path(log.name))
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def graphc_server(repository: Path, *options: str, cpus: str | None = None) -> AbstractContextManager[Running]:
    """`graphc serve` on free ports unless options say which; `ready` has the groups `http`, `grpc` and `metrics`."""
    command = [sys.executable, "-m", "graphc", "serve", str(repository), "--log-format", "json"]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    pattern = r"ready: (?P<http>http://[^,\s]+), (?:grpc://)?(?P<grpc>[^,\s]+).*?(?P<metrics>http://[^,\s]+)/metrics"
    return server([*command, *ports, *options], pattern, cpus=cpus)


def start_load(url: str, *options: str) -> subprocess.Popen[str]:
    """Starts `bench.serving.load` in a process and on a processor of its own."""
    command = [sys.executable, "-m", "bench.serving.load", url, "--json", "--cpus", processors()[1], *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    )


def report(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a load that was started says at its end.

    Raises:
        RuntimeError: It failed.
    """
    said, complaint = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load failed: {complaint[-2000:]}")
    found: dict[str, Any] = json.loads(said)
    return found


def load(url: str, *options: str) -> dict[str, Any]:
    """Puts a load on a server and waits for its end."""
    return report(start_load(url, *options))
