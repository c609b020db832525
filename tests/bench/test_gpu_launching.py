"""Kernels of a package in another library's stream, by a driver that checks every launch and executes none."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.gpu.cases import conv, matmul
from bench.gpu.compiling import compile_case, package_path
from bench.gpu.launching import Kernels
from graphc.runtime.cuda.device import open_device
from graphc.runtime.cuda.driver import call
from graphc.runtime.cuda.memory import Block
from tests.runtime.cuda.conftest import Fake, _fake, fake, libcuda

__all__ = ["_fake", "fake", "libcuda"]


class Tensor:
    """As much of torch's as launching asks for."""

    def __init__(self, shape: Any, dtype: int = 1, device: str = "cuda") -> None:
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self._block = Block(open_device(0), math.prod(self.shape) * dtype, "a tensor")

    def data_ptr(self) -> int:
        return self._block.address


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> SimpleNamespace:
    fake.reset([80])
    streams = [SimpleNamespace(cuda_stream=0)]
    cuda = SimpleNamespace(current_stream=lambda: streams[-1])
    made = SimpleNamespace(zeros=Tensor, uint8=1, float16=2, cuda=cuda, streams=streams)
    monkeypatch.setitem(sys.modules, "torch", made)
    return made


def test_every_step_is_launched_in_the_current_stream(torch: SimpleNamespace, fake: Fake, tmp_path: Path) -> None:
    case = dataclasses.replace(matmul(64, 64, 64, epilogue="bias"), name="small")
    compile_case(case, tmp_path, "cuda:sm_80", 2)
    inputs = {f"x{number}": Tensor(shape, 2) for number, shape in enumerate(case.shapes)}
    kernels = Kernels(package_path(tmp_path, case.name, case.precision), inputs)
    assert [tensor.shape for tensor in kernels.outputs] == [(64, 64)]
    device = open_device(0)
    with device:
        torch.streams.append(SimpleNamespace(cuda_stream=int(call("cuStreamCreate", 1))))
    for launched in range(1, 4):
        kernels()
        assert fake.calls("cuLaunchKernel") == launched * len(kernels.variant.kernel_steps)
    device.free("cuStreamDestroy", torch.streams.pop().cuda_stream)
    kernels()
    with device:
        call("cuStreamSynchronize", 0)
    assert fake.calls("cuLaunchKernel") == 4 * len(kernels.variant.kernel_steps)


def test_of_a_convolution_the_product_alone_can_be_timed(torch: SimpleNamespace, fake: Fake, tmp_path: Path) -> None:
    case = dataclasses.replace(conv(1, 32, 8, 32, 3), name="small")
    compile_case(case, tmp_path, "cuda:sm_80", 2)
    path = package_path(tmp_path, case.name, case.precision)
    inputs = {"x0": Tensor(case.shapes[0], 2)}
    whole, heaviest = Kernels(path, inputs), Kernels(path, inputs, heaviest=True)
    assert len(whole.variant.kernel_steps) > 1
    heaviest()
    alone = fake.calls("cuLaunchKernel")
    whole()
    assert 0 < alone < fake.calls("cuLaunchKernel") - alone
    with pytest.raises(KeyError, match="x0"):
        Kernels(path, {})
    with open_device(0):
        call("cuStreamSynchronize", 0)
