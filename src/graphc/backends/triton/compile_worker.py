"""Compiles Triton functions, ahead of time and with no GPU at hand. Runs in a worker; nothing else imports Triton.

What differs among Triton's releases 3.6 to 3.9 is settled here: `enable_fp_fusion` is given, since its default has
changed, and the metadata's sizes are absent where an older release has no use for them.
"""

from __future__ import annotations

import shutil
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_source

from graphc.backends.triton import wire
from graphc.backends.triton.worker_main import FOLDER, load_function, serve
from graphc.target.cuda import WARP

_MULTIPLE_OF_16 = [["tt.divisibility", 16]]


def compile_one(header: dict[str, Any], blobs: list[bytes]) -> wire.Message:
    """The cubin of a function and what a launch must be told."""
    function = load_function(header["text"], header["name"])
    arguments: list[list[Any]] = header["arguments"]
    constants: dict[str, Any] = header["constants"]
    names = [name for name, _, _ in arguments]
    if list(function.arg_names) != [*names, *constants]:
        raise ValueError(f"parameters are {function.arg_names}, not {[*names, *constants]}")
    source = ASTSource(
        fn=function,
        signature={name: kind for name, kind, _ in arguments} | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(i,): _MULTIPLE_OF_16 for i, (_, _, multiple) in enumerate(arguments) if multiple == 16},
    )
    options = {
        "num_warps": header["warps"],
        "num_stages": header["stages"],
        "num_ctas": header["cluster"],
        "maxnreg": header["registers"],
        "enable_fp_fusion": True,
    }
    try:
        compiled = compile_source(source, target=GPUTarget("cuda", header["capability"], WARP), options=options)
    finally:
        # Every compile is asked for once: what is worth keeping, graphc keeps.
        shutil.rmtree(FOLDER / "cache", ignore_errors=True)
    facts = compiled.metadata
    if getattr(facts, "profile_scratch_size", 0):
        raise ValueError("the function wants memory for a profiler")
    answer = {
        "name": facts.name,
        # What a compile makes of the warps asked for may be more of them.
        "threads": WARP * facts.num_warps,
        "shared": facts.shared,
        "scratch": getattr(facts, "global_scratch_size", 0) or 0,
        "cluster": facts.num_ctas,
    }
    return answer, [compiled.asm["cubin"]]


if __name__ == "__main__":
    serve(compile_one)
