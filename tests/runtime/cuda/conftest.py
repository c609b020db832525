"""A driver without a GPU, and packages whose kernels it has."""

from __future__ import annotations

import ctypes
import gc
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.backends.tvm.link import find_linker
from graphc.package import (
    Code,
    CudaKernel,
    CudaObject,
    KernelStep,
    Launch,
    Location,
    Manifest,
    TensorSpec,
    Variant,
    WeightsBuilder,
    cuda_members,
    write_package,
)
from graphc.package.cuda import Integer, Pointer, Status, cubin_name
from graphc.runtime.cuda import dlpack, driver
from graphc.runtime.cuda.array import adopt
from graphc.runtime.cuda.device import open_device

MB = 1 << 20
KINDS = ("context", "stream", "event", "module", "graph", "exec", "memory", "pinned")


class Fake:
    """What a test asks of the fake driver."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.fake_violations.restype = ctypes.c_char_p
        library.fake_calls.restype = library.fake_launches.restype = ctypes.c_long
        library.fake_used.restype = ctypes.c_size_t

    def reset(self, capabilities: Sequence[int] = (80,), memory: int = 64 * MB) -> None:
        count = len(capabilities)
        sizes = (ctypes.c_size_t * max(count, 1))(*[memory] * count)
        self._library.fake_reset(count, (ctypes.c_int * max(count, 1))(*capabilities), sizes)
        # What was made of the driver before does not hold any more.
        assert not self.live, "reset before something is loaded"
        driver._initialized = False

    def limit(self, memory: int) -> None:
        self._library.fake_limit(ctypes.c_size_t(memory))

    def recover(self) -> None:
        """The GPU is as before a kernel crashed: not so with a real one."""
        self._library.fake_recover()

    def fail(self, function: str, code: int, nth: int = 1, *, again: bool = False) -> None:
        """The `nth` call of a function from now fails; and the one after it, if `again`."""
        self._library.fake_fail(function.encode(), nth, code, 2 if again else 1)

    def driver(self, version: int) -> None:
        self._library.fake_driver(version)

    def calls(self, function: str) -> int:
        return int(self._library.fake_calls(function.encode()))

    @property
    def launches(self) -> int:
        """Kernels that have run."""
        return int(self._library.fake_launches())

    def used(self, device: int = 0) -> int:
        return int(self._library.fake_used(device))

    def array(self, values: Any, *, device: int = 0, own_stream: bool = True, dlpack: bool = False) -> Foreign:
        """An array of another library in the memory of a GPU, which that fills when its stream comes to it."""
        return (ForeignDLPack if dlpack else ForeignInterface)(self._library, np.asarray(values), device, own_stream)

    @property
    def violations(self) -> str:
        return self._library.fake_violations().decode()  # type: ignore[no-any-return]

    @property
    def live(self) -> dict[str, int]:
        """What is not freed."""
        counts = {name: self._library.fake_live(kind) for kind, name in enumerate(KINDS, 1)}
        return {name: count for name, count in counts.items() if count}


class Foreign:
    """Another library's array in the memory of a GPU; frees it when nobody holds it."""

    def __init__(self, library: ctypes.CDLL, values: np.ndarray[Any, Any], device: int, own_stream: bool) -> None:
        library.fake_foreign.restype = ctypes.c_void_p
        library.fake_foreign_address.restype = library.fake_foreign_stream.restype = ctypes.c_void_p
        self._library = library
        handle = library.fake_foreign(device, int(own_stream), values.tobytes(), ctypes.c_size_t(values.nbytes))
        self._handle = ctypes.c_void_p(handle)
        self.shape, self.dtype, self.device = values.shape, values.dtype, device
        self.address: int = library.fake_foreign_address(self._handle)
        self.stream: int | None = library.fake_foreign_stream(self._handle)
        self.strides: tuple[int, ...] | None = None

    def numpy(self) -> np.ndarray[Any, Any]:
        """What lies there when everything has run."""
        found = adopt(open_device(self.device), self, "an array")
        assert found is not None
        return found.numpy()

    def __del__(self) -> None:
        self._library.fake_foreign_free(self._handle)


class ForeignInterface(Foreign):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        facts = {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3}
        return facts | {"stream": self.stream or 1, "strides": self.strides}


class ForeignDLPack(Foreign):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: int) -> Any:
        assert stream == 1 and self.stream is None, "filled by the default stream, as the consumer asks"
        return dlpack.export(self, self.address, self.shape, self.dtype, self.device)


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake driver, compiled."""
    path = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    source = Path(__file__).with_name("fakecuda.c")
    flags = ["-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(path), "-pthread"]
    subprocess.run([*find_linker().command, str(source), *flags], check=True, timeout=100)
    return path


@pytest.fixture(scope="session")
def _fake(libcuda: Path) -> Fake:
    pytest.importorskip("cuda.bindings")
    if "libcuda.so" in Path("/proc/self/maps").read_text():
        # Another file's fixture may have loaded the fake one: a process has one library of that name.
        loaded = ctypes.CDLL("libcuda.so.1")
        if not hasattr(loaded, "fake_reset"):
            pytest.skip("this process has loaded the real driver")
        return Fake(loaded)
    # cuda-bindings takes a libcuda that is loaded already.
    return Fake(ctypes.CDLL(str(libcuda), ctypes.RTLD_GLOBAL))


@pytest.fixture
def fake(_fake: Fake) -> Iterator[Fake]:
    """One GPU of capability 8.0 with 64 MB; whatever a test does to it is checked, and all that it takes is freed."""
    _fake.reset()
    yield _fake
    if _fake.live:
        gc.collect()
    assert not _fake.violations
    assert not _fake.live
    _fake.reset(())


def launch(
    function: str, *parameters: Any, grid: tuple[int | str, ...] = (4, 1, 1), arch: int = 80, **more: Any
) -> Launch:
    """A launch of 4 blocks of 128 threads: what `scale` and `add` need for up to 512 floats."""
    return Launch(cubin_name(cubin(arch)), function, grid, 128, parameters, **more)


def cubin(arch: int = 80) -> bytes:
    return f"FAKECUBIN {arch} add scale sum gather through below crash".encode()


def kernels(arch: int = 80) -> dict[str, CudaObject]:
    """Kernels of the fake driver as a backend would have made them. Each takes `d0`, how many elements, of its step."""
    p, n = [Pointer(i) for i in range(4)], Integer("d0")
    launches = {
        "scale": [launch("scale", p[0], p[1], n, Integer(2), arch=arch)],
        "add": [launch("add", p[0], p[1], p[2], n, arch=arch)],
        "sum": [launch("sum", p[0], p[1], n, arch=arch)],
        # Twice as much twice: two launches, the second of which reads what the first wrote.
        "quadruple": [
            launch("scale", p[0], p[1], n, Integer(2), arch=arch),
            launch("scale", p[1], p[1], n, Integer(2), arch=arch),
        ],
        "gather": [launch("gather", p[0], p[1], p[2], Status(), n, Integer("d1", 8), arch=arch)],
        "through": [launch("through", p[0], p[1], n, scratch=512, arch=arch)],
        "below": [launch("below", p[0], p[1], Integer("d0"), arch=arch)],
        "crash": [launch("crash", arch=arch)],
        "grid": [launch("scale", p[0], p[1], n, Integer(2), grid=("(d0 + 127) // 128", 1, 1), arch=arch)],
        "shared": [launch("scale", p[0], p[1], n, Integer(2), shared=100_000, arch=arch)],
        "cluster": [launch("scale", p[0], p[1], n, Integer(2), cluster=2, arch=arch)],
    }
    names = {cubin_name(cubin(arch)): cubin(arch)}
    return {symbol: CudaObject(CudaKernel(tuple(found)), names) for symbol, found in launches.items()}


Build = Callable[..., Path]


def write_cuda_package(
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    steps: Sequence[Any] = (),
    *,
    arena_size: int = 0,
    weights: WeightsBuilder | None = None,
    archs: Sequence[int] = (80,),
    extra: dict[str, CudaObject] | None = None,
    variant: dict[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Writes a package with the fake driver's kernels and those of `extra`."""
    weights = weights or WeightsBuilder(256)
    shapes: list[Any] = [tuple(spec.shape for spec in specs) for specs in (inputs, outputs)]
    given = {"inputs": shapes[0], "outputs": shapes[1], "arena_size": arena_size, "steps": tuple(steps)}
    variants = tuple(Variant(f"sm_{arch}", {}, **{**given, **(variant or {})}) for arch in archs)
    files: dict[str, bytes] = {}
    for arch in archs:
        files |= cuda_members(f"sm_{arch}", {**kernels(arch), **(extra or {})})
    manifest = Manifest(
        path.stem,
        tuple(inputs),
        tuple(outputs),
        variants,
        {f"sm_{arch}": Code(f"cuda/sm_{arch}/kernels.json", "cuda", (f"sm_{arch}",)) for arch in archs},
        weights_size=weights.size,
        host_steps=any(v.host_steps for v in variants),
        **fields,
    )
    write_package(path, manifest, files=files, weights=weights)
    return path


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(inputs, outputs, steps, name=..., ...)`: as `write_cuda_package`."""

    def builder(*parts: Any, name: str = "model", **fields: Any) -> Path:
        return write_cuda_package(tmp_path / f"{name}.graphc", *parts, **fields)

    return builder


def affine_parts() -> tuple[list[TensorSpec], list[TensorSpec], list[KernelStep], WeightsBuilder]:
    """y = 4 (2 x + w) for x of 4 × 64 floats, w counting up."""
    weights = WeightsBuilder(256)
    w = weights.add(np.arange(256, dtype=np.float32).reshape(4, 64))
    steps = [
        KernelStep("scale", (Location("input"), Location("arena", 0, 256)), (256,), "scale", ("Mul_0",), 256, 2048),
        KernelStep("add", (Location("arena", 0, 256), w, Location("arena", 0, 2048)), (256,), "add", ("Add_0",)),
        KernelStep("quadruple", (Location("arena", 0, 2048), Location("output")), (256,), "times 4", ("Mul_1", "Id_0")),
    ]
    return [TensorSpec("x", "float32", (4, 64))], [TensorSpec("y", "float32", (4, 64))], steps, weights


@pytest.fixture
def affine(build: Build) -> Path:
    """The package of `affine_parts`."""
    inputs, outputs, steps, weights = affine_parts()
    return build(inputs, outputs, steps, arena_size=4096, weights=weights)


def x_of(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((4, 64)).astype(np.float32)


def affine_of(x: Any) -> Any:
    return 4 * (2 * np.asarray(x) + np.arange(256, dtype=np.float32).reshape(4, 64))
