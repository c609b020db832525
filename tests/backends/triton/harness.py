"""What the machine code of a kernel looks like."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.backends.base import Kernel
from graphc.backends.triton.cubin import compilation_of, compile_function
from graphc.backends.triton.disassembly import instructions
from graphc.target.cuda import CudaTarget


def machine_code(kernel: Kernel, target: CudaTarget) -> list[Mapping[str, int]]:
    """Compiles every function of a kernel; answers how often each instruction is in it.

    Fails where one spills registers, or needs more shared memory than a block may have.
    """
    found = []
    for launch in compilation_of(kernel).launches:
        made = compile_function(launch.function, target)
        assert made.stack == 0, f"{launch.function.name} spills {made.stack} bytes"
        assert made.shared <= target.shared_bytes
        found.append(instructions(made.cubin))
    return found
