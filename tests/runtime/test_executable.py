"""Calls: what goes in, what comes out, and what is said when it does not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import ExecutionError, InputError, OptionError, PackageError, ShapeNotCompiledError
from graphc.package import Copy, HostTensor, KernelStep, Location, Package, SymbolRange, TensorSpec, Variant
from graphc.runtime import load, set_compile_hook
from graphc.runtime.hook import compile_hook
from tests.runtime.conftest import Build

W = np.arange(256, dtype=np.float32).reshape(4, 64)
X = np.random.default_rng(0).random((4, 64), np.float32)
Y = 2 * X + W + 1


class OnlyDlpack:
    """An array of another library: nothing but the protocol."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def misaligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    raw = np.empty(array.nbytes + 1, np.uint8)[1:]
    result = raw.view(array.dtype).reshape(array.shape)
    result[...] = array
    assert not result.flags.aligned
    return result


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": X},
        [X],
        (X,),
        {"x": np.asfortranarray(X)},
        {"x": np.repeat(X, 2, axis=1)[:, ::2]},
        {"x": X[::-1][::-1]},
        {"x": X.astype(">f4")},
        {"x": misaligned(X)},
        {"x": OnlyDlpack(X)},
        {"x": X.view(np.matrix)},
    ],
    ids=["dict", "list", "tuple", "fortran", "strided", "reversed", "byteswapped", "misaligned", "dlpack", "subclass"],
)
@pytest.mark.parametrize("again", [1, 3])
def test_inputs_of_every_kind(affine: Path, inputs: Any, again: int) -> None:
    with load(affine) as model:
        for _ in range(again):
            outputs = model(inputs)
            assert list(outputs) == ["y"]
            np.testing.assert_array_equal(outputs["y"], Y)


def test_read_only_inputs_and_any_alignment(affine: Path) -> None:
    model = load(affine)
    for shift in range(16):
        x = np.empty(256 + 16, np.float32)[shift : shift + 256].reshape(4, 64)
        x[...] = X
        x.flags.writeable = False
        np.testing.assert_array_equal(model([x])["y"], Y)


def test_each_call_has_outputs_of_its_own(affine: Path) -> None:
    model = load(affine)
    first = model([X])["y"]
    second = model([X + 1])["y"]
    np.testing.assert_array_equal(first, Y)
    assert not np.shares_memory(first, second)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'x' is missing; expected x: float32\[4, 64\]"),
        ({"X": X}, r"unknown input 'X'"),
        ({"x": X, "z": X}, r"unknown input 'z'"),
        ([X, X], r"expected 1 input \(x: float32\[4, 64\]\); got 2"),
        (X, r"a dict by name or a list by position, got ndarray"),
        ("x", r"got str"),
        (None, r"got NoneType"),
        ({"x": X.astype(np.float64)}, r"input 'x': expected dtype float32, got float64"),
        ({"x": X[0]}, r"input 'x': expected rank 2 .* got shape \[64\]"),
        ({"x": X[:3]}, r"input 'x': expected x: float32\[4, 64\], got shape \[3, 64\]: dimension 0 is 3, expected 4"),
        ({"x": X.tolist()}, r"input 'x': expected a NumPy array or a DLPack object, got list"),
        ({"x": None}, r"got NoneType"),
        ({"x": np.array([["a"] * 64] * 4)}, r"expected dtype float32, got <U1"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_inputs_that_do_not_fit(affine: Path, inputs: Any, message: str, warm: bool) -> None:
    model = load(affine)
    if warm:
        model([X])
    with pytest.raises(InputError, match=message):
        model(inputs)
    np.testing.assert_array_equal(model([X])["y"], Y)


def test_a_close_name_is_suggested(affine: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'x'"):
        load(affine)({"xx": X})


def test_out_is_written(affine: Path) -> None:
    out = np.zeros((4, 64), np.float32)
    assert load(affine)([X], out={"y": out})["y"] is out
    np.testing.assert_array_equal(out, Y)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ({"z": np.zeros((4, 64), np.float32)}, "out has 'z'; the outputs are 'y'"),
        ({"y": np.zeros((4, 63), np.float32)}, r"expected an array float32\[4, 64\], got float32\[4, 63\]"),
        ({"y": np.zeros((4, 64))}, r"got float64\[4, 64\]"),
        ({"y": [1]}, "got list"),
        ({"y": np.zeros((64, 4), np.float32).T}, "C-contiguous, aligned, writable"),
        ({"y": X}, "shares memory with an input"),
    ],
)
def test_out_that_does_not_fit(affine: Path, out: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(affine)([X], out=out)


def test_a_failing_kernel_names_its_nodes_and_the_model_goes_on(build: Build) -> None:
    spec = TensorSpec("x", "int64", (1,))
    steps = [KernelStep("fail", (), (0,)), KernelStep("fail", (), (3,), "gather", ("Gather_1", "Add_2"))]
    model = load(build([spec], [], steps))
    for _ in range(3):
        with pytest.raises(
            ExecutionError, match=r"step 1 \(gather\) failed with status 3 \[node 'Gather_1', 'Add_2'\]"
        ):
            model([np.zeros(1, np.int64)])


def test_outputs_that_no_step_writes_are_copied(build: Build) -> None:
    spec, same = TensorSpec("x", "float32", (3,)), TensorSpec("same", "float32", (3,))
    copies = (Copy(0, HostTensor(Location("input"), "float32", (3,))),)
    model = load(build([spec], [same], variant={"copies": copies}))
    x = np.arange(3, dtype=np.float32)
    y = model([x])["same"]
    np.testing.assert_array_equal(x, y)
    assert not np.shares_memory(x, y)


def test_empty_and_scalar_tensors(build: Build) -> None:
    specs = [TensorSpec("a", "float32", ()), TensorSpec("b", "float32", (0, 5))]
    outputs = [TensorSpec("c", "float32", ()), TensorSpec("d", "float32", (0, 5))]
    steps = [
        KernelStep("scale", (Location("input", 0), Location("output", 0)), (1,)),
        KernelStep("scale", (Location("input", 1), Location("output", 1)), (0,)),
    ]
    result = load(build(specs, outputs, steps))({"b": np.zeros((0, 5), np.float32), "a": np.float32(21)})
    assert result["c"] == 42
    assert result["c"].shape == ()
    assert result["d"].shape == (0, 5)


def symbolic(build: Build, *batches: int, name: str = "symbolic") -> Path:
    """y = 2 x for two inputs that share `batch`."""
    specs = [TensorSpec("x", "float32", ("batch", 3)), TensorSpec("z", "float32", ("2*batch",))]
    variants = [
        Variant(
            "test",
            {"batch": batch},
            ((batch, 3), (2 * batch,)),
            ((batch, 3),),
            0,
            (KernelStep("scale", (Location("input"), Location("output")), (3 * batch,)),),
        )
        for batch in batches
    ]
    outputs = [TensorSpec("y", "float32", ("batch", 3))]
    return build(specs, outputs, variants=variants, symbols={"batch": SymbolRange(1, 16)}, name=name)


def batch_of(n: int, m: int | None = None) -> dict[str, Any]:
    return {"x": np.ones((n, 3), np.float32), "z": np.ones(2 * n if m is None else m, np.float32)}


def test_the_variant_follows_the_shapes(build: Build) -> None:
    model = load(symbolic(build, 1, 4, 8))
    for n in [1, 8, 4, 4, 1]:
        np.testing.assert_array_equal(model(batch_of(n))["y"], np.full((n, 3), 2))


def test_symbols_must_agree_and_keep_their_range(build: Build) -> None:
    model = load(symbolic(build, 1))
    with pytest.raises(InputError, match=r"input 'z': .* dimension 0 is 7, expected 6"):
        model(batch_of(3, 7))
    with pytest.raises(InputError, match=r"batch is 17 \(dimension 0 of 'x'\); the model was compiled for 1..16"):
        model(batch_of(17))


def test_two_inputs_that_disagree(build: Build) -> None:
    specs = [TensorSpec(name, "int8", ("n",)) for name in "ab"]
    variant = Variant("test", {"n": 2}, ((2,), (2,)), (), 0, ())
    model = load(build(specs, [], variants=[variant], symbols={"n": SymbolRange()}))
    with pytest.raises(InputError, match="n is 3 in dimension 0 of 'a', but 4 in dimension 0 of 'b'"):
        model([np.zeros(3, np.int8), np.zeros(4, np.int8)])


def test_an_unseen_shape_says_what_there_is_and_what_to_type(build: Build) -> None:
    with pytest.raises(ShapeNotCompiledError, match=r"(?s)no variant for batch=5; .* batch=1; batch=4.*--dim batch=5"):
        load(symbolic(build, 1, 4))(batch_of(5))


@pytest.fixture
def hook() -> Iterator[None]:
    before = compile_hook()
    yield
    set_compile_hook(before)


def test_an_unseen_shape_is_compiled_once_where_there_is_a_compiler(build: Build, hook: None) -> None:
    asked = []

    def compile_variant(package: Package, bindings: Mapping[str, int], values: Mapping[str, Any]) -> Path:
        assert not values
        asked.append((package.manifest.model, dict(bindings)))
        return symbolic(build, bindings["batch"], name=f"batch{bindings['batch']}")

    model = load(symbolic(build, 1))
    set_compile_hook(compile_variant)
    for n in [5, 1, 7, 5, 7]:
        np.testing.assert_array_equal(model(batch_of(n))["y"], np.full((n, 3), 2))
    assert asked == [("symbolic", {"batch": 5}), ("symbolic", {"batch": 7})]
    assert [variant.bindings["batch"] for variant in model.variants] == [1, 5, 7]


def test_memory_trim_and_close(affine: Path) -> None:
    model = load(affine)
    assert model.memory == 0
    model([X])
    model([X])
    assert model.memory == 4096
    model.trim()
    assert model.memory == 0
    np.testing.assert_array_equal(model([X])["y"], Y)
    model.close()
    with pytest.raises(ExecutionError, match="closed"):
        model([X])


def test_walking_shows_what_each_step_left(affine: Path) -> None:
    places = [Location("arena", 0, 64), Location("arena", 0, 2048), Location("output")]
    expected = [2 * X, 2 * X + W, Y]
    model = load(affine)
    indices = []
    for index, read in model.walk([X]):
        left = read(HostTensor(places[index], "float32", (4, 64)))
        np.testing.assert_array_equal(left, expected[index])
        indices.append(index)
    assert indices == [0, 1, 2]
    assert len(model.variant_for([X]).steps) == 3


def test_options(affine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(affine, threads=3).threads == 3
    monkeypatch.setenv("GRAPHC_NUM_THREADS", "5")
    assert load(affine).threads == 5
    for bad in [0, -1, "2", 1.0, True]:
        with pytest.raises(OptionError, match="expected a positive integer"):
            load(affine, threads=bad)  # type: ignore[arg-type]
    monkeypatch.setenv("GRAPHC_NUM_THREADS", "many")
    with pytest.raises(OptionError, match="GRAPHC_NUM_THREADS is 'many'"):
        load(affine)
    with pytest.raises(OptionError, match="no code for 'v9'; it has test"):
        load(affine, isa="v9", threads=1)
    assert repr(load(affine, threads=1)) == (
        "<graphc.Executable model: (x: float32[4, 64]) -> (y: float32[4, 64]), cpu test>"
    )


def test_code_that_this_machine_cannot_run(build: Build) -> None:
    with pytest.raises(PackageError, match="test needs avx1024"):
        load(build([], [], requires=("avx1024",)))


@pytest.mark.parametrize("code", [b"", b"not a library", b"\x7fELF" + bytes(1000)])
def test_code_that_is_no_library(build: Build, code: bytes) -> None:
    path = build([], [], code=code or b" ")
    with pytest.raises(PackageError, match="cannot be loaded"):
        load(path)


def test_a_kernel_that_is_missing(build: Build) -> None:
    model = load(build([], [], [KernelStep("nowhere", ())]))
    with pytest.raises(PackageError, match="no kernel 'nowhere'"):
        model([])


def test_running_loads_no_compiler(affine: Path) -> None:
    script = f"""
import sys, numpy as np
from graphc.runtime import load
load({str(affine)!r})([np.zeros((4, 64), np.float32)])
heavy = {{"tvm", "onnx", "networkx", "onnxruntime", "hypothesis", "graphc.ir", "graphc.ops"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
