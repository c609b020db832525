"""The driver: frontend, passes, memory, backend, package."""

from graphc.compiler.cache import default_folder as default_cache
from graphc.compiler.driver import Lowered, build_package, compile, compile_package, lower_model
from graphc.compiler.options import CompileOptions
from graphc.compiler.plugins import load_plugins

__all__ = [
    "CompileOptions",
    "Lowered",
    "build_package",
    "compile",
    "compile_package",
    "default_cache",
    "load_plugins",
    "lower_model",
]
