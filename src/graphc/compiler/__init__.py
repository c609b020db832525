"""The driver: frontend, passes, memory, backend, package."""

from graphc.compiler.driver import Lowered, compile, compile_package, lower_model
from graphc.compiler.options import CompileOptions

__all__ = ["CompileOptions", "Lowered", "compile", "compile_package", "lower_model"]
