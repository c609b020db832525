"""The driver: frontend, passes, memory, backend, package."""

from graphc.compiler.driver import compile, compile_package
from graphc.compiler.options import CompileOptions

__all__ = ["CompileOptions", "compile", "compile_package"]
