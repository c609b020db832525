from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphc.errors import ModelError
from graphc.frontend import import_model
from tests.frontend.models import chain


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a plain text file\nwith lines", "it is text"),
        ("ünïcode tëxt".encode(), "it is text"),
        (b"{'json': 1}", "it is text"),
        (b"  <!DOCTYPE html><html>", "HTML"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x18\0\0\0ORTM", "ort file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"\0" * 100, "number 0"),
        (b"\xff" * 100, "longer than 10 bytes"),
        (numpy_helper.from_array(np.zeros(3, np.float32), "t").SerializeToString(), "not a valid|no graph"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
        (chain().SerializeToString()[:-20], "are left"),
    ],
)
def test_other_files_are_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(ModelError, match=words):
            import_model(source)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        import_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        import_model(tmp_path)
    with pytest.raises(ModelError, match="cannot open"):
        import_model("with\0zero")
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    with pytest.raises(ModelError, match="not a regular file"):
        import_model(tmp_path / "pipe")
    assert time.monotonic() - start < 2
    with pytest.raises(ModelError, match="not as int"):
        import_model(3)  # type: ignore[arg-type]


def test_every_form_of_source_gives_the_same_graph(tmp_path: Path) -> None:
    proto = chain()
    data = proto.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    graphs = [import_model(source) for source in (proto, data, memoryview(data), path, str(path))]
    assert len({str(graph) for graph in graphs}) == 1
