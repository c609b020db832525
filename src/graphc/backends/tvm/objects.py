"""From a TIR function to object code for a target."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from graphc.backends.source import source_digest
from graphc.errors import BackendError
from graphc.target import Target


def _passes() -> list[Any]:
    """TVM's passes that kernels need: they come vectorized, unrolled and simplified already.

    TVM's default pipeline runs some forty, for GPUs and for schedules that graphc does not use. One of them must not
    run: NarrowDataType makes 32-bit vectors of 64-bit index arithmetic and loses the sign of negative strides.
    """
    return [
        tirx.transform.FlattenBuffer(),
        tirx.transform.StorageRewrite(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.LowerTVMBuiltin(),
        tirx.transform.LowerIntrin(),
    ]


@lru_cache(maxsize=64)
def llvm_target(target: Target) -> Any:
    """TVM's form of a CPU target."""
    return tvm.target.Target(
        {"kind": "llvm", "mtriple": target.triple, "mcpu": target.mcpu, "mattr": list(target.attrs)}
    )


def compile_function(function: Any, symbol: str, target: Target) -> bytes:
    """The object file that exports `function` as the C symbol `symbol`.

    Raises:
        BackendError: TVM or LLVM refused the function: a defect of a kernel template.
    """
    machine = llvm_target(target)
    machine = machine.with_host(machine)
    try:
        module = tirx.transform.BindTarget(machine)(tvm.IRModule({tvm.ir.GlobalVar(symbol): function}))
        module = tvm.ir.transform.Sequential(_passes())(module)
        library = tvm.get_global_func("target.build.llvm")(module, machine)
        with tempfile.TemporaryDirectory(prefix="graphc-") as folder:
            path = Path(folder) / "kernel.o"
            library.write_to_file(str(path))
            return path.read_bytes()
    except Exception as error:
        raise BackendError(
            f"TVM could not compile kernel {symbol} for {target}: {error}",
            hint="this is a defect in graphc's code generator; please report the model that shows it",
        ) from error


def versions() -> str:
    """What decides the object code besides the kernel: part of every kernel's key."""
    return f"source {source_digest('ir', 'ops', 'backends')}, tvm {tvm.__version__}"
