"""Variants for values of inputs: which one a call runs, when one is asked for, what a manifest may say of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.errors import InputError, PackageError, ShapeNotCompiledError
from graphc.package import Code, KernelStep, Location, Manifest, Package, TensorSpec, Variant, format_value
from graphc.runtime import load, machine, set_compile_hook
from graphc.runtime.hook import compile_hook
from graphc.runtime.parameters import Parameters
from tests.runtime.conftest import Build

X = np.arange(4, dtype=np.float32)
SPECS = [TensorSpec("x", "float32", (4,)), TensorSpec("k", "int64", (1,))]
RESULTS = {"scale": 2 * X, "add_one": X + 1}


def k(value: int) -> np.ndarray[Any, Any]:
    return np.array([value])


def variant(kernel: str, value: int | None = None, host: int = 0) -> Variant:
    """One kernel from x to y, for one value of k or for any."""
    steps = (KernelStep(kernel, (Location("input"), Location("output")), (4,)),)
    values = {} if value is None else {"k": k(value).tobytes()}
    return Variant("test", {}, ((4,), (1,)), ((4,),), 0, steps, values=values)


def package(build: Build, *variants: Variant, **fields: Any) -> Path:
    fields = {"parameters": ("k",), **fields}
    return build(SPECS, [TensorSpec("y", "float32", (4,))], variants=variants, **fields)


def test_the_variant_follows_the_value_and_any_other_takes_the_general_one(build: Build) -> None:
    model = load(package(build, variant("scale"), variant("add_one", 3)))
    for value in (3, 3, 3, 5, 5, 3, 7, 3, 3):
        expected = RESULTS["add_one" if value == 3 else "scale"]
        for _ in range(3):
            np.testing.assert_array_equal(model([X, k(value)])["y"], expected)


def test_a_value_changed_in_place_is_seen_by_every_way_of_calling(build: Build) -> None:
    model, value = load(package(build, variant("scale"), variant("add_one", 3))), k(3)
    out = {"y": np.empty(4, np.float32)}
    for number in (3, 3, 3, 4, 3, 2**40, 3 + 2**32, 3, 3):
        value[0] = number
        expected = RESULTS["add_one" if number == 3 else "scale"]
        for inputs in ({"x": X, "k": value}, [X, value], (X, value)):
            np.testing.assert_array_equal(model(inputs)["y"], expected)
            np.testing.assert_array_equal(model(inputs, out)["y"], expected)
    assert model._shortcut is not None, "the short way was tried"


def test_calls_of_one_value_take_the_short_way(build: Build) -> None:
    model = load(package(build, variant("add_one", 3), variant("scale", 4)))
    for value, kernel in ((3, "add_one"), (4, "scale")):
        for _ in range(3):
            model([X, k(value)])
        short = model._shortcut
        assert short is not None
        made = short([X, k(value)])
        assert made is not None
        np.testing.assert_array_equal(made["y"], RESULTS[kernel])
        assert short([X, k(9)]) is None


def test_values_for_which_there_is_nothing(build: Build) -> None:
    model = load(package(build, variant("add_one", 3), variant("scale", 4)))
    with pytest.raises(
        ShapeNotCompiledError, match=r"no variant for k=\[5\]; the package has: k=\[3\]; k=\[4\]"
    ) as raised:
        model([X, k(5)])
    assert "--value 'k=[5]'" in str(raised.value)
    with pytest.raises(InputError, match="expected dtype int64"):
        model([X, np.array([3.0])])


@pytest.fixture
def asked() -> Iterator[list[int]]:
    """What variants were asked for, each of which is made of `add_one`."""
    before = compile_hook()
    values: list[int] = []
    yield values
    set_compile_hook(before)


def compiling(build: Build, values: list[int], limit: int, kernel: str = "add_one") -> Any:
    def hook(source: Package, bindings: Mapping[str, int], given: Mapping[str, Any]) -> Path:
        values.append(int(given["k"][0]))
        return package(build, variant(kernel, values[-1]), name=f"special{values[-1]}")

    set_compile_hook(hook)
    return load(
        build(
            SPECS,
            [TensorSpec("y", "float32", (4,))],
            variants=[variant("scale")],
            parameters=("k",),
            specializations=limit,
        )
    )


def test_nothing_is_asked_for_where_the_package_carries_no_model(build: Build, asked: list[int]) -> None:
    model = compiling(build, asked, 8)
    np.testing.assert_array_equal(model([X, k(1)])["y"], RESULTS["scale"])
    assert asked == []


def test_values_that_come_once_are_not_worth_more_than_a_few(build: Build, asked: list[int]) -> None:
    model = compiling(build, asked, 8)
    model._programs._parameters = Parameters(model.manifest, can_compile=True)
    for value in range(30):
        kernel = "add_one" if value < 4 else "scale"
        np.testing.assert_array_equal(model([X, k(value)])["y"], RESULTS[kernel])
    assert asked == [0, 1, 2, 3]
    for value in range(30):
        np.testing.assert_array_equal(model([X, k(value)])["y"], RESULTS["add_one" if value < 8 else "scale"])
    assert asked == list(range(8))


def test_a_value_that_repeats_is_asked_for_though_the_calls_between_are_short(build: Build, asked: list[int]) -> None:
    model = compiling(build, asked, 16)
    model._programs._parameters = Parameters(model.manifest, can_compile=True)
    for value in (0, 1, 2, 3, 4, 4, 4):
        model([X, k(value)])
    assert asked == [0, 1, 2, 3, 4]


def manifest(*variants: Variant, **fields: Any) -> Manifest:
    code = {"test": Code("cpu/test/model.so", machine())}
    outputs = (TensorSpec("y", "float32", (4,)),)
    return Manifest("m", tuple(SPECS), outputs, variants, code, **{"parameters": ("k",), **fields})


def test_a_manifest_of_parameters_reads_back() -> None:
    written = manifest(variant("scale"), variant("add_one", -3), specializations=5)
    assert Manifest.from_json(written.to_json()) == written


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"parameters": ("z",)}, "parameter 'z' is no input"),
        ({"parameters": ()}, "a value of 'k', which is no parameter"),
        ({"specializations": -1}, "number of specializations"),
    ],
)
def test_a_manifest_that_contradicts_itself(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(PackageError, match=why):
        manifest(variant("scale", 3), **fields)


def test_an_output_whose_rank_a_value_decides(build: Build) -> None:
    output = TensorSpec("y", "float32", (), ranked=False)
    assert str(output) == "y: float32[...]"
    path = build(SPECS, [output], variants=[variant("add_one", 3)], parameters=("k",))
    np.testing.assert_array_equal(load(path)([X, k(3)])["y"], X + 1)
    with pytest.raises(PackageError, match="'y' has a shape, but no rank"):
        TensorSpec("y", "float32", (4,), ranked=False)
    with pytest.raises(PackageError, match="input 'x' has no rank"):
        Manifest("m", (TensorSpec("x", "float32", (), ranked=False),), (), (), {})


def test_a_value_of_the_wrong_size() -> None:
    wrong = dataclasses.replace(variant("scale"), values={"k": b"\0" * 4})
    with pytest.raises(PackageError, match="4 bytes are no value of k: int64"):
        manifest(wrong)


def test_values_seen_are_forgotten_before_they_are_many() -> None:
    account = Parameters(manifest(specializations=1 << 20), can_compile=True)
    account._made.update((k(-value).tobytes(),) for value in range(1, 5))
    for value in range(5000):
        assert not account.admits((), (k(value).tobytes(),))
        assert len(account._seen) <= 1024
    assert account.admits((), (k(4999).tobytes(),))
    assert account.admits(((1,),), (k(-1).tobytes(),)), "in a shape that is new"


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array(3), "3"),
        (np.array(True), "true"),
        (np.array([1, -1]), "[1, -1]"),
        (np.array([0.5, 2], np.float16), "[0.5, 2.0]"),
        (np.zeros((0,), np.int64), "[]"),
    ],
)
def test_values_as_they_are_typed(array: np.ndarray[Any, Any], text: str) -> None:
    assert format_value(array) == text
