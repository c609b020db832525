from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import PackageError
from graphc.package import (
    BatchAxes,
    Body,
    BranchStep,
    Carried,
    Code,
    CopyStep,
    HostTensor,
    KernelStep,
    Lane,
    Location,
    LoopStep,
    Manifest,
    RaiseStep,
    SymbolRange,
    TensorSpec,
    Variant,
)
from tests.package.strategies import manifests

ODD_VALUES: list[Any] = [None, True, -1, 1 << 63, 1 << 70, 0.5, "", "x", "arena", [], [1], {}, {"type": "kernel"}]


def small(**changes: Any) -> Manifest:
    """One float32[n, 4] in and out, a kernel from the input through the arena."""
    steps = (KernelStep("k0", (Location("input"), Location("arena", 0, 64), Location("output")), (8,)),)
    fields: dict[str, Any] = {
        "model": "m",
        "inputs": (TensorSpec("x", "float32", ("n", 4)),),
        "outputs": (TensorSpec("y", "float32", ("n", 4)),),
        "variants": (Variant("v3", {"n": 2}, ((2, 4),), ((2, 4),), 128, steps),),
        "code": {"v3": Code("cpu/v3/model.so", "x86_64", ("avx2",))},
        "symbols": {"n": SymbolRange(1, 8)},
    }
    return Manifest(**{**fields, **changes})


@given(manifests())
def test_round_trip(manifest: Manifest) -> None:
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert Manifest.from_json(text).to_json() == text


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, child in children for inner in paths_of(child, (*path, key)))]


@given(manifests(), st.data())
def test_damaged_json_is_a_typed_error_or_another_valid_manifest(manifest: Manifest, draw: st.DataObject) -> None:
    value = json.loads(manifest.to_json())
    for _ in range(draw.draw(st.integers(1, 3))):
        *parents, key = draw.draw(st.sampled_from(paths_of(value)[1:]))
        target = value
        for parent in parents:
            target = target[parent]
        match draw.draw(st.sampled_from(["replace", "remove", "add", "swap"])):
            case "replace":
                target[key] = copy.deepcopy(draw.draw(st.sampled_from(ODD_VALUES)))
            case "remove":
                del target[key]
            case "swap":
                target[key] = copy.deepcopy(value[draw.draw(st.sampled_from(sorted(value)))]) if value else None
            case "add" if isinstance(target, dict):
                target["surprise"] = 1
            case _:
                target.append(None) if isinstance(target, list) else None
    try:
        read = Manifest.from_json(json.dumps(value))
    except PackageError:
        return
    assert Manifest.from_json(read.to_json()) == read


@given(st.binary(max_size=50))
def test_any_bytes_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(PackageError):
        Manifest.from_json(data)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format_version": 1}', "null", "[]", '{"format_version": true}'])
def test_json_that_is_no_manifest(text: str) -> None:
    with pytest.raises(PackageError):
        Manifest.from_json(text)


def test_another_format_version_says_so() -> None:
    text = small().to_json().replace('"format_version":1', '"format_version":999')
    with pytest.raises(PackageError, match=r"format version 999; this graphc reads version 1"):
        Manifest.from_json(text)


def test_an_error_names_its_place() -> None:
    value = json.loads(small().to_json())
    value["variants"][0]["steps"][0]["arguments"][1]["offset"] = "64"
    with pytest.raises(
        PackageError, match=r"manifest\.variants\[0\]\.steps\[0\]\.arguments\[1\]\.offset: expected an int"
    ):
        Manifest.from_json(json.dumps(value))


def variant_with(*steps: Any, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "isa": "v3",
        "bindings": {"n": 2},
        "inputs": ((2, 4),),
        "outputs": ((2, 4),),
        "arena_size": 128,
        "steps": steps,
    }
    return {"variants": (Variant(**{**fields, **changes}),)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda: variant_with(KernelStep("k", (Location("arena", 0, 129),))), "outside arena 0 of 128"),
        (lambda: variant_with(KernelStep("k", (Location("weight", 0, 1),))), "outside weight 0 of 0"),
        (lambda: variant_with(KernelStep("k", (Location("input", 1),))), "input 1 does not exist"),
        (lambda: variant_with(KernelStep("k", (Location("object"),))), "object 0 does not exist"),
        (lambda: variant_with(KernelStep("k", (Location("nowhere"),))), "unknown location kind"),
        (lambda: variant_with(KernelStep("k", (Location("input"),) * 41)), "at most 40"),
        (lambda: variant_with(KernelStep("k;", ())), "not a C identifier"),
        (lambda: variant_with(isa="v4"), "no code for instruction set 'v4'"),
        (lambda: {"code": {"v3": Code("cuda/v3/kernels.json", "cuda")}}, "code of a GPU for 'v3'; expected an arch"),
        (lambda: variant_with(bindings={}), "it binds"),
        (lambda: variant_with(inputs=()), "0 input shapes for 1"),
        (lambda: variant_with(outputs=((8,),)), "has not the rank"),
        (lambda: variant_with(inputs=((2, -4),)), "negative extent"),
        (lambda: variant_with(arena_size=-1), "arena size is -1"),
        (lambda: {"host_steps": True}, "contradict"),
        (lambda: {"symbols": {}}, "undeclared symbol 'n'"),
        (lambda: {"symbols": {"n": SymbolRange(5, 4)}}, "is empty"),
        (lambda: {"inputs": (TensorSpec("x", "float33", ()),)}, "unknown dtype 'float33'"),
        (lambda: {"inputs": (TensorSpec("x", "finfo", ()),)}, "unknown dtype 'finfo'"),
        (lambda: {"inputs": (TensorSpec("x", "int8", (1 << 31, 1 << 32)),)}, "cannot be addressed"),
        (lambda: {"inputs": (TensorSpec("x", "float32", ("n", 4)),) * 2}, "two inputs have one name"),
        (lambda: {"inputs": (HostTensor(Location("arena"), "int8"),)}, "needs a shape"),
    ],
)
def test_inconsistent_manifests_cannot_be_made(changes: Any, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        small(**changes())


def batched(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "model": "m",
        "inputs": (TensorSpec("x", "float32", ("n", 3)),),
        "outputs": (TensorSpec("y", "float32", (4, "n")),),
        "variants": (),
        "code": {},
        "symbols": {"n": SymbolRange()},
        "batch": BatchAxes("n", (0,), (1,)),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_proof_that_rows_are_independent_is_kept() -> None:
    manifest = batched()
    assert Manifest.from_json(manifest.to_json()).batch == BatchAxes("n", (0,), (1,))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (BatchAxes("n", (), (1,)), "0 batch axes for 1 inputs"),
        (BatchAxes("n", (0,), (2,)), "output 'y' has no axis 2"),
        (BatchAxes("n", (-1,), (1,)), "input 'x' has no axis -1"),
        (BatchAxes("n", (1,), (1,)), "axis 1 of input 'x' is 3, not n"),
    ],
)
def test_a_proof_about_axes_that_do_not_exist_is_refused(batch: BatchAxes, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        batched(batch=batch)


def looped(**changes: Any) -> Variant:
    """A loop over 3 rows of the input, whose body adds to a carried row and collects it."""
    row, state = 16, Carried(Location("arena"), Location("arena", 0, 16), Location("arena", 0, 32), 0, 1, 16)
    loop = LoopStep(
        0, 3, carried=(state,), lanes=(Lane(Location("input"), 2, 0, row), Lane(Location("output"), 3, 32, -row))
    )
    body = Body(
        (
            KernelStep("add", (Location("slot", 0), Location("slot", 2), Location("slot", 1))),
            CopyStep(Location("slot", 1), Location("slot", 3), row),
        )
    )
    fields: dict[str, Any] = {"steps": (loop,), "bodies": (body,), "slots": (row,) * 4}
    return Variant("v3", {"n": 3}, ((3, 4),), ((3, 4),), 48, **{**fields, **changes})


def test_control_steps_survive_the_round_trip() -> None:
    branch = BranchStep(Location("weight"), 0, 1, (HostTensor(Location("output"), "float32", (3, 4)),))
    raises = Body((RaiseStep("it does not fit"),))
    for variant in (looped(), looped(steps=(branch,), bodies=(raises, raises), slots=())):
        manifest = small(variants=(variant,), weights_size=1)
        assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bodies": ()}, "body 0 does not exist"),
        ({"bodies": (Body((BranchStep(Location("arena"), 0, 0),)),)}, r"bodies\[0\].steps\[0\]: body 0"),
        ({"slots": (16, 16, 16)}, "slot 3 does not exist"),
        ({"slots": (16, 8, 16, 16)}, "outside slot 1"),
        ({"slots": (16, 16, 32, 16)}, "outside input 0"),
        ({"bodies": (Body((CopyStep(Location("arena"), Location("slot", 0), 17),)),)}, "outside slot 0"),
        ({"steps": (LoopStep(0, None, limit=Location("arena", 0, 44)),)}, "outside arena 0"),
        ({"steps": (LoopStep(0, 3, lanes=(Lane(Location("input"), 0, 0, -16),)),)}, "32 bytes before the beginning"),
        ({"steps": (BranchStep(Location("arena", 0, 48), 0, 0),)}, "outside arena 0"),
    ],
)
def test_control_steps_that_reach_too_far_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PackageError, match=words):
        small(variants=(looped(**changes),))


def test_a_loop_along_arrays_knows_its_trips() -> None:
    with pytest.raises(PackageError, match="number of iterations"):
        LoopStep(0, None, lanes=(Lane(Location("input"), 0, 0, 4),))
