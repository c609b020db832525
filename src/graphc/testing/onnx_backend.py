"""graphc behind ONNX's backend interface, for tools and suites that know that interface and not graphc.

    from onnx.backend.test import BackendTest
    from graphc.testing import onnx_backend

    suite = BackendTest(onnx_backend, __name__)

The module itself is a backend for this machine's CPU; `ReferenceBackend` evaluates each node in NumPy instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict
from onnx.helper import make_graph, make_model, make_opsetid, make_tensor_type_proto, make_value_info

import graphc
from graphc.errors import InputError, OptionError
from graphc.ir import dtypes
from graphc.runtime import Executable


class GraphcRep(BackendRep):
    """A compiled model, ready to run.

    Attributes:
        executable: The package behind it.
    """

    def __init__(self, executable: Executable) -> None:
        self.executable = executable

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in the model's order, also by name.

        Args:
            inputs: By position, or by name; a single array for a model with one input.
            kwargs: None is known.

        Raises:
            InputError: The inputs do not fit the model.
            ExecutionError: A step failed.
        """
        _refuse(kwargs)
        if not isinstance(inputs, Mapping | Sequence):
            inputs = [inputs]
        found = self.executable(inputs)
        made: tuple[Any, ...] = namedtupledict("Outputs", list(found))(*found.values())
        return made

    def host_steps(self, inputs: Any) -> tuple[str, ...]:
        """Operators that run on the host, in NumPy, for inputs of these shapes, in the order of their steps."""
        return tuple(step.op_type for step in self.executable.variant_for(inputs).host_steps)


class GraphcBackend(Backend):
    """Compiles for a CPU. Keywords of `prepare` are options of `graphc.compile`: `target`, `dims`, `threads`..."""

    defaults: Mapping[str, Any] = {}
    """Options where a caller gives none."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether the device, e.g. `CPU` or `CPU:0`, is the processor."""
        return device.split(":")[0] == "CPU"

    @classmethod
    def prepare(cls, model: onnx.ModelProto | bytes, device: str = "CPU", **kwargs: Any) -> GraphcRep:
        """Compiles a model.

        Raises:
            GraphcError: As `graphc.compile`; OptionError for a device that is no CPU.
        """
        if not cls.supports_device(device):
            raise OptionError(f"device {device!r} is no CPU, and this backend compiles for CPUs only")
        return GraphcRep(graphc.compile(model, **{**cls.defaults, **kwargs}))

    @classmethod
    def run_model(cls, model: onnx.ModelProto | bytes, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
        """Compiles a model and runs it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> Any:
        """Compiles a single node and runs it once.

        Args:
            node: The node.
            inputs: An array for each of its inputs that is not left out, by position or by name.
            device: A CPU.
            outputs_info: Not needed: types of outputs follow from the inputs.
            kwargs: `opset_version`, the newest that onnx knows if left out; options of `graphc.compile`.
        """
        del outputs_info
        version = kwargs.pop("opset_version", None) or onnx.defs.onnx_opset_version()
        return cls.prepare(_model_of(node, inputs, version), device, **kwargs).run(inputs)


class ReferenceBackend(GraphcBackend):
    """Evaluates every node in NumPy by the operators' meaning."""

    defaults: Mapping[str, Any] = {"backend": "reference"}


def _model_of(node: onnx.NodeProto, inputs: Any, version: int) -> onnx.ModelProto:
    names = [name for name in dict.fromkeys(node.input) if name]
    arrays = [inputs[name] for name in names] if isinstance(inputs, Mapping) else list(inputs)
    if len(arrays) != len(names):
        raise InputError(f"{node.op_type} reads {len(names)} inputs, and {len(arrays)} are given", nodes=(node.name,))
    infos = [
        make_value_info(name, make_tensor_type_proto(dtypes.from_numpy(array.dtype).onnx, array.shape))
        for name, array in zip(names, arrays, strict=True)
    ]
    # An output's declaration may be empty: its type is inferred.
    results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    opsets = [make_opsetid("", version)] + ([make_opsetid(node.domain, 1)] if node.domain else [])
    return make_model(make_graph([node], node.op_type, infos, results), opset_imports=opsets)


def _refuse(kwargs: Mapping[str, Any]) -> None:
    if kwargs:
        raise OptionError(f"unknown option {next(iter(kwargs))!r} of run")


supports_device = GraphcBackend.supports_device
prepare = GraphcBackend.prepare
run_model = GraphcBackend.run_model
run_node = GraphcBackend.run_node
is_compatible = GraphcBackend.is_compatible

__all__ = [
    "GraphcBackend",
    "GraphcRep",
    "ReferenceBackend",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]
