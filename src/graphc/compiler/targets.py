"""What a compile is for: targets by name, the backend of each, and the versions of what they bring along."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence

import graphc
from graphc.backends.base import Backend, make_backend
from graphc.errors import DeviceError, OptionError, ToolchainError
from graphc.target import GPUS, AnyTarget, Target, parse_targets

BACKENDS: Mapping[str, str] = {"cpu": "tvm", "cuda": "triton"}
"""What compiles for a kind of target where no backend is named."""

MODULES: Mapping[str, tuple[str, ...]] = {"triton": ("triton", "jinja2")}
"""What backends need beside what importing them asks for."""

TOOLS: Mapping[str, str] = {"tvm": "apache-tvm", "triton": "triton"}
"""The distribution that decides what a backend's kernels become."""

Backends = Mapping[str, Backend]
"""The backend of each kind of target."""


def targets_of(text: str) -> list[AnyTarget]:
    """The targets that `text` names; `cuda` is the GPUs of this machine, or those of data centers where it has none.

    Raises:
        OptionError: An unknown target.
    """
    if not isinstance(text, str):
        raise OptionError(f"target is {text!r}; expected a name, e.g. 'cpu'")
    names = [",".join(gpus_here()) or name if name.strip().lower() == "cuda" else name for name in text.split(",")]
    return list(parse_targets(",".join(names)))


def gpus_here() -> list[str]:
    """Targets whose code the GPUs of this machine run best."""
    try:
        from graphc.runtime.cuda import devices
        from graphc.runtime.cuda.code import closest

        best = [closest(list(GPUS), device.capability) for device in devices()]
    except (DeviceError, ToolchainError):
        # A model is compiled for GPUs that are elsewhere.
        return []
    return [GPUS[architecture].name for architecture in best if architecture is not None]


def backends_for(targets: Sequence[AnyTarget], name: str | None = None) -> Backends:
    """A backend for each kind of target, after a look for all that it needs.

    Args:
        targets: To compile for.
        name: Of the backend for all of them; that of each kind if None.

    Raises:
        OptionError: The backend named is for other targets.
        ToolchainError: What a backend needs is missing; says what to install.
    """
    found: dict[str, Backend] = {}
    for target in targets:
        if isinstance(target, Target):
            from graphc.backends.tvm.link import find_linker

            find_linker(target.triple)
        if target.kind not in found:
            found[target.kind] = _backend(name or BACKENDS[target.kind], target)
    return found


def _backend(name: str, target: AnyTarget) -> Backend:
    for module in MODULES.get(name, ()):
        if importlib.util.find_spec(module) is None:
            raise ToolchainError(
                f"backend {name!r} needs the module {module!r}, which is not installed",
                hint=f"pip install 'graphc[{target.kind}]'",
            )
    try:
        backend = make_backend(name)
    except ImportError as error:
        raise ToolchainError(
            f"backend {name!r} cannot be imported: {error}", hint=f"pip install 'graphc[{target.kind}]'"
        ) from error
    if target.kind not in backend.kinds:
        raise OptionError(
            f"backend {name!r} does not compile for {target}",
            hint=f"leave out the backend: for {target.kind} targets it is {BACKENDS[target.kind]}",
        )
    return backend


def versions(backends: Backends) -> dict[str, str]:
    """Versions of all that decides what a compile with these backends writes."""
    names = sorted({backend.name for backend in backends.values()} & TOOLS.keys())
    return {
        "graphc": graphc.__version__,
        "onnx": importlib.metadata.version("onnx"),
        **{name: importlib.metadata.version(TOOLS[name]) for name in names},
    }
