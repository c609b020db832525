"""Single kernels beside torch's: cuBLAS, cuDNN with channels last, its attention, and what memory bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.gpu.cases import Case
from bench.gpu.compiling import package_path
from bench.gpu.launching import Kernels
from bench.gpu.timing import ColdTimer
from bench.gpu.torch_graph import module_of, simplified
from graphc.frontend import export_model

TOLERANCE = {"fp16": 2e-2, "bf16": 1e-1, "fp32": 5e-3}
"""Largest error over the output's scale; products of float32 are tf32."""


def measure_kernel(case: Case, packages: Path, timer: ColdTimer) -> dict[str, Any]:
    """Seconds of graphc's kernel and of torch's, cold, with what they come to in rates.

    Raises:
        GraphcError: The package is not there, or does not run here.
    """
    import torch

    tensors = {name: torch.from_numpy(array).cuda() if case.precision != "bf16" else _bf16(array)
               for name, array in case.inputs().items()}  # fmt: skip
    graph = case.graph()
    shapes = {value.name: value.tensor_type.static_shape for value in graph.inputs}
    # float32 is as exact, or not, on both sides.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    module = module_of(simplified(export_model(graph).SerializeToString(), shapes), "cuda", case.precision)
    given = [_like_torch(tensors[name]) for name in shapes]

    def torch_call() -> Any:
        with torch.inference_mode():
            (made,) = module(*given)
            # A view is no answer.
            return made.contiguous() if case.group == "memory" else made

    path = package_path(packages, case.name, case.precision)
    whole = Kernels(path, tensors)
    whole()
    torch.cuda.synchronize()
    error = scaled_error(torch_call(), whole.outputs[0])
    ours = Kernels(path, tensors, heaviest=True) if case.group == "conv" else whole
    times = timer.time({"graphc": ours, "torch": torch_call})
    seconds = {name: measured.to_json() for name, measured in times.items()}
    row = {
        "name": case.name,
        "group": case.group,
        "precision": case.precision,
        "seconds": seconds,
        "ratio": times["torch"].median / times["graphc"].median,
        "error": error,
        "right": error <= TOLERANCE[case.precision],
    }
    for name, measured in times.items():
        row[f"{name} gigabytes/s"] = case.bytes / measured.median / 1e9
        if case.flops:
            row[f"{name} teraflops"] = case.flops / measured.median / 1e12
    return row


def _bf16(array: Any) -> Any:
    """torch takes no bfloat16 of NumPy's."""
    import torch

    return torch.from_numpy(array.astype("float32")).cuda().to(torch.bfloat16)


def _like_torch(tensor: Any) -> Any:
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def scaled_error(expected: Any, found: Any) -> float:
    """Largest difference over the largest magnitude of what is expected."""
    wanted = expected.float()
    scale = float(wanted.abs().max()) or 1.0
    return float((found.float() - wanted).abs().max()) / scale
