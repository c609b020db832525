"""Packages around kernels written in C: what the runtime sees of a compiler, without one."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.backends.tvm.link import find_linker, link
from graphc.package import Code, KernelStep, Location, Manifest, TensorSpec, Variant, WeightsBuilder, write_package
from graphc.runtime import machine

# Kernels as TVM makes them: a plain C symbol, a status, and parallel loops through a weak pointer.
KERNELS = r"""
#include <stdint.h>
#include <unistd.h>
typedef struct { void* sync_handle; int32_t num_task; } Env;
__attribute__((weak)) int (*__TVMBackendParallelLaunch)(int (*)(int, Env*, void*), void*, int);

int32_t scale(const int64_t* dims, void* x, void* y) {  // y = 2 x
  for (int64_t i = 0; i < dims[0]; i++) ((float*)y)[i] = 2 * ((float*)x)[i];
  return 0;
}
int32_t add(const int64_t* dims, void* x, void* w, void* y) {
  for (int64_t i = 0; i < dims[0]; i++) ((float*)y)[i] = ((float*)x)[i] + ((float*)w)[i];
  return 0;
}
int32_t fail(const int64_t* dims) { return (int32_t)dims[0]; }

typedef struct { const int64_t* dims; float* x; float* y; } Closure;
static int add_one_task(int task, Env* env, void* data) {
  Closure* c = data;
  int64_t n = c->dims[0], first = n * task / env->num_task, last = n * (task + 1) / env->num_task;
  for (int64_t i = first; i < last; i++) c->y[i] = c->x[i] + 1;
  return 0;
}
int32_t add_one(const int64_t* dims, void* x, void* y) {  // in parallel
  Closure c = {dims, x, y};
  return __TVMBackendParallelLaunch(add_one_task, &c, 0);
}
static int failing_task(int task, Env* env, void* data) { return task == *(int64_t*)data ? 7 : 0; }
int32_t fail_task(const int64_t* dims) { return __TVMBackendParallelLaunch(failing_task, (void*)dims, 8); }

static int count_task(int task, Env* env, void* data) {
  __atomic_fetch_add((int64_t*)data + task, 1, __ATOMIC_RELAXED);
  ((int64_t*)data)[64] = env->num_task;
  return 0;
}
int32_t count(const int64_t* dims, void* counts) {
  return __TVMBackendParallelLaunch(count_task, counts, (int)dims[0]);
}

static int nested_task(int task, Env* env, void* data) {
  return __TVMBackendParallelLaunch(count_task, (int64_t*)data + 65 * task, 4);
}
int32_t nested(const int64_t* dims, void* counts) { return __TVMBackendParallelLaunch(nested_task, counts, 2); }
static int identity_task(int task, Env* env, void* data) { ((int64_t*)data)[task] = gettid(); usleep(1000); return 0; }
int32_t who(const int64_t* dims, void* ids) { return __TVMBackendParallelLaunch(identity_task, ids, 0); }
"""
SYMBOLS = ["scale", "add", "fail", "add_one", "fail_task", "count", "nested", "who"]

Build = Callable[..., Path]


def compile_c(source: str, folder: Path) -> bytes:
    """The object of a C source."""
    path = folder / "kernels.c"
    path.write_text("#define _GNU_SOURCE\n" + source)
    command = [*find_linker().command, "-O1", "-fPIC", "-w", "-c", str(path), "-o", str(folder / "kernels.o")]
    subprocess.run(command, check=True, timeout=100)
    return (folder / "kernels.o").read_bytes()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A linked library with the kernels above."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "model.so").write_bytes(link({"kernels": compile_c(KERNELS, folder)}, exports=SYMBOLS))
    return (folder / "model.so").read_bytes()


@pytest.fixture
def build(library: bytes, tmp_path: Path) -> Build:
    """Writes a package: `build(inputs, outputs, steps, arena_size=..., weights=..., **manifest fields)`."""

    def builder(
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        steps: Sequence[Any] = (),
        *,
        arena_size: int = 0,
        weights: WeightsBuilder | None = None,
        variants: Sequence[Variant] | None = None,
        name: str = "model",
        code: bytes | None = None,
        requires: tuple[str, ...] = (),
        variant: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Path:
        weights = weights or WeightsBuilder()
        if variants is None:
            shapes = [tuple(spec.shape for spec in specs) for specs in (inputs, outputs)]
            base = Variant("test", {}, *shapes, arena_size, tuple(steps))  # type: ignore[arg-type]
            variants = [dataclasses.replace(base, **(variant or {}))]
        manifest = Manifest(
            name,
            tuple(inputs),
            tuple(outputs),
            tuple(variants),
            {"test": Code("cpu/test/model.so", machine(), requires)},
            weights_size=weights.size,
            host_steps=any(v.host_steps for v in variants),
            **fields,
        )
        path = tmp_path / f"{name}.graphc"
        write_package(path, manifest, files={"cpu/test/model.so": code or library}, weights=weights)
        return path

    return builder


@pytest.fixture
def affine(build: Build) -> Path:
    """y = 2 x + w + 1 for x of 4 × 64 floats, w counting up: serial and parallel kernels, the arena, a weight."""
    weights = WeightsBuilder()
    w = weights.add(np.arange(256, dtype=np.float32).reshape(4, 64))
    steps = [
        KernelStep("scale", (Location("input"), Location("arena", 0, 64)), (256,), "scale", ("Mul_0",), 256, 2048),
        KernelStep("add", (Location("arena", 0, 64), w, Location("arena", 0, 2048)), (256,), "add", ("Add_0",)),
        KernelStep("add_one", (Location("arena", 0, 2048), Location("output")), (256,), "add one", ("Add_1", "Id_0")),
    ]
    specs = [TensorSpec("x", "float32", (4, 64))], [TensorSpec("y", "float32", (4, 64))]
    return build(*specs, steps, arena_size=4096, weights=weights)
