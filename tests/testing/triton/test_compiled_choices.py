"""Choices for GPUs without a GPU: what spills is cut differently, and a compile takes what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphc.backends.base import Kernel
from graphc.backends.triton.choices import accepts
from graphc.backends.tuning import TuningDatabase
from graphc.compiler.driver import lower_model
from graphc.compiler.options import CompileOptions
from graphc.errors import OptionError
from graphc.runtime.folders import tuning_path
from graphc.testing.triton import compiled_choices
from graphc.testing.triton.compiled_choices import check_choices


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolution, one of single pixels, and a product."""
    generator = np.random.default_rng(0)
    shapes = {"w0": (32, 16, 3, 3), "w1": (64, 32, 1, 1), "w2": (64, 48)}
    weights = {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "spread"),
        helper.make_node("Conv", ["a", "w1"], ["b"], "mixed"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["y"], "product"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 48])
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "three", [x], [y], initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_what_does_not_spill_is_left_as_it_is(model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    result = check_choices(
        model,
        target="cuda:sm_80",
        dims={"n": 1},
        options=CompileOptions(cache=tmp_path),
        progress=lambda *now: told.append(now),
    )
    assert len(result.checked) == result.compiled == 3
    assert len(result.database) == 0 and result.spilling == ()
    assert told[-1] == ("compiling choices", 3, 3)


def test_what_spills_is_cut_differently_and_compiles_take_that(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    asked: dict[str, int] = {}

    def spills(kernel: Kernel) -> bool:
        asked[kernel.template] = asked.get(kernel.template, 0) + 1
        return kernel.template == "conv" and asked["conv"] < 3

    monkeypatch.setattr(compiled_choices, "spills", spills)
    options = CompileOptions(cache=tmp_path, precision="fp16")
    result = check_choices(model, target="cuda:sm_90", dims={"n": 4}, options=options)
    ((key, row),) = result.database.items()
    assert key in result.checked and row.choice["template"] == "conv" and accepts(row.choice)
    assert asked["conv"] == 3 and result.compiled == len(result.checked) + 2

    result.database.write(tuning_path("sm_90"))
    assert TuningDatabase.read(tuning_path("sm_90"), accepts).digest() == result.database.digest()
    tiles = []
    for chosen in (options, CompileOptions(cache=tmp_path, precision="fp16", tuning=False)):
        (program,) = lower_model(model, target="cuda:sm_90", dims={"n": 4}, options=chosen).programs
        (conv,) = [kernel for kernel in program.kernels.values() if kernel.template == "conv"]
        tiles.append((conv.key, conv.schedule.get("tuned")))
    assert tiles[0][0] != tiles[1][0] and tiles[0][1] == "1.00x" and tiles[1][1] is None


def test_what_spills_however_it_is_cut_is_told(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_choices, "spills", lambda kernel: True)
    result = check_choices(model, target="cuda:sm_90", dims={"n": 1}, options=CompileOptions(cache=tmp_path))
    assert len(result.spilling) == 3 and len(result.database) == 0


def test_one_shape_and_one_target_are_wanted(model: Path) -> None:
    for target, dims in (("cuda:sm_90", None), ("cuda:sm_80,cuda:sm_90", {"n": 1}), ("cuda:sm_90", {"n": [1, 2]})):
        with pytest.raises(OptionError, match="tuning is of one shape"):
            check_choices(model, target=target, dims=dims)


@pytest.mark.parametrize(
    ("choice", "known"),
    [
        ({"template": "matmul", "matmul_tile": [128, 64, 64, 3, 4, 1, "tiles"]}, True),
        ({"template": "conv", "conv_tile": [128, 64, 64, 3, 4, 1]}, True),
        ({"template": "rows"}, False),
        ({"matmul_tile": [128, 64, 64, 3, 4, 1, "spheres"]}, False),
        ({"matmul_tile": [128, 64, 64, 3, 4, 1]}, False),
        ({"conv_tile": [128, 64, 64, 3, 4, True]}, False),
        ({"conv_tile": "128"}, False),
        ({"template": "depthwise", "depthwise_tile": [16, 64]}, True),
        ({"depthwise_tile": [16, 48]}, False),
        ({"depthwise_tile": [16]}, False),
        ({"tile": [4, 4]}, False),
    ],
)
def test_choices_of_others_are_not_taken(choice: dict[str, object], known: bool) -> None:
    assert accepts(choice) is known
