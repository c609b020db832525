"""The driver: frontend, passes, memory, backend, package."""

from graphc.compiler.auto_batch import keep_calibration
from graphc.compiler.driver import Lowered, build_package, compile, compile_package, lower_model, settle_auto
from graphc.compiler.on_demand import compile_on_demand
from graphc.compiler.options import CompileOptions
from graphc.compiler.plugins import load_plugins
from graphc.runtime import set_compile_hook
from graphc.runtime.folders import cache_folder as default_cache

__all__ = [
    "CompileOptions",
    "Lowered",
    "build_package",
    "compile",
    "compile_package",
    "default_cache",
    "keep_calibration",
    "load_plugins",
    "lower_model",
    "settle_auto",
]

set_compile_hook(compile_on_demand)
