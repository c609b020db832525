from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.backends.triton.function import Argument, Constant, Function, FunctionLaunch
from graphc.errors import ExecutionError
from graphc.ir.symbolic import symbol
from graphc.package.cuda import Integer, Pointer, Status
from graphc.testing.triton.interpreter import interpret

HEAD = "import triton\nimport triton.language as tl\nfrom triton.language.extra import libdevice\n\n\n@triton.jit\n"


def function_of(body: str, *arguments: Argument, **constants: Constant) -> Function:
    """A function `kernel` of such statements."""
    names = [argument.name for argument in arguments] + [f"{name}: tl.constexpr" for name in constants]
    lines = [f"    {line}\n" for line in body.splitlines()]
    text = HEAD + f"def kernel({', '.join(names)}):\n" + "".join(lines)
    return Function(text, "kernel", arguments, tuple(constants.items()))


def pointer(name: str, number: int, kind: str = "fp32") -> Argument:
    return Argument(name, f"*{kind}", Pointer(number))


def once(made: Function, programs: int = 1) -> list[FunctionLaunch]:
    return [FunctionLaunch(made, (programs, 1, 1))]


ADD = """\
i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
tl.store(y + i, tl.load(x + i, mask=i < n).to(tl.float32) + 1.0, mask=i < n)"""
KINDS = {"fp16": np.float16, "fp32": np.float32, "fp64": np.float64, "bf16": ml_dtypes.bfloat16}


@given(st.integers(1, 3000), st.sampled_from([64, 256]), st.sampled_from(sorted(KINDS)), st.booleans())
def test_elements_of_any_number_and_type(n: int, block: int, kind: str, wide: bool) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(KINDS[kind])
    count = Argument("n", "i64" if wide else "i32", Integer("d1"), 1)
    made = function_of(ADD, pointer("x", 0, kind), pointer("y", 1, kind), count, BLOCK=block)
    launches = [FunctionLaunch(made, ((symbol("n") + block - 1) // block, 1, 1))]
    done = interpret(launches, [x, np.empty_like(x)], {"other": 3, "n": n})
    expected = (x.astype(np.float32) + 1).astype(x.dtype)
    assert done.status == 0 and done.arrays[0].dtype == x.dtype
    np.testing.assert_array_equal(done.arrays[0], x)
    np.testing.assert_array_equal(done.arrays[1], expected)


DOT = """\
m, n, k = tl.arange(0, 16), tl.arange(0, 32), tl.arange(0, 64)
left = tl.load(a + m[:, None] * 64 + k[None, :])
right = tl.load(b + k[:, None] * 32 + n[None, :])
tl.store(c + m[:, None] * 32 + n[None, :], tl.dot(left, right))"""


@pytest.mark.parametrize("kind", ["fp16", "bf16", "fp32"])
def test_products(kind: str) -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(shape).astype(KINDS[kind]) for shape in ((16, 64), (64, 32)))
    made = function_of(DOT, pointer("a", 0, kind), pointer("b", 1, kind), pointer("c", 2))
    done = interpret(once(made), [a, b, np.zeros((16, 32), np.float32)])
    np.testing.assert_allclose(done.arrays[2], a.astype(np.float32) @ b.astype(np.float32), rtol=1e-4, atol=1e-4)


CASTS = """\
i = tl.arange(0, 64)
value = tl.load(x + i)
tl.store(y + i, value.to(tl.bfloat16))
tl.store(z + i, value.to(tl.bfloat16).to(x.dtype.element_ty))"""


@pytest.mark.parametrize("kind", ["fp32", "fp16", "fp64", "i32", "i8", "bf16"])
def test_casts_to_bfloat16_round_to_nearest(kind: str) -> None:
    dtype = np.dtype({**KINDS, "i32": np.int32, "i8": np.int8}[kind])
    x = (np.random.default_rng(1).standard_normal(64) * 100).astype(dtype)
    made = function_of(CASTS, pointer("x", 0, kind), pointer("y", 1, "bf16"), pointer("z", 2, kind))
    done = interpret(once(made), [x, np.zeros(64, ml_dtypes.bfloat16), np.zeros_like(x)])
    expected = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(done.arrays[1].view(np.uint16), expected.view(np.uint16))
    np.testing.assert_array_equal(done.arrays[2], expected.astype(dtype))


LIBRARY = """\
i = tl.arange(0, 64)
value = tl.load(x + i)
tl.store(y + i, libdevice.{name}({arguments}).to(y.dtype.element_ty))"""


@pytest.mark.parametrize("kind", ["fp32", "fp64"])
@pytest.mark.parametrize(
    ("name", "function"),
    [("exp", math.exp), ("erf", math.erf), ("rint", round), ("acosh", math.acosh)],
)
def test_the_device_library(name: str, function: Callable[[float], float], kind: str) -> None:
    x = np.linspace(1, 20, 64).astype(KINDS[kind])
    made = function_of(LIBRARY.format(name=name, arguments="value"), pointer("x", 0, kind), pointer("y", 1, kind))
    done = interpret(once(made), [x, np.zeros_like(x)])
    np.testing.assert_allclose(done.arrays[1], [function(float(value)) for value in x], rtol=1e-6)


def test_functions_of_two_and_of_scalars_and_those_that_are_not_there() -> None:
    x = np.linspace(-3, 3, 64).astype(np.float32)
    two = function_of(LIBRARY.format(name="fmod", arguments="value, value * 0 + 2"), pointer("x", 0), pointer("y", 1))
    np.testing.assert_array_equal(interpret(once(two), [x, np.zeros_like(x)]).arrays[1], np.fmod(x, 2))
    one = function_of("tl.store(y, libdevice.isnan(tl.load(x)).to(tl.float32))", pointer("x", 0), pointer("y", 1))
    assert interpret(once(one), [np.array([np.nan], np.float32), np.zeros(1, np.float32)]).arrays[1] == 1
    unknown = "UnsupportedError: libdevice.normcdfinv is not known"
    for name, said in (("normcdfinv", unknown), ("exp", "libdevice.exp of int32")):
        wrong = function_of(f"tl.store(y, libdevice.{name}(tl.program_id(0)))", pointer("x", 0), pointer("y", 1))
        with pytest.raises(ExecutionError, match=said):
            interpret(once(wrong), [x, np.zeros_like(x)])


def test_each_launch_sees_what_those_before_it_wrote_and_offsets_are_added() -> None:
    half = Argument("x", "*fp32", Pointer(0, 256))
    fill = function_of("tl.store(x + tl.arange(0, 64), 2.0)", half)
    double = function_of("i = tl.arange(0, 64)\ntl.store(x + i, tl.load(x + i) * 3.0)", half)
    done = interpret([*once(fill), *once(double), *once(double)], [np.ones(128, np.float32)])
    np.testing.assert_array_equal(done.arrays[0], [1] * 64 + [18] * 64)


def test_loops_and_branches_follow_scalars() -> None:
    body = """\
for trip in range(n):
    tl.store(x + trip, trip)
if n > 2:
    tl.store(x, tl.sum(tl.load(x + tl.arange(0, 4))))
while n > 3:
    n -= 1
tl.store(x + 3, n)"""
    made = function_of(body, pointer("x", 0, "i32"), Argument("n", "i32", Integer(5), 1))
    assert interpret(once(made), [np.zeros(6, np.int32)]).arrays[0].tolist() == [6, 1, 2, 3, 4, 0]


def test_a_scalar_comparison_masks_a_block() -> None:
    body = """\
first = tl.program_id(0) < 1
i = tl.program_id(0) * 4 + tl.arange(0, 4)
tl.store(y + i, tl.load(x + i, mask=first, other=7.0) + tl.load(x + i - 4, mask=first ^ True, other=1.0))"""
    made = function_of(body, pointer("x", 0), pointer("y", 1))
    done = interpret(once(made, 2), [np.arange(4, dtype=np.float32), np.zeros(8, np.float32)])
    assert done.arrays[1].tolist() == [1, 2, 3, 4, 7, 8, 9, 10]


def test_a_launch_of_no_programs_is_left_out() -> None:
    made = function_of("tl.store(x + 1000000, 2.0)", pointer("x", 0))
    assert interpret([FunctionLaunch(made, (3, 0, 1))], [np.ones(1, np.float32)]).arrays[0] == 1


def test_programs_have_their_place_in_the_grid_and_set_the_status() -> None:
    body = """\
x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
tl.store(out + (x * 3 + y) * 4 + z, (x * 100 + y * 10 + z).to(tl.int32))
tl.store(status, 1, mask=(x == 1) & (y == 2))"""
    made = function_of(body, pointer("out", 0, "i32"), Argument("status", "*i32", Status()))
    done = interpret([FunctionLaunch(made, (2, 3, 4))], [np.zeros(24, np.int32)])
    assert done.status == 1
    assert done.arrays[0].tolist() == [x * 100 + y * 10 + z for x in range(2) for y in range(3) for z in range(4)]


WRONG = {
    "a load outside": ("tl.store(y, tl.load(x + 1024))", "loads 4 bytes at argument 0 [+] 4096, which has 4096 bytes"),
    "a store before": ("tl.store(y - 1, 1.0)", "stores 4 bytes at argument 1 [+] -4, which has 4096 bytes"),
    "far away": ("tl.store(y + (1 << 28), 1.0)", r"stores 4 bytes at the status word [+] \d+, which has 4 bytes"),
    "some of many": (
        "i = tl.arange(0, 2048)\ntl.store(y + i, 1.0, mask=i < 1030)",
        r"stores 4 bytes at argument 1 [+] 4096.*\(6 such elements\)",
    ),
    "an atomic outside": ("tl.atomic_add(y + 1024, 1.0)", "updates 4 bytes at argument 1 [+] 4096"),
    "a misaligned one": (
        "tl.store((y.to(tl.pointer_type(tl.int8)) + 2).to(tl.pointer_type(tl.float32)), 1.0)",
        "stores 4 bytes at argument 1 [+] 2, which is no multiple of 4",
    ),
    "a store of another's": (
        "p = tl.program_id(0)\ntl.store(y + p // 2, p.to(tl.float32))",
        r"program \(1, 0, 0\).*overwrites argument 1 [+] 0, which program 0 of the same launch has written",
    ),
    "a load of another's": (
        "p = tl.program_id(0)\ntl.store(y + p + 1, tl.load(y + p))",
        r"program \(1, 0, 0\).*reads argument 1 [+] 4, which program 0",
    ),
    "arithmetic of bfloat16": (
        "b = tl.load(x).to(tl.bfloat16)\ntl.store(y, (b + b).to(tl.float32))",
        "TypeError: arithmetic of bfloat16",
    ),
    "no such thing": ("tl.store(y, tl.load(x) + nothing)", "NameError: name 'nothing'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_must_not_be_is_told_with_its_place(what: str) -> None:
    body, said = WRONG[what]
    made = function_of(body, pointer("x", 0), pointer("y", 1))
    arrays = [np.zeros(1024, np.float32), np.zeros(1024, np.float32)]
    with pytest.raises(ExecutionError, match=said) as caught:
        interpret(once(made, 4), arrays)
    assert body.splitlines()[-1] in str(caught.value) and "launch 0 of kernel" in str(caught.value)


def test_masked_places_may_be_anywhere_and_equal_values_may_be_written_twice() -> None:
    body = """\
i = tl.arange(0, 64)
tl.store(y + i * 1000, tl.load(x + i * 1000, mask=i < 1, other=7.0) + 5.0, mask=i < 1)"""
    made = function_of(body, pointer("x", 0), pointer("y", 1))
    done = interpret(once(made, 3), [np.zeros(1, np.float32), np.zeros(1, np.float32)])
    assert done.arrays[1] == 5


def test_programs_that_wait_for_one_another_may_be_let() -> None:
    body = """\
tl.store(x + tl.program_id(0), 2.0)
if tl.atomic_add(counter, 1) == 3:
    tl.store(y, tl.sum(tl.load(x + tl.arange(0, 4))))"""
    made = function_of(body, pointer("x", 0), pointer("y", 1), pointer("counter", 2, "i32"))
    arrays: list[np.ndarray[Any, Any]] = [np.zeros(4, np.float32), np.zeros(1, np.float32), np.zeros(1, np.int32)]
    assert interpret(once(made, 4), arrays, races=False).arrays[1] == 8
    with pytest.raises(ExecutionError, match="reads argument 0"):
        interpret(once(made, 4), arrays)


def test_a_false_promise_of_a_multiple_is_told() -> None:
    lying = function_of("tl.store(x, n)", pointer("x", 0, "i32"), Argument("n", "i32", Integer("d0"), 16))
    assert interpret(once(lying), [np.zeros(1, np.int32)], {"n": 32}).arrays[0] == 32
    with pytest.raises(ExecutionError, match="n = 33 is said to be a multiple of 16"):
        interpret(once(lying), [np.zeros(1, np.int32)], {"n": 33})
    moved = function_of("tl.store(x, 1)", Argument("x", "*i32", Pointer(0, 4)))
    with pytest.raises(ExecutionError, match=r"multiple of 16 and is argument 0 \+ 4"):
        interpret(once(moved), [np.zeros(2, np.int32)])
