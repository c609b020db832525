"""Models beyond 2 GB, as sparse files: nothing of the weights is read, copied or handed to protobuf."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from graphc.frontend import import_model
from graphc.ir import Graph
from tests.frontend.models import info, model
from tests.frontend.test_wire import varint

GIGABYTES = 3
COUNT = GIGABYTES << 28
LAST = np.float32(7.5)


def field(number: int, payload_bytes: int) -> bytes:
    return varint(number << 3 | 2) + varint(payload_bytes)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def assert_light(graph: Graph, start: float, before: int) -> None:
    assert time.monotonic() - start < 2
    assert resident_bytes() - before < 100 << 20
    tensor = next(graph.nodes).output.constant
    assert tensor is not None and tensor.shape == (COUNT,) and tensor.nbytes == COUNT * 4


@pytest.fixture
def proto() -> onnx.ModelProto:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return model([node], [info("x", shape=[1])], ["y"])


def test_one_file_beyond_the_limit_of_protobuf(proto: onnx.ModelProto, tmp_path: Path) -> None:
    data = COUNT * 4
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[COUNT]).SerializeToString() + field(9, data)
    graph = proto.graph.SerializeToString() + field(5, len(tensor) + data) + tensor
    proto.ClearField("graph")
    head = proto.SerializeToString() + field(7, len(graph) + data) + graph
    # The payload begins at a multiple of four, so that it can be used where it lies.
    padding = -len(head) % 4
    head = proto.SerializeToString()
    if padding:
        head += field(6, padding + 2) + b" " * (padding + 2)
    head += field(7, len(graph) + data) + graph
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.write(head)
        file.seek(data - 4, 1)
        file.write(LAST.tobytes())
    start, before = time.monotonic(), resident_bytes()
    imported = import_model(path)
    assert_light(imported, start, before)
    tensor_read = next(imported.nodes).output.constant
    assert tensor_read is not None and tensor_read.array()[-1] == LAST
    assert resident_bytes() - before < 100 << 20


def test_external_data_beyond_the_limit(proto: onnx.ModelProto, tmp_path: Path) -> None:
    weight = proto.graph.initializer.add(name="w", data_type=1, dims=[COUNT], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="huge.data")
    (tmp_path / "huge.onnx").write_bytes(proto.SerializeToString())
    with (tmp_path / "huge.data").open("wb") as file:
        file.seek(COUNT * 4 - 4)
        file.write(LAST.tobytes())
    start, before = time.monotonic(), resident_bytes()
    imported = import_model(tmp_path / "huge.onnx")
    assert_light(imported, start, before)
    tensor = next(imported.nodes).output.constant
    assert tensor is not None and tensor.array()[-1] == LAST
