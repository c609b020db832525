"""Whole models beside torch and ONNX Runtime: inputs and outputs in the GPU's memory, one call after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphc
from bench.gpu.cases import Model
from bench.gpu.compiling import package_path
from bench.gpu.kernels import scaled_error
from bench.gpu.timing import graphed
from bench.gpu.torch_graph import module_of, simplified
from bench.zoo import load as load_entry
from graphc.testing.compare import compare

PEERS = ("torch graph", "torch compile", "onnxruntime")
"""Eager torch in a CUDA graph; `torch.compile(mode="max-autotune")`; ONNX Runtime's CUDA provider."""

TOLERANCE = {"fp16": 5e-2, "bf16": 1e-1, "fp32": 1e-2}

_ROUNDS = 15


def measure_model(model: Model, precision: str, packages: Path, peers: tuple[str, ...]) -> dict[str, Any]:
    """Seconds of a call of each engine, interleaved, with the ratio in each round.

    Raises:
        GraphcError: The package is not there, or does not run here.
    """
    import torch

    entry = load_entry(model.entry)
    arrays = entry.inputs(dims={**entry.dims, **model.dims})
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    executable = graphc.load(package_path(packages, model.name, precision), device="cuda")
    tensors = {name: torch.from_numpy(array).cuda() for name, array in arrays.items()}
    outputs = executable(tensors, device_outputs=True)
    engines: dict[str, Callable[[], object]] = {"graphc": lambda: executable(tensors, device_outputs=True)}
    refused: dict[str, str] = {}
    expected: list[Any] = []
    graph = simplified(entry.path, {name: array.shape for name, array in arrays.items()})
    module = module_of(graph, "cuda", precision)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    given = [_prepared(tensors[value.name], half) for value in graph.inputs]
    with torch.inference_mode():
        expected = [made.clone() for made in module(*given)]
        for name in peers:
            try:
                if name == "onnxruntime":
                    engines[name] = _onnxruntime(entry.path, tensors)
                else:
                    engines[name] = _torch(module, given, compiled=name == "torch compile")
            except Exception as error:  # a peer that does not run this model is a line in the report
                refused[name] = f"{type(error).__name__}: {error}"[:300]
        errors = [
            scaled_error(wanted, torch.from_dlpack(found))
            for wanted, found in zip(expected, outputs.values(), strict=True)
        ]
        result = compare(engines, rounds=_ROUNDS, pin=False, gap_seconds=0.02)
    return {
        "name": model.name,
        "precision": precision,
        **result.to_json("graphc"),
        "refused": refused,
        "error": max(errors),
        "right": max(errors) <= TOLERANCE[precision],
    }


def _prepared(tensor: Any, half: Any) -> Any:
    import torch

    made = tensor.to(half) if half is not None and tensor.is_floating_point() else tensor
    return made.contiguous(memory_format=torch.channels_last) if made.dim() == 4 and made.shape[1] == 3 else made


def _torch(module: Any, given: list[Any], *, compiled: bool) -> Callable[[], object]:
    """A call that copies its inputs to where they are read, as a graph needs it, and waits for the answer."""
    import torch

    if compiled:
        fast = torch.compile(module, mode="max-autotune", fullgraph=True)
        for _ in range(3):
            fast(*given)

        def call() -> object:
            torch.compiler.cudagraph_mark_step_begin()
            made = fast(*given)
            torch.cuda.synchronize()
            return made

        return call
    static = [tensor.clone() for tensor in given]
    replay, outputs = graphed(lambda: module(*static))

    def replayed() -> object:
        for target, source in zip(static, given, strict=True):
            target.copy_(source)
        replay()
        torch.cuda.synchronize()
        return outputs

    return replayed


def _onnxruntime(path: Path, tensors: dict[str, Any]) -> Callable[[], object]:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError("this onnxruntime has no CUDA provider")
    session = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider"])
    binding = session.io_binding()
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        binding.bind_input(name, "cuda", 0, dtype, tuple(tensor.shape), tensor.data_ptr())
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")

    def call() -> object:
        session.run_with_iobinding(binding)
        return binding.synchronize_outputs()

    call()
    return call
