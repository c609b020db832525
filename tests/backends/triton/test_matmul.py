"""Products of matrices on GPUs: interpreted against NumPy at sizes that leave tails, and what the machine code is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import matmul, templates
from graphc.backends.triton.cubin import compilation_of, compile_function
from graphc.backends.triton.disassembly import ASYNCHRONOUS, count, instructions
from graphc.backends.triton.matmul_tiles import TILES, Problem, Tile, candidates, choose, seconds, shared_bytes
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ir.dtypes import DType
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import Array, body

SM_80, SM_90 = GPUS["sm_80"], GPUS["sm_90"]
FLOATS = {"half": dtypes.FLOAT16, "tf32": dtypes.FLOAT32, "single": dtypes.FLOAT32, "double": dtypes.FLOAT64}
SIZES = {"half": 2, "tf32": 4, "single": 4, "double": 8, "byte": 1}
NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Every attempt interprets a kernel."""

SMALL = [(16, 16, 16, 2, 4), (16, 32, 32, 3, 4), (32, 16, 64, 3, 4)]
"""Tiles that the interpreter is quick with."""


def lower(*constants: int, **options: Any) -> Any:
    return lambda graph, target: matmul.lower(graph, target, frozenset(constants), options)


def normal(*shape: int, dtype: DType = dtypes.FLOAT32, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype.numpy)


def whole(*shape: int, signed: bool = True, seed: int = 0) -> Array:
    low, high, dtype = (-128, 128, np.int8) if signed else (0, 256, np.uint8)
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(dtype)


def gelu(b: Builder, x: Value) -> Value:
    half, one, root = (b.constant(np.float32(number)) for number in (0.5, 1.0, 0.5**0.5))
    return b.op("Mul", b.op("Mul", x, half), b.op("Add", b.op("Erf", b.op("Mul", x, root)), one))


EPILOGUES: dict[str, Any] = {
    "none": lambda b, x, rest: x,
    "bias": lambda b, x, rest: b.op("Add", x, rest),
    "bias relu": lambda b, x, rest: b.op("Relu", b.op("Add", rest, x)),
    "two outputs": lambda b, x, rest: [b.op("Relu", x), b.op("Mul", x, rest)],
    "another type": lambda b, x, rest: b.op("Cast", b.op("Mul", x, rest), to=dtypes.FLOAT32.onnx),
}


@settings(max_examples=20, phases=NO_SHRINKING)
@given(st.data())
def test_products_of_any_size(data: st.DataObject) -> None:
    rows, columns, depth = (data.draw(st.integers(1, most), name) for name, most in (("m", 40), ("n", 70), ("k", 80)))
    batch = data.draw(st.sampled_from([(), (1,), (2,), (2, 3)]), "batch")
    right_batch = data.draw(st.sampled_from([(), batch, batch[-1:]]), "right batch")
    dtype = data.draw(st.sampled_from([dtypes.FLOAT32, dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.FLOAT64]), "dtype")
    turned = data.draw(st.tuples(st.booleans(), st.booleans()), "transposed")
    epilogue = data.draw(st.sampled_from(sorted(EPILOGUES)), "epilogue")
    extra = data.draw(st.sampled_from([(columns,), (rows, 1), (*batch, rows, columns)]), "extra")
    constants = data.draw(st.sampled_from([(), (1,), (0,)]), "constants")
    splits = data.draw(st.sampled_from([1, 1, 2, 3]), "splits")
    # Batches of one right operand are rows of one product, and few columns change places with them.
    tall = rows * int(np.prod(batch)) if not right_batch else rows
    fewer = columns if columns <= 16 and columns < tall else tall
    if fewer <= 4 and data.draw(st.booleans(), "by rows"):
        tile: list[Any] = [fewer, 16, 32, 1, 4, splits, "rows"]
    else:
        tile = [*data.draw(st.sampled_from(SMALL), "tile"), splits, "tiles"]

    def shape(batch: tuple[int, ...], last: tuple[int, int], *, turn: bool) -> tuple[int, ...]:
        return (*batch, *(last[::-1] if turn else last))

    def make(b: Builder, x: Value, y: Value, rest: Value) -> Any:
        both = []
        for value, turn in zip((x, y), turned, strict=True):
            rank = len(value.tensor_type.dims)
            both.append(b.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2]) if turn else value)
        return EPILOGUES[epilogue](b, b.op("MatMul", *both), rest)

    arrays = [
        normal(*shape(batch, (rows, depth), turn=turned[0]), dtype=dtype),
        normal(*shape(right_batch, (depth, columns), turn=turned[1]), dtype=dtype, seed=1),
        normal(*extra, dtype=dtype, seed=2),
    ]
    check_kernel(body(arrays, make), arrays, lower(*constants, matmul_tile=tile))


@pytest.mark.parametrize(
    ("name", "arrays", "make"),
    [
        ("a vector at the left", [normal(20), normal(20, 33)], lambda b, x, y: b.op("MatMul", x, y)),
        ("a vector at the right", [normal(37, 20), normal(20)], lambda b, x, y: b.op("MatMul", x, y)),
        ("two vectors", [normal(20), normal(20)], lambda b, x, y: b.op("MatMul", x, y)),
        (
            "gemm",
            [normal(50, 7), normal(30, 50), normal(30)],
            lambda b, x, y, z: b.op("Gemm", x, y, z, transA=1, transB=1, alpha=0.5, beta=2.0),
        ),
        (
            "einsum",
            [normal(2, 3, 5, 4), normal(2, 7, 3, 4)],
            lambda b, x, y: b.op("Einsum", x, y, equation="bhik,bjhk->bihj"),
        ),
        (
            "a sum over two axes",
            [normal(3, 5, 4), normal(5, 4, 7)],
            lambda b, x, y: b.op("Einsum", x, y, equation="ikl,klj->ij"),
        ),
        (
            "heads split",
            [normal(2, 7, 48), normal(48, 24), normal(24)],
            lambda b, x, y, z: b.op(
                "Transpose",
                b.op("Reshape", b.op("Add", b.op("MatMul", x, y), z), b.constant(np.array([2, 7, 3, 8]))),
                perm=[0, 2, 1, 3],
            ),
        ),
        (
            "heads joined before",
            [normal(2, 3, 7, 8), normal(24, 30)],
            lambda b, x, y: b.op(
                "MatMul",
                b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 1, 3]), b.constant(np.array([2, 7, 24]))),
                y,
            ),
        ),
        ("gelu", [normal(9, 20), normal(20, 30)], lambda b, x, y: gelu(b, b.op("MatMul", x, y))),
        (
            "weights of bytes with a scale for each column",
            [normal(9, 40, dtype=dtypes.FLOAT16), whole(40, 33), normal(33, dtype=dtypes.FLOAT16), whole(33, seed=1)],
            lambda b, x, y, s, z: b.op("MatMul", x, b.op("DequantizeLinear", y, s, z, axis=1)),
        ),
        (
            "a left operand computed on its way",
            [normal(9, 20), normal(20), normal(20, 30)],
            lambda b, x, s, y: b.op("MatMul", b.op("Exp", b.op("Add", x, s)), y),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_forms(name: str, arrays: list[Array], make: Any) -> None:
    check_kernel(body(arrays, make), arrays, lower(1, 2, matmul_tile=[16, 32, 32, 3, 4, 1, "tiles"]))


@settings(max_examples=20, phases=NO_SHRINKING)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    depth=st.integers(1, 100),
    signs=st.tuples(st.booleans(), st.booleans()),
    zeros=st.tuples(st.sampled_from([None, "one", "rows"]), st.sampled_from([None, "one", "columns"])),
    constant=st.booleans(),
    splits=st.sampled_from([1, 3]),
    scaled=st.booleans(),
)
@example(1, 33, 90, (False, True), ("one", None), True, 3, True)
@example(17, 1, 90, (False, False), ("one", "columns"), False, 1, True)
def test_products_of_bytes(
    rows: int,
    columns: int,
    depth: int,
    signs: tuple[bool, bool],
    zeros: tuple[str | None, str | None],
    constant: bool,
    splits: int,
    scaled: bool,
) -> None:
    extents = {"one": (), "rows": (rows,), "columns": (columns,)}
    arrays = [whole(rows, depth, signed=signs[0]), whole(depth, columns, signed=signs[1])]
    for zero, signed in zip(zeros, signs, strict=True):
        arrays.append(whole(*extents[zero or "one"], signed=signed, seed=3))
    arrays.append(normal(columns))

    def make(b: Builder, x: Value, y: Value, zx: Value, zy: Value, scale: Value) -> Value:
        found = b.op("MatMulInteger", x, y, zx if zeros[0] else None, zy if zeros[1] else None)
        return b.op("Mul", b.op("Cast", found, to=dtypes.FLOAT32.onnx), scale) if scaled else found

    turned = columns <= 16 and columns < rows
    needs_sums = turned or not (constant and zeros[1] is None and signs[1])
    tile = [16, 32, 32, 3, 4, 1 if needs_sums else splits, "tiles"]
    check_kernel(body(arrays, make), arrays, lower(*([1] if constant else []), matmul_tile=tile))


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_windows_of_bytes_are_shifted_as_bytes_in_memory_are(signed: bool) -> None:
    x, w, zero = (
        whole(1, 2, 6, 5, signed=signed),
        whole(3, 2, 2, 2, signed=signed),
        np.array(3, np.int8 if signed else np.uint8),
    )
    graph = body([x, w, zero], lambda b, *given: b.op("ConvInteger", *given))
    check_kernel(graph, [x, w, zero], lambda g, t: templates.lower(g, t, frozenset(), {}), SM_90)


@pytest.mark.parametrize("dtype", [dtypes.UINT4, dtypes.INT4], ids=str)
@pytest.mark.parametrize("columns", [32, 33])
def test_weights_of_four_bits_stand_two_in_a_byte(dtype: DType, columns: int) -> None:
    low = 0 if dtype is dtypes.UINT4 else -8
    numbers = np.random.default_rng(0).integers(low, low + 16, (columns, 45)).astype(dtype.numpy)
    zeros = np.random.default_rng(1).integers(low, low + 16, (columns, 3)).astype(dtype.numpy)
    arrays = [normal(5, 45, dtype=dtypes.FLOAT16), numbers, normal(columns, 3, dtype=dtypes.FLOAT16), zeros]

    def make(b: Builder, x: Value, y: Value, scale: Value, zero: Value) -> Value:
        return b.op("Gemm", x, b.op("DequantizeLinear", y, scale, zero, axis=1, block_size=15), transB=1)

    kernel = check_kernel(body(arrays, make), arrays, lower(1, 2, 3, matmul_tile=[16, 16, 32, 3, 4, 1, "tiles"]))
    sizes = [operand.size for operand in kernel.operands if operand.packing]
    assert sizes == [-(-columns * count // 64) * 32 for count in (45, 3)]


@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
def test_tiles_by_the_copy_engine(turned: tuple[int, int]) -> None:
    shapes = [(64, 88)[:: -1 if turned[0] else 1], (88, 72)[:: -1 if turned[1] else 1]]
    arrays = [normal(*shape, dtype=dtypes.FLOAT16) for shape in shapes] + [normal(72, dtype=dtypes.FLOAT16)]
    tile = [64, 32, 32, 3, 4, 1, "descriptors"]

    def make(b: Builder, x: Value, y: Value, z: Value) -> Value:
        return b.op("Relu", b.op("Gemm", x, y, z, transA=turned[0], transB=turned[1]))

    check_kernel(body(arrays, make), arrays, lower(matmul_tile=tile))


def test_what_is_no_product_is_refused() -> None:
    words = [np.ones((4, 4), np.int32), np.ones((4, 4), np.int32)]
    with pytest.raises(BackendError, match="bytes"):
        lower()(body(words, lambda b, x, y: b.op("MatMul", x, y)), SM_90)
    floats = [normal(4, 4), normal(4, 4)]
    with pytest.raises(BackendError, match="2 products"):
        lower()(body(floats, lambda b, x, y: b.op("MatMul", b.op("MatMul", x, y), y)), SM_90)
    with pytest.raises(BackendError, match="other places"):
        turned = lambda b, x, y: b.op("Softmax", b.op("MatMul", x, y))  # noqa: E731
        lower()(body(floats, turned), SM_90)


@settings(max_examples=100)
@given(
    arithmetic=st.sampled_from(sorted(TILES)),
    target=st.sampled_from(sorted(GPUS)),
    extents=st.tuples(st.integers(1, 64), *(st.integers(1, 9000) for _ in range(3))),
)
def test_choices_fit_and_are_the_same_every_time(
    arithmetic: Any, target: str, extents: tuple[int, int, int, int]
) -> None:
    batch, m, n, k = extents
    size = SIZES[arithmetic]
    problem = Problem(*extents, arithmetic, size, batch * m * k * size, batch * k * n * size, batch * m * n * 4)
    gpu = GPUS[target]
    tile = choose(problem, gpu)
    assert tile == choose(problem, gpu)
    assert shared_bytes(tile, problem, gpu) <= gpu.shared_bytes
    assert all(seconds(tile, problem, gpu) <= seconds(other, problem, gpu) for other in candidates(problem, gpu))


def test_choices_for_known_sizes() -> None:
    def chosen(m: int, n: int, k: int) -> Tile:
        return choose(Problem(1, m, n, k, "half", 2, 2 * m * k, 2 * k * n, 2 * m * n, "inner"), SM_90)

    large = chosen(8192, 8192, 8192)
    assert (large.rows * large.columns, large.splits, large.form) == (128 * 256, 1, "tiles")
    assert chosen(1, 4096, 4096).form == "rows"
    assert chosen(16, 4096, 4096).rows == 16
    assert chosen(128, 768, 3072).splits > 1


def test_a_weight_is_stored_once_for_all_numbers_of_rows() -> None:
    packings = set()
    for rows in (1, 16, 300):
        graph = body([normal(rows, 50), normal(50, 33)], lambda b, x, y: b.op("MatMul", x, y))
        (packed,) = (operand.packing for operand in lower(1)(graph, SM_90).operands if operand.packing is not None)
        packings.add(packed)
    assert len(packings) == 1


def test_alternatives_are_lowered() -> None:
    graph = body([normal(1, 512), normal(512, 64)], lambda b, x, y: b.op("MatMul", x, y))
    found = matmul.alternatives(graph, SM_90, frozenset({1}), {})
    assert len(found) > 4
    assert len({lower(1, **choice)(graph, SM_90).key for choice in found}) == len(found)


def compiled(kernel: Kernel, target: CudaTarget) -> list[Any]:
    found = []
    for launch in compilation_of(kernel).launches:
        made = compile_function(launch.function, target)
        assert made.stack == 0, f"{launch.function.name} spills {made.stack} bytes"
        assert made.shared <= target.shared_bytes
        found.append(instructions(made.cubin))
    return found


def big(arithmetic: str) -> tuple[Graph, tuple[int, ...], dict[str, Any]]:
    """A product with a bias and an activation, its constants, and the options that it is lowered with."""
    if arithmetic == "byte":
        types = [TensorType(dtypes.UINT8, (1024, 1024)), TensorType(dtypes.INT8, (1024, 1024))]
        types += [TensorType(dtypes.UINT8, ()), TensorType(dtypes.FLOAT32, (1024,))]
        made = lambda b, x, y, z, s: b.op("Mul", b.op("Cast", b.op("MatMulInteger", x, y, z), to=1), s)  # noqa: E731
        return body(types, made), (1, 3), {}
    dtype = FLOATS[arithmetic]
    types = [TensorType(dtype, shape) for shape in ((1024, 1024), (1024, 1024), (1024,))]
    graph = body(types, lambda b, x, y, z: b.op("Relu", b.op("Add", b.op("MatMul", x, y), z)))
    return graph, (1, 2), {"precision": "tf32"} if arithmetic == "tf32" else {}


def test_tensor_cores_are_fed_by_copies_in_flight() -> None:
    graph, constants, options = big("half")
    (found,) = compiled(lower(*constants, **options)(graph, SM_90), SM_90)
    assert count(found, "HGMMA") and count(found, *ASYNCHRONOUS) and count(found, "STG.128")


def test_weights_of_one_row_are_read_in_whole_vectors() -> None:
    types = [TensorType(dtypes.FLOAT16, shape) for shape in ((1, 1024), (2048, 1024))]
    graph = body(types, lambda b, x, y: b.op("Gemm", x, y, transB=1))
    kernel = lower(1)(graph, SM_80)
    assert kernel.schedule["form"] == "rows"
    found = compiled(kernel, SM_80)[0]
    assert count(found, "LDG.128")


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ["half", "tf32"])
def test_the_copy_engine_is_asked(arithmetic: Any) -> None:
    graph, constants, options = big(arithmetic)
    problem = Problem(1, 1024, 1024, 1024, arithmetic, SIZES[arithmetic], 0, 0, 0, engine=True)
    tile = next(tile for tile in candidates(problem, SM_90) if tile.form == "descriptors")
    lowered = lower(*constants, **options, matmul_tile=tile.values())(graph, SM_90)
    (found,) = compiled(lowered, SM_90)
    assert count(found, "UTMALDG") and count(found, "HGMMA")


UNITS = {"half": ("HMMA", "HGMMA"), "tf32": ("HMMA", "HGMMA"), "byte": ("IMMA", "IGMMA"), "double": ("DMMA", "DMMA")}


def tiles_for(target: CudaTarget, arithmetic: Any) -> list[Tile]:
    """Those for the tensor cores of an architecture: tall ones are what sm_90 has instructions of its own for."""
    problem = Problem(1, 1024, 1024, 1024, arithmetic, SIZES[arithmetic], 0, 0, 0)
    fitting = set(candidates(problem, target))
    first = next(tile for tile in TILES[arithmetic] if tile in fitting)
    return [
        tile
        for tile in TILES[arithmetic]
        if tile in fitting and (tile is first or (tile.rows >= 64) is (target is SM_90))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("target", [SM_80, SM_90], ids=str)
@pytest.mark.parametrize("arithmetic", sorted(TILES))
def test_every_tile_compiles_to_what_it_is_for(target: CudaTarget, arithmetic: Any) -> None:
    graph, constants, options = big(arithmetic)

    def check(tile: Tile) -> None:
        (found,) = compiled(lower(*constants, **options, matmul_tile=tile.values())(graph, target), target)
        assert count(found, *ASYNCHRONOUS), tile
        if arithmetic == "single":
            assert count(found, "FFMA"), tile
        else:
            before, since = UNITS[arithmetic]
            assert count(found, since if target is SM_90 and tile.rows >= 64 else before), tile

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(check, tiles_for(target, arithmetic)))
