from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphc.backends.triton.cubin import compile_function, compile_functions
from graphc.backends.triton.disassembly import ASYNCHRONOUS, TENSOR_CORE, count, disassemble, instructions
from graphc.backends.triton.elf import resources_of
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.errors import BackendError, PackageError
from graphc.ir.symbolic import symbol
from graphc.package.cuda import CudaObject, Integer, Pointer, cubin_name
from graphc.target.cuda import GPUS

ADD = """\
import triton
import triton.language as tl


@triton.jit
def add_one(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) + 1.0, mask=i < n)
"""

PRODUCT = """\
import triton
import triton.language as tl


@triton.jit
def product(a, b, c, trips, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros((M, N), tl.float32)
    for trip in range(trips):
        left = tl.load(a + m[:, None] * trips * K + trip * K + k[None, :])
        right = tl.load(b + (trip * K + k[:, None]) * N + n[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + m[:, None] * N + n[None, :], total)
"""


def add_one(count: int | str = 4096, multiple: int = 16, **options: int) -> Function:
    arguments = (
        Argument("x", "*fp32", Pointer(0)),
        Argument("y", "*fp32", Pointer(1)),
        Argument("n", "i32", Integer(count), 16 if multiple == 16 else 1),
    )
    return Function(ADD, "add_one", arguments, (("BLOCK", 1024),), **options)


def product(m: int, n: int, warps: int, stages: int = 3, registers: int | None = None) -> Function:
    arguments = (
        Argument("a", "*fp16", Pointer(0)),
        Argument("b", "*fp16", Pointer(1)),
        Argument("c", "*fp32", Pointer(2)),
        Argument("trips", "i32", Integer(8), 1),
    )
    constants = (("M", m), ("N", n), ("K", 64))
    return Function(PRODUCT, "product", arguments, constants, warps=warps, stages=stages, registers=registers)


def test_a_kernel_is_its_launches_and_cubins() -> None:
    seq = symbol("seq")
    launches = [
        FunctionLaunch(add_one("d1"), ((seq + 1023) // 1024, 1, 1)),
        FunctionLaunch(add_one("d1"), (4, 1, 1)),
        FunctionLaunch(add_one(multiple=1, warps=8), (1, 2, 3)),
    ]
    made = compile_functions(launches, GPUS["sm_90"], ["batch", "seq"])
    first, second, third = made.kernel.launches
    assert first.grid == ("((d1 + 1023)//1024)", 1, 1) and second.grid == (4, 1, 1) and third.grid == (1, 2, 3)
    assert first.cubin == second.cubin != third.cubin
    assert set(made.cubins) == {first.cubin, third.cubin} == set(map(cubin_name, made.cubins.values()))
    assert (first.threads, third.threads, first.shared, first.function) == (128, 256, 0, "add_one")
    assert first.parameters == (Pointer(0), Pointer(1), Integer("d1"))
    assert CudaObject.from_bytes(made.to_bytes()) == made


def test_loads_are_wide_where_addresses_are_known_multiples() -> None:
    aligned, not_ = (instructions(compile_function(add_one(multiple=m), GPUS["sm_80"]).cubin) for m in (16, 1))
    assert count(aligned, "LDG.128") == count(aligned, "LDG") == 2
    assert count(not_, "LDG.128") == 0 and count(not_, "LDG") == 8


@pytest.mark.parametrize(
    ("architecture", "tensor_core", "greedy"),
    [("sm_80", "HMMA", product(64, 64, 4, registers=32)), ("sm_90", "HGMMA", product(128, 256, 4))],
)
def test_what_a_product_is_made_of_is_seen(architecture: str, tensor_core: str, greedy: Function) -> None:
    fine = compile_function(product(64, 64, 4), GPUS[architecture])
    found = instructions(fine.cubin)
    assert count(found, tensor_core) == count(found, *TENSOR_CORE) > 0
    assert count(found, *ASYNCHRONOUS) > 0
    assert fine.stack == 0 and 0 < fine.registers <= 255 and fine.threads == 128
    assert count(found, "LDL", "STL") == 0
    spilled = compile_function(greedy, GPUS[architecture])
    assert spilled.stack > 0 and count(instructions(spilled.cubin), "STL") > 0


@pytest.mark.slow
@pytest.mark.parametrize("architecture", GPUS)
def test_resources_are_those_that_cuobjdump_tells(architecture: str, tmp_path: Path) -> None:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for function in (add_one(), product(128, 64, 4), product(64, 256, 4)):
        made = compile_function(function, GPUS[architecture])
        file = tmp_path / "kernel.cubin"
        file.write_bytes(made.cubin)
        told = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
        match = re.search(r"REG:(\d+) STACK:(\d+)", told)
        assert match is not None and (made.registers, made.stack) == tuple(map(int, match.groups()))


def test_what_is_no_cubin_is_refused() -> None:
    cubin = compile_function(add_one(), GPUS["sm_90"]).cubin
    for damaged in (b"", b"\x7fELF", cubin[:100], cubin[:-2000], b"x" + cubin):
        with pytest.raises(PackageError, match="not a cubin"):
            resources_of(damaged)
    with pytest.raises(BackendError, match="nvdisasm"):
        disassemble(b"nothing")


WRONG = """\
import triton
import triton.language as tl


@triton.jit
def wrong(x, N: tl.constexpr):
    tl.store(x + tl.arange(0, N), 0.0)
"""


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (Function(WRONG, "wrong", (Argument("x", "*fp32", Pointer(0)),), (("N", 3),)), r"line|power of 2"),
        (Function(WRONG, "other", ()), "no attribute 'other'"),
        (Function(WRONG, "wrong", (Argument("y", "*fp32", Pointer(0)),), (("N", 4),)), r"\['x', 'N'\]"),
        (Function("def wrong(:", "wrong", ()), "SyntaxError"),
        (add_one(4095), "n = 4095 is said to be a multiple of 16"),
    ],
)
def test_errors_name_the_kernel_and_the_reason(function: Function, reason: str) -> None:
    with pytest.raises(BackendError, match=rf"kernel {function.name} for cuda:sm_80.*") as caught:
        compile_function(function, GPUS["sm_80"])
    assert re.search(reason, str(caught.value)) and "/graphc-worker" not in str(caught.value)


def test_more_shared_memory_than_a_block_has_is_refused() -> None:
    with pytest.raises(BackendError, match="bytes of shared memory; a block has 101376"):
        compile_function(product(64, 64, 4, stages=8), GPUS["sm_86"])


@pytest.mark.slow
def test_two_processes_in_two_folders_make_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import json, sys; from tests.backends.triton.test_cubin import *;"
        "functions = (add_one(), product(64, 64, 4));"
        "made = [compile_function(f, GPUS[a]).cubin for a in ('sm_80', 'sm_90') for f in functions];"
        "print(json.dumps([cubin_name(cubin) for cubin in made]), 'triton' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    answers = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]),
            "TMPDIR": str(tmp_path / name),
            # What a user has set for kernels of his own has no say.
            "TRITON_ALWAYS_COMPILE": "1" if name == "first" else "0",
            "DISABLE_PTXAS_OPT": "1" if name == "first" else "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path / name,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(done.stdout.split())
        assert list((tmp_path / name).iterdir()) == []
    assert answers[0] == answers[1] and answers[0][-1] == "False"
    assert len(set(json.loads(" ".join(answers[0][:-1])))) == 4
