"""Links kernels' objects with the launcher and the thread pool into one shared library.

Any C compiler driver does: the system's (`CC`, `cc`, `gcc`, `clang`), else Zig's from the PyPI wheel `ziglang`, which
also links for other machines. TVM is not needed here.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.errors import BackendError, ToolchainError
from graphc.package import atomic_file, library_member
from graphc.runtime import NATIVE_SOURCES
from graphc.target import Target

_COMPILE = ["-std=c11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-pthread", "-c"]
# No build id, no symbol table: the bytes depend on the objects alone. Undefined symbols fail here, not at load.
_LINK = ["-shared", "-pthread", "-s", "-Wl,--build-id=none", "-Wl,-z,defs", "-Wl,--gc-sections"]
_TIMEOUT_SECONDS = 300
_launchers: dict[str, dict[str, bytes]] = {}


@dataclass(frozen=True)
class Linker:
    """A C compiler driver for one target: its command, and the file whose change makes it another one."""

    command: tuple[str, ...]
    program: Path

    def __str__(self) -> str:
        return shlex.join(self.command)

    @functools.cached_property
    def identity(self) -> str:
        """Changes when the compiler is updated; cheaper than asking it for its version."""
        status = self.program.stat()
        return f"{shlex.join(self.command)}\0{status.st_size}\0{status.st_mtime_ns}"


def _machine(triple: str | None) -> str:
    machine = (triple.split("-")[0] if triple else platform.machine()).lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def find_linker(triple: str | None = None) -> Linker:
    """The C compiler driver to link with; a look-up of files, nothing is run, so ask before any work is done.

    Args:
        triple: Target as in `aarch64-linux-gnu`; None is this machine.

    Raises:
        ToolchainError: There is none for this target; the hint says what to install.
    """
    machine = _machine(triple)
    if machine == _machine(None):
        candidates = [shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]]
    else:
        candidates = [[f"{machine}-linux-gnu-gcc"]]
    for candidate in candidates:
        if candidate and (program := shutil.which(candidate[0])) is not None:
            return Linker((program, *candidate[1:]), Path(program))
    if (zig := _find_zig()) is not None:
        return Linker((str(zig), "cc", "-target", f"{machine}-linux-gnu"), zig)
    raise ToolchainError(
        f"no C compiler or linker for {machine} was found (looked for {', '.join(c[0] for c in candidates if c)}, zig)",
        hint="pip install ziglang",
    )


def _find_zig() -> Path | None:
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "zig"
        return program if program.exists() else None
    found = shutil.which("zig")
    return Path(found) if found else None


def link(
    objects: Mapping[str, bytes],
    *,
    triple: str | None = None,
    flags: Sequence[str] = (),
    exports: Iterable[str] | None = None,
    linker: Linker | None = None,
    cache: Path | None = None,
) -> bytes:
    """The shared library of a package; equal arguments give equal bytes.

    Args:
        objects: Relocatable ELF objects by name; unless `exports` says otherwise, the name is the kernel's symbol.
        triple: Target; None is this machine.
        flags: Further flags for compiling and linking, e.g. `-march=...`.
        exports: Symbols to keep visible beside the launcher's; everything else is hidden.
        linker: From `find_linker`.
        cache: Folder that keeps the compiled launcher between processes.

    Raises:
        ToolchainError: No linker.
        BackendError: The linker failed; carries what it said.
    """
    linker = linker or find_linker(triple)
    symbols = sorted(objects if exports is None else exports)
    with tempfile.TemporaryDirectory(prefix="graphc-link-") as folder:
        names = []
        for index, name in enumerate(sorted(objects)):
            names.append(f"k{index}.o")
            Path(folder, names[-1]).write_bytes(objects[name])
        for name, data in _launcher_objects(linker, flags, cache).items():
            names.append(name)
            Path(folder, name).write_bytes(data)
        visible = " ".join(f"{symbol};" for symbol in ["graphc_*", *symbols])
        Path(folder, "exports.map").write_text(f"{{ global: {visible} local: *; }};\n")
        # A response file: thousands of objects do not fit a command line.
        Path(folder, "objects.txt").write_text("\n".join(names))
        _run(
            [
                *linker.command,
                *_LINK,
                *flags,
                "-Wl,--version-script=exports.map",
                "-o",
                "model.so",
                "@objects.txt",
                "-lm",
            ],
            folder,
        )
        return Path(folder, "model.so").read_bytes()


def linked(objects: Mapping[str, bytes], target: Target, cache: Path | None = None) -> dict[str, bytes]:
    """The member of a package that carries a CPU's kernels: what a backend's `link` answers.

    Args:
        objects: Relocatable ELF objects by the kernels' symbols.
        target: What they were compiled for.
        cache: Folder that keeps the compiled launcher between processes.

    Raises:
        As `link`.
    """
    return {library_member(target.isa): link(objects, triple=target.triple, cache=cache)}


def _launcher_objects(linker: Linker, flags: Sequence[str], cache: Path | None) -> dict[str, bytes]:
    """The compiled launcher and pool: from memory, from `cache`, or made now."""
    sources = {path.name: path.read_bytes() for path in NATIVE_SOURCES}
    recipe = [linker.identity, *_COMPILE, *flags, *(part for name in sorted(sources) for part in (name, sources[name]))]
    hasher = hashlib.sha256()
    for part in recipe:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little") + data)
    key = hasher.hexdigest()
    if key not in _launchers:
        units = sorted(name for name in sources if name.endswith(".c"))
        stored = {Path(name).stem + ".o": cache / f"{key}-{Path(name).stem}.o" for name in units} if cache else {}
        if stored and all(path.exists() for path in stored.values()):
            _launchers[key] = {name: path.read_bytes() for name, path in stored.items()}
        else:
            _launchers[key] = _compile(linker, flags, sources, units)
            for name, path in stored.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as file:
                    file.write(_launchers[key][name])
    return _launchers[key]


def _compile(
    linker: Linker, flags: Sequence[str], sources: Mapping[str, bytes], units: Sequence[str]
) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="graphc-launcher-") as folder:
        for name, text in sources.items():
            Path(folder, name).write_bytes(text)
        compiled = {}
        for unit in units:
            name = f"{Path(unit).stem}.o"
            # Relative paths, so that no folder's name gets into the object.
            _run([*linker.command, *_COMPILE, *flags, unit, "-o", name], folder)
            compiled[name] = Path(folder, name).read_bytes()
        return compiled


def _run(command: Sequence[str], folder: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-20:])
        raise BackendError(f"{shlex.join(command[:2])} ... failed with status {done.returncode}:\n{said}")
