"""graphc compiles ONNX models into fast, self-contained packages and runs them.

    import graphc

    model = graphc.compile("model.onnx", target="cpu", dims={"batch": 1})
    outputs = model({"x": array})

`compile` needs the extra `graphc[cpu]`; `load`, which runs a package, needs NumPy alone. Both are imported when first
used, so that `import graphc` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphc.compiler import compile
    from graphc.runtime import load

__version__ = "0.1.0"
__all__ = ["__version__", "compile", "load"]


def __getattr__(name: str) -> Any:
    if name == "compile":
        from graphc.compiler import compile

        return compile
    if name == "load":
        from graphc.runtime import load

        return load
    raise AttributeError(f"module 'graphc' has no attribute {name!r}")
