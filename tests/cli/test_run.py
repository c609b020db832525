"""`graphc run`: inputs from files and from seeds, outputs to files, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Call


@pytest.fixture
def x(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8))
    return path


def expected(mlp: Path, x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    import onnxruntime

    session = onnxruntime.InferenceSession(mlp, providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": x})
    return y  # type: ignore[no-any-return]


def test_an_input_from_a_file_and_outputs_to_an_archive(
    graphc: Call, package: Path, mlp: Path, x: Path, tmp_path: Path
) -> None:
    result = graphc("run", package, "--input", f"x={x}", "-o", tmp_path / "out.npz")
    assert result.status == 0
    assert "y       float32[4, 4]" in result.out
    with np.load(tmp_path / "out.npz") as archive:
        np.testing.assert_allclose(archive["y"], expected(mlp, np.load(x)), rtol=1e-4, atol=1e-5)


def test_a_model_is_compiled_for_the_shapes_given(graphc: Call, mlp: Path, x: Path, tmp_path: Path) -> None:
    assert graphc("run", mlp, "--input", f"x={x}", "-o", tmp_path / "out").status == 0
    got = np.load(tmp_path / "out" / "y.npy")
    np.testing.assert_allclose(got, expected(mlp, np.load(x)), rtol=1e-4, atol=1e-5)


def test_an_archive_of_inputs(graphc: Call, package: Path, x: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.load(x))
    by_archive = graphc("run", package, "--input", tmp_path / "in.npz", "--json").json
    by_name = graphc("run", package, "--input", f"x={x}", "--json").json
    assert by_archive["outputs"] == by_name["outputs"]


def test_seeds_decide_what_is_drawn(graphc: Call, package: Path) -> None:
    same, again, other = (graphc("run", package, "--seed", str(s), "--json").json["outputs"] for s in (1, 1, 2))
    assert same == again != other
    assert same["y"]["shape"] == [1, 4]


def test_dim_picks_the_variant(graphc: Call, package: Path) -> None:
    assert graphc("run", package, "--dim", "batch=4", "--json").json["outputs"]["y"]["shape"] == [4, 4]
    assert graphc("run", package, "--dim", "x=4x8", "--json").json["outputs"]["y"]["shape"] == [4, 4]


def test_runs_are_timed(graphc: Call, package: Path) -> None:
    result = graphc("run", package, "--runs", "5", "--threads", "1")
    assert "a call (median of 5" in result.out
    assert len(graphc("run", package, "--runs", "5", "--json").json["seconds"]) == 5


def test_indices_are_drawn_from_what_they_index(graphc: Call, embedding: Path) -> None:
    # The mean of 15 rows of a table that counts to 4000: drawn from 0 and 1, it would be below 8.
    assert graphc("run", embedding, "--json").json["outputs"]["y"]["mean"] > 100
    assert graphc("run", embedding, "--input", "ids=0..0", "--json").json["outputs"]["y"]["mean"] == 1.5


def test_objects_and_unknown_shapes_are_shown(graphc: Call, on_host: Path, tmp_path: Path) -> None:
    result = graphc("run", on_host, "-o", tmp_path)
    assert result.status == 0
    assert np.load(tmp_path / "n.npy").shape[0] == 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["z={x}"], "no such input"),
        (["x"], "expected NAME=file.npy"),
        (["x=zeros"], "neither a .npy file nor a range"),
        (["x=/nowhere/x.npy"], "cannot read '/nowhere/x.npy'"),
        (["/nowhere/x.npz"], "cannot read '/nowhere/x.npz'"),
        (["x={garbage}"], "no .npy file"),
        (["x={double}"], "expected dtype float32, got float64"),
        (["x={wide}"], "expected x: float32[batch, 8], got shape [4, 9]"),
        (["x={flat}"], "expected rank 2"),
        (["x={pickled}"], "pickled objects are not read"),
        (["x=2..1"], "range 2..1 is empty"),
        (["x=a..b"], "expected LOW..HIGH"),
    ],
)
def test_inputs_that_do_not_fit(
    graphc: Call, package: Path, x: Path, tmp_path: Path, inputs: list[str], message: str
) -> None:
    good = np.load(x)
    files = {"x": x} | {name: tmp_path / f"{name}.npy" for name in ("garbage", "double", "wide", "flat", "pickled")}
    files["garbage"].write_bytes(b"garbage")
    np.save(files["double"], good.astype(np.float64))
    np.save(files["wide"], np.zeros((4, 9), np.float32))
    np.save(files["flat"], good.reshape(-1))
    np.save(files["pickled"], np.array([None]), allow_pickle=True)
    arguments = [part for text in inputs for part in ("--input", text.format(**files))]
    result = graphc("run", package, *arguments)
    assert (result.status, result.out) == (1, "")
    assert message in result.err


def test_no_variant_fits(graphc: Call, package: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 8), np.float32))
    result = graphc("run", package, "--input", f"x={tmp_path / 'x.npy'}")
    assert result.status == 1
    assert "batch=3" in result.err
    assert graphc("run", package, "--dim", "batch=3").status == 1


def test_options_of_the_compiler_are_refused_for_packages(graphc: Call, package: Path) -> None:
    for options in (["-O1"], ["--passes", "fold"], ["--no-winograd"], ["--require-compiled"]):
        result = graphc("run", package, *options)
        assert result.status == 1
        assert f"{options[0].rstrip('1')} has no effect" in result.err


def test_a_damaged_package(graphc: Call, package: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.graphc"
    path.write_bytes(package.read_bytes()[:-100])
    for command in ("run", "inspect", "profile"):
        result = graphc(command, path)
        assert (result.status, result.out) == (1, "")
        assert "damaged.graphc" in result.err


def test_an_output_file_of_one_array_is_refused(graphc: Call, package: Path, tmp_path: Path) -> None:
    result = graphc("run", package, "-o", tmp_path / "y.npy")
    assert result.status == 1
    assert "holds one array" in result.err
