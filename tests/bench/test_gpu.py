from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bench.gpu.__main__ import attempt, main, select
from bench.gpu.cases import KERNELS, MODELS, Case, attention, conv, matmul
from bench.gpu.compiling import compile_case, package_path
from bench.gpu.report import as_text, geometric_mean, write_plot
from bench.gpu.timing import Measured, difference
from bench.gpu.torch_graph import simplified, source_of
from bench.zoo import load
from graphc.errors import BackendError
from graphc.frontend import export_model
from graphc.ir import Builder, Value


def torch_text(case: object) -> str:
    assert dataclasses.is_dataclass(case)
    graph = case.graph()  # type: ignore[attr-defined]
    shapes = {value.name: value.tensor_type.static_shape for value in graph.inputs}
    return source_of(simplified(export_model(graph).SerializeToString(), shapes))[0]


def test_cases_have_names_and_shapes_of_their_own() -> None:
    names = [(case.name, case.precision) for case in KERNELS]
    assert len(set(names)) == len(names) and len({model.name for model in MODELS}) == len(MODELS)
    files = {package_path(Path(), name, precision) for name, precision in names}
    assert len(files) == len(names)
    for model in MODELS:
        assert load(model.entry)


def test_figures_of_cases() -> None:
    case = matmul(4, 8, 16, epilogue="gelu")
    assert case.flops == 2 * 4 * 8 * 16
    assert case.bytes == 2 * (4 * 16 + 16 * 8 + 8 + 4 * 8)
    assert conv(2, 8, 9, 16, 3, 2, 4).flops == 2 * 2 * 5 * 5 * 16 * 2 * 9
    causal, whole = (attention(1, 2, 8, 8, 16, causal=flag) for flag in (True, False))
    assert whole.flops == 2 * causal.flops == 4 * 2 * 8 * 8 * 16


def test_torch_gets_its_own_attention_and_linear() -> None:
    text = torch_text(attention(1, 2, 8, 8, 16))
    assert "F.scaled_dot_product_attention(" in text and "softmax" not in text and "attn_mask" not in text
    assert "is_causal=True" in torch_text(attention(1, 2, 8, 8, 16, causal=True))
    assert "is_causal" not in torch_text(attention(1, 2, 4, 8, 16))
    text = torch_text(matmul(4, 8, 16, epilogue="gelu"))
    assert "F.linear(x0, x1.mT, x2)" in text and "F.gelu(" in text and "@" not in text
    assert "F.conv2d(x0, self.c" in torch_text(conv(1, 8, 9, 12, 3, 2, 4))


def test_scales_of_operands_stay_where_attention_is_not_torchs() -> None:
    def make(b: Builder, q: Value, k: Value, v: Value) -> Value:
        half = b.constant(np.array(0.5, np.float16))
        columns = b.op("Mul", b.op("Transpose", k, perm=[0, 2, 1]), half)
        return b.op("MatMul", b.op("Softmax", b.op("MatMul", b.op("Mul", q, half), columns), axis=-1), v)

    text = torch_text(Case("three axes", "attention", "fp16", ((2, 8, 16),) * 3, make))
    assert "torch.softmax(" in text and text.count(" * ") == 2


def test_a_case_compiles_and_what_is_in_its_package_is_told(tmp_path: Path) -> None:
    small = dataclasses.replace(matmul(64, 64, 64), name="small: product/1")
    made = compile_case(small, tmp_path, "cuda:sm_90,cuda:sm_80", 2)
    assert (made.kernels, made.host, made.templates) == (2, (), ("matmul",))
    assert made.spilling == {} and package_path(tmp_path, small.name, "fp16").exists()


def test_work_is_chosen_by_name() -> None:
    everything = select(None, "", ["fp16", "fp32"])
    assert len(everything) == len(KERNELS) + 2 * len(MODELS)
    assert {item.name for item, _ in select("models", "resnet", ["fp16"])} == {
        m.name for m in MODELS if "resnet" in m.name
    }


def test_a_failure_is_a_row() -> None:
    def fail() -> dict[str, object]:
        raise BackendError("it does not compile")

    row = attempt(MODELS[0], "fp16", fail)
    assert row["failure"] == "BackendError: it does not compile" and row["name"] == MODELS[0].name


def test_arithmetic() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0) and geometric_mean([]) == 0.0
    assert difference(3.0, 1.0, 20) == pytest.approx(0.1) and difference(1.0, 2.0, 20) == 1e-9
    assert Measured((3.0, 1.0, 2.0)).to_json() == {"median": 2.0, "least": 1.0, "most": 3.0}


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {name: {"median": seconds} for name, seconds in (("graphc", 1e-5), ("torch", 2e-5))}
    kernel = {"name": "add", "precision": "fp16", "group": "memory", "seconds": times, "ratio": 2.0, "right": True}
    wrong = {**kernel, "name": "sub", "ratio": 0.5, "right": False}
    rates = {"graphc gigabytes/s": 2000.0, "torch gigabytes/s": 1000.0}
    model = {
        "name": "net",
        "precision": "fp32",
        "seconds": times,
        "speedup": {"torch graph": {"median": 1.5}},
        "right": True,
    }
    failed = {"name": "other", "precision": "fp32", "failure": "no memory"}
    results = {"device": "GPU", "torch": "2", "triton": "3", "kernels": [kernel | rates, wrong | rates]}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**results, "models": [model, failed]}))
    assert main(["report", "--output", str(path), "--plot", str(tmp_path / "plot.svg")]) == 0
    told = capsys.readouterr().out
    cells = [cell.strip() for cell in told.splitlines()[4].split("|")[1:-1]]
    assert cells == ["add", "fp16", "10 µs", "20 µs", "2000", "2.00x"]
    assert "0.50x WRONG" in told and "1.00x" in told and "1.50x" in told and "other fp32: no memory" in told
    assert told == as_text(json.loads(path.read_text())) + "\n"
    write_plot(json.loads(path.read_text()), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text().startswith("<?xml")


def test_inputs_are_the_same_every_time() -> None:
    first, second = (conv(1, 3, 5, 4, 3).inputs()["x0"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_zoo_is_compiled_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "zoo.json"
    arguments = ["zoo", "--match", "mlp", "--precisions", "fp16", "--output", str(output)]
    assert main(arguments) == 0
    (row,) = json.loads(output.read_text())["models"]
    assert row["kernels"] > 0 and row["host steps"] == [] and row["spilling"] == {}
    assert 0 < row["warm seconds"] < row["cold seconds"]
    assert "mlp_4x64x64  fp16" in capsys.readouterr().out
    # What is there already is told again and not made again; what fails is told and fails the command.
    assert main([*arguments, "--resume"]) == 0
    assert json.loads(output.read_text())["models"] == [row]
    assert main([*arguments, "--target", "cuda:sm_10"]) == 1
    assert "mlp_4x64x64 fp16: OptionError" in capsys.readouterr().out
