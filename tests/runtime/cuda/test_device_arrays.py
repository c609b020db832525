"""Arrays in a GPU's memory, in and out: without a copy through the host, in order with who writes them, and freed."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphc.errors import InputError, OptionError
from graphc.package import KernelStep, Location, TensorSpec
from graphc.runtime import load
from graphc.runtime.cuda import DeviceArray
from tests.runtime.cuda.conftest import Build, Fake, affine_of, write_cuda_package, x_of


@pytest.mark.parametrize("own_stream", [True, False])
def test_what_another_stream_writes_is_waited_for(affine: Path, fake: Fake, own_stream: bool) -> None:
    with load(affine) as model:
        for number in range(4):
            x = fake.array(x_of(number), own_stream=own_stream)
            np.testing.assert_array_equal(model({"x": x})["y"], affine_of(x_of(number)))
        assert fake.calls("cuMemcpyHtoDAsync") == 0, "no copy through the host"


def test_dlpack(affine: Path, fake: Fake) -> None:
    with load(affine) as model:
        for number in range(3):
            x = fake.array(x_of(number), own_stream=False, dlpack=True)
            np.testing.assert_array_equal(model([x])["y"], affine_of(x_of(number)))
        used = fake.used()
        del x
        assert fake.used() < used, "what another library lent is given back"


def test_arrays_that_come_again_are_read_where_they_lie(affine: Path, fake: Fake) -> None:
    with load(affine) as model:
        x = fake.array(x_of())
        for number in range(6):
            np.testing.assert_array_equal(model([x])["y"], affine_of(x_of()))
            if number == 1:
                copies, captures = fake.calls("cuMemcpyDtoDAsync"), fake.calls("cuStreamBeginCapture")
        assert fake.calls("cuMemcpyDtoDAsync") == copies == 1
        assert fake.calls("cuStreamBeginCapture") == captures == 1


def test_graphs_of_many_sets_of_arrays_are_not_kept_for_ever(affine: Path, fake: Fake) -> None:
    with load(affine) as model:
        arrays = [fake.array(x_of(number)) for number in range(80)]
        for _ in range(2):
            for number, x in enumerate(arrays):
                np.testing.assert_array_equal(model([x])["y"], affine_of(x_of(number)))
        for x in arrays[-60:] * 2:
            model([x])
        assert fake.live["exec"] <= 48


def test_outputs_stay_in_the_gpus_memory(affine: Path, fake: Fake) -> None:
    with load(affine) as model:
        results = []
        for number in range(3):
            y = model([x_of(number)], device_outputs=True)["y"]
            assert isinstance(y, DeviceArray) and y.device == "cuda:0"
            assert (y.shape, y.dtype, y.ndim, y.nbytes, len(y)) == ((4, 64), np.float32, 2, 1024, 4)
            results.append(y)
        assert fake.calls("cuMemcpyDtoHAsync") == 0
        for number, y in enumerate(results):
            np.testing.assert_array_equal(y.numpy(), affine_of(x_of(number)))
            np.testing.assert_array_equal(np.asarray(y), affine_of(x_of(number)))
        # And are inputs of other calls, with the names of those that stay.
        again = model([results[0]], device_outputs=["y"])["y"]
        np.testing.assert_allclose(again.numpy(), affine_of(affine_of(x_of(0))))
        used = fake.used()
        del results, y, again
        assert fake.used() == used - 4 * 1024
        assert model([x_of()], device_outputs=[])["y"].shape == (4, 64)


def test_given_arrays_of_the_gpu_are_written(affine: Path, fake: Fake) -> None:
    with load(affine) as model:
        x, y = fake.array(x_of(1)), fake.array(np.zeros((4, 64), np.float32))
        for _ in range(4):
            assert model([x], out={"y": y})["y"] is y
            np.testing.assert_array_equal(y.numpy(), affine_of(x_of(1)))
        with pytest.raises(InputError, match="out 'y' shares memory with an input"):
            model([x], out={"y": x})
        with pytest.raises(InputError, match=r"out 'y': expected an array float32\[4, 64\], got float32\[2, 2\]"):
            model([x], out={"y": fake.array(np.zeros((2, 2), np.float32))})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8", "bool", "complex64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3, 4)])
def test_an_exported_array_is_what_it_was(fake: Fake, dtype: str, shape: tuple[int, ...]) -> None:
    from graphc.package import numpy_dtype
    from graphc.runtime.cuda.array import adopt, new_array
    from graphc.runtime.cuda.device import open_device

    device = open_device(0)
    array = new_array(device, shape, numpy_dtype(dtype), "y")

    class Other:
        """A library that knows DLPack alone."""

        __dlpack_device__ = staticmethod(array.__dlpack_device__)
        __dlpack__ = staticmethod(array.__dlpack__)

    found = adopt(device, Other(), "input 'x'")
    assert found is not None
    assert (found.address, found.shape, found.dtype) == (array.address, shape, numpy_dtype(dtype))
    array.__dlpack__()  # a capsule that nobody takes
    used = fake.used()
    del array, Other
    assert fake.used() == used, "the importer holds it"
    del found
    gc.collect()
    assert fake.used() == 0


def test_an_array_is_written_when_it_is_exported(fake: Fake) -> None:
    """A state that another library's stream still writes is handed on before any call."""
    from graphc.runtime.cuda.array import adopt
    from graphc.runtime.cuda.device import open_device
    from graphc.runtime.cuda.memory import download

    found = adopt(open_device(0), foreign := fake.array(x_of()), "input 'x'")
    assert found is not None
    found.__dlpack__()
    written = download(open_device(0), foreign.address, foreign.shape, foreign.dtype)
    np.testing.assert_array_equal(written, x_of())


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float8_e4m3fn", "int4"])
def test_what_dlpack_has_no_dtype_for_is_not_exported(fake: Fake, dtype: str) -> None:
    from graphc.package import numpy_dtype
    from graphc.runtime.cuda.array import new_array
    from graphc.runtime.cuda.device import open_device

    with pytest.raises(BufferError, match=f"DLPack has no dtype {dtype}"):
        new_array(open_device(0), (4,), numpy_dtype(dtype), "y").__dlpack__()


def test_what_does_not_fit_says_so(affine: Path, fake: Fake) -> None:
    fake.reset([80, 80])
    with load(affine) as model:
        with pytest.raises(InputError, match="input 'x' lies in the memory of cuda:1; the model runs on cuda:0"):
            model([fake.array(x_of(), device=1)])
        with pytest.raises(InputError, match="expected dtype float32, got float64"):
            model([fake.array(x_of().astype(np.float64))])
        with pytest.raises(InputError, match=r"in another order than this machine's \(>f4\)"):
            model([fake.array(x_of().astype(">f4"))])
        with pytest.raises(InputError, match="expected rank 2"):
            model([fake.array(x_of().reshape(-1))])
        turned = fake.array(x_of())
        turned.strides = (4, 16)
        with pytest.raises(InputError, match="do not lie row by row"):
            model([turned])
        turned.strides = (256, 4)
        np.testing.assert_array_equal(model([turned])["y"], affine_of(x_of()))
        with pytest.raises(OptionError, match="device_outputs has 'z'; the outputs are 'y'"):
            model([x_of()], device_outputs=["z"])
        array = model([x_of()], device_outputs=True)["y"]
        with pytest.raises(BufferError, match="not as a copy"):
            array.__dlpack__(copy=True)
        with pytest.raises(ValueError, match="by a copy alone"):
            np.array(array, copy=False)


def test_a_cpus_model_takes_none(fake: Fake) -> None:
    from graphc.runtime.values import collect

    for dlpack in (False, True):
        with pytest.raises(InputError, match="input 'x' lies in the memory of a GPU"):
            collect(TensorSpec("x", "float32", (4, 64)), fake.array(x_of(), dlpack=dlpack))


def test_parameters_may_lie_there_too(build: Build, fake: Fake) -> None:
    """Their values decide which variant runs, so they are looked at."""
    specs = [TensorSpec("x", "float32", (4,)), TensorSpec("n", "int64", ())]
    step = KernelStep("scale", (Location("input"), Location("output")), (4,))
    path = build(specs, [TensorSpec("y", "float32", (4,))], [step], parameters=("n",))
    with load(path) as model:
        x: Any = np.arange(4, dtype=np.float32)
        for _ in range(3):
            np.testing.assert_array_equal(model([fake.array(x), fake.array(np.int64(7))])["y"], 2 * x)


HOW = st.sampled_from(["host", "new", "kept"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(HOW, HOW, HOW, st.sampled_from(["host", "left", "kept"])), min_size=1, max_size=12))
def test_any_mix_of_arrays(calls: list[tuple[str, str, str, str]], tmp_path_factory: Any, fake: Fake) -> None:
    """y = 2 (a + b), z = a + b: each from the host, from new arrays of the GPU, or from arrays that come again."""
    path = _mixture(tmp_path_factory)
    kept = {name: fake.array(np.full(8, value, np.float32)) for value, name in enumerate("abyz", 1)}
    with load(path) as model:
        for number, (a, b, y, z) in enumerate(calls):
            feed: dict[str, Any] = {}
            values = {"a": np.full(8, 10 * number, np.float32), "b": np.full(8, number, np.float32)}
            for name, how in (("a", a), ("b", b)):
                feed[name] = {"host": values[name], "new": fake.array(values[name]), "kept": kept[name]}[how]
                if how == "kept":
                    values[name] = np.full(8, 1 + "ab".index(name), np.float32)
            out: dict[str, Any] = {name: kept[name] for name, how in (("y", y), ("z", z)) if how == "kept"}
            if y == "new":
                out["y"] = fake.array(np.zeros(8, np.float32))
            found = model(feed, out=out, device_outputs=["z"] if z == "left" else [])
            total = values["a"] + values["b"]
            for name, expected in (("y", 2 * total), ("z", total)):
                array = found[name]
                np.testing.assert_array_equal(array if isinstance(array, np.ndarray) else array.numpy(), expected)
                del array
            del found, feed, out
    del kept
    assert not fake.violations


def _mixture(tmp_path_factory: Any) -> Path:
    specs = [[TensorSpec(name, "float32", (8,)) for name in names] for names in ("ab", "yz")]
    steps = (
        KernelStep("add", (Location("input"), Location("input", 1), Location("output", 1)), (8,)),
        KernelStep("scale", (Location("output", 1), Location("output")), (8,)),
    )
    path: Path = tmp_path_factory.getbasetemp() / "mixture.graphc"
    return path if path.exists() else write_cuda_package(path, *specs, steps)
