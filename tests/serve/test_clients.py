"""Every call of tritonclient, over HTTP and gRPC, sync and aio, against a real server."""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
import uuid

import grpc as grpcio
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, shared_memory

from graphc.serve.grpc import GrpcFrontend
from graphc.serve.http import HttpFrontend
from graphc.serve.protocol.access import Access
from graphc.serve.protocol.datatypes import numpy_of
from graphc.serve.protocol.shared_memory import SharedMemory
from tests.serve.running import ECHOED, echo_package, running

SPEAKERS = ["http", "http.aio", "grpc", "grpc.aio"]
BAD, MISSING, FORBIDDEN, UNSUPPORTED = (
    ("400", "StatusCode.INVALID_ARGUMENT"),
    ("404", "StatusCode.NOT_FOUND"),
    ("403", "StatusCode.PERMISSION_DENIED"),
    ("501", "StatusCode.UNIMPLEMENTED"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory, package):
    root = tmp_path_factory.mktemp("models")
    for name in ("scale", "spare"):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.graphc").write_bytes(package(2.0).read_bytes())
    (root / "echo" / "1").mkdir(parents=True)
    echo_package(root / "echo" / "1" / "model.graphc")

    def frontends(service):
        control = Access(control=True)
        return [
            HttpFrontend(service, port=0),
            GrpcFrontend(service, port=0),
            HttpFrontend(service, port=0, access=control),
            GrpcFrontend(service, port=0, access=control),
        ]

    with running(
        root,
        frontends,
        memory=SharedMemory(allowed=True),
        settings={"mode": "explicit", "models": ("echo", "scale", "spare")},
    ) as found:
        yield found


class Speaker:
    """A client of either protocol; calls of the aio ones are awaited, and answers are plain values."""

    def __init__(self, kind, address):
        self.kind = kind
        self.module = tritonclient.http if kind.startswith("http") else tritonclient.grpc
        self.loop = asyncio.new_event_loop() if kind.endswith("aio") else None
        self.client = self._run(self._made(address))

    async def _made(self, address):
        module = self.module.aio if self.loop else self.module
        return module.InferenceServerClient(address)

    def _run(self, work):
        if self.loop is not None:
            return self.loop.run_until_complete(work)
        if inspect.isawaitable(work):
            return asyncio.run(work)
        return work

    def __getattr__(self, name):
        method = getattr(self.client, name)

        def call(*arguments, **named):
            if self.module is tritonclient.grpc and "as_json" in inspect.signature(method).parameters:
                named["as_json"] = True
            found = method(*arguments, **named)
            return self._run(found) if inspect.isawaitable(found) else found

        return call

    def input(self, name, array, datatype=None, **options):
        datatype = datatype or tritonclient.utils.np_to_triton_dtype(array.dtype)
        return self.module.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, **options)

    def output(self, name, **options):
        return self.module.InferRequestedOutput(name, **options)

    def close(self):
        self._run(self.client.close())
        if self.loop is not None:
            self.loop.close()


@pytest.fixture(params=SPEAKERS)
def speaker(request, server):
    found = Speaker(request.param, server.address(0 if request.param.startswith("http") else 1))
    yield found
    found.close()


@pytest.fixture(params=SPEAKERS)
def admin(request, server):
    found = Speaker(request.param, server.address(2 if request.param.startswith("http") else 3))
    yield found
    found.close()


def refused(codes):
    return pytest.raises(InferenceServerException, check=lambda error: error.status() in codes)


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_health(speaker):
    assert speaker.is_server_live() is True
    assert speaker.is_server_ready() is True
    assert speaker.is_model_ready("scale") is True
    assert speaker.is_model_ready("scale", "1") is True


def test_health_of_what_is_not_there(speaker):
    if speaker.module is tritonclient.http:
        assert speaker.is_model_ready("nothing") is False
    else:
        with refused(MISSING):
            speaker.is_model_ready("nothing")


def test_server_metadata(speaker):
    found = speaker.get_server_metadata()
    assert found["name"] == "graphc"
    assert {"binary_tensor_data", "model_configuration", "system_shared_memory"} <= set(found["extensions"])
    assert "cuda_shared_memory" not in found["extensions"] and "sequence" not in found["extensions"]


def test_model_metadata(speaker):
    found = speaker.get_model_metadata("scale")
    assert found["versions"] == ["1"]
    ((x,), (y,)) = found["inputs"], found["outputs"]
    assert (x["name"], x["datatype"], [int(n) for n in x["shape"]]) == ("x", "FP32", [-1, 3])
    assert y["name"] == "y"
    with refused(MISSING):
        speaker.get_model_metadata("scale", "7")


def test_model_config(speaker):
    found = speaker.get_model_config("scale")
    config = found.get("config", found)
    assert config["name"] == "scale" and config["max_batch_size"] == 8
    assert config["input"][0]["data_type"] == "TYPE_FP32" and list(map(int, config["input"][0]["dims"])) == [3]
    assert "dynamic_batching" in config and config["parameters"]["batch_sizes"]["string_value"] == "1,2,4,8"


def test_statistics_count(speaker):
    def counted():
        (found,) = speaker.get_inference_statistics("scale", "1")["model_stats"]
        return int(found.get("inference_count", 0)), int(found["inference_stats"]["success"].get("count", 0))

    rows, requests = counted()
    speaker.infer("scale", [speaker.input("x", X)])
    assert counted() == (rows + 2, requests + 1)
    assert {each["name"] for each in speaker.get_inference_statistics()["model_stats"]} >= {"scale", "echo"}


def test_infer(speaker):
    result = speaker.infer(
        "scale",
        [speaker.input("x", X)],
        model_version="1",
        outputs=[speaker.output("y")],
        request_id="mine",
        priority=1,
        timeout=10_000_000,
        parameters={"custom": 3},
    )
    np.testing.assert_array_equal(result.as_numpy("y"), X * 2 + 1)
    response = result.get_response()
    found = response if isinstance(response, dict) else {"id": response.id, "model_version": response.model_version}
    assert found["id"] == "mine" and found["model_version"] == "1"


@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype(speaker, binary):
    inputs, wanted = [], {}
    for name in ECHOED:
        array = np.array([[1, 0], [3, 2]]).astype(bool if name == "BOOL" else numpy_of(name))
        if name == "BYTES":
            array = np.array([["", "é"], ["a" * 300, "b"]], object)
        options = {} if speaker.module is tritonclient.grpc else {"binary_data": binary or name == "BF16"}
        inputs.append(speaker.input(f"x_{name}", array, **options))
        wanted[f"y_{name}"] = array
    options = {} if speaker.module is tritonclient.grpc else {"binary_data": binary}
    result = speaker.infer("echo", inputs, outputs=[speaker.output(name, **options) for name in wanted])
    for name, array in wanted.items():
        found = result.as_numpy(name)
        if array.dtype == object:
            found = np.array([[i.decode() if isinstance(i, bytes) else i for i in row] for row in found], object)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(speaker, algorithm):
    inputs = [speaker.input(f"x_{name}", np.zeros((1, 2), numpy_of(name))) for name in ECHOED if name != "BYTES"]
    inputs.append(speaker.input("x_BYTES", np.full((1, 2), "a" * 4000, object)))
    options = {"compression_algorithm": algorithm}
    if speaker.module is tritonclient.http:
        options = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    result = speaker.infer("echo", inputs, outputs=[speaker.output("y_BYTES")], **options)
    assert result.as_numpy("y_BYTES").tolist() == [[b"a" * 4000] * 2]


def test_classification(speaker):
    result = speaker.infer("scale", [speaker.input("x", X)], outputs=[speaker.output("y", class_count=2)])
    found = [text.decode() for text in result.as_numpy("y").ravel()]
    if speaker.module is tritonclient.http:
        assert found == ["5.000000:2", "3.000000:1", "11.000000:2", "9.000000:1"]


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"model_name": "nothing"}, MISSING),
        ({"model_version": "9"}, MISSING),
        ({"shape": (2, 4)}, BAD),
        ({"shape": (9, 3)}, BAD),
        ({"shape": (3,)}, BAD),
        ({"dtype": np.float64}, BAD),
        ({"input": "z"}, BAD),
        ({"output": "z"}, BAD),
    ],
)
def test_codes(speaker, change, codes):
    x = np.zeros(change.get("shape", (2, 3)), change.get("dtype", np.float32))
    with refused(codes):
        speaker.infer(
            change.get("model_name", "scale"),
            [speaker.input(change.get("input", "x"), x)],
            model_version=change.get("model_version", ""),
            outputs=[speaker.output(change.get("output", "y"))],
        )


def test_repository(server, admin):
    index = {each["name"]: each for each in _models(admin.get_model_repository_index())}
    assert index["scale"]["state"] == "READY"
    admin.load_model("spare")
    assert admin.is_model_ready("spare")
    admin.unload_model("spare")
    assert admin.is_model_ready("spare") is False
    admin.load_model("spare")
    assert admin.is_model_ready("spare")


def test_load_takes_no_files(admin):
    with refused(FORBIDDEN):
        admin.load_model("spare", config="{}", files={"file:1/model.graphc": b"code"})
    for name in ("..", "nothing"):
        with refused(MISSING):
            admin.load_model(name)


def test_control_is_off_where_it_was_not_asked_for(speaker):
    for call in (speaker.load_model, speaker.unload_model):
        with refused(FORBIDDEN):
            call("scale")
    with refused(FORBIDDEN):
        speaker.update_log_settings({"log_info": False})
    with refused(FORBIDDEN):
        speaker.update_trace_settings(settings={"trace_rate": "2"})
    assert speaker.is_model_ready("scale")


def test_log_settings(admin):
    logger = logging.getLogger("graphc")
    before = logger.level
    try:
        admin.update_log_settings({"log_info": True, "log_verbose_level": 1})
        assert _settings(admin.get_log_settings())["log_verbose_level"] == 1
        assert logger.getEffectiveLevel() == logging.DEBUG
        with refused(FORBIDDEN):
            admin.update_log_settings({"log_file": "/etc/passwd"})
        with refused(BAD):
            admin.update_log_settings({"nonsense": True})
    finally:
        logger.setLevel(before)


def test_trace_settings(admin):
    found = _settings(admin.get_trace_settings())
    assert found["trace_level"] == ["OFF"]
    admin.update_trace_settings(model_name="scale", settings={"trace_rate": "50", "trace_level": ["OFF"]})
    assert _settings(admin.get_trace_settings(model_name="scale"))["trace_rate"] in ("50", ["50"])
    admin.update_trace_settings(model_name="scale", settings={"trace_rate": None})
    assert _settings(admin.get_trace_settings(model_name="scale"))["trace_rate"] in ("1", ["1"])
    with refused(FORBIDDEN):
        admin.update_trace_settings(settings={"trace_file": "/tmp/x"})
    with refused(UNSUPPORTED):
        admin.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    with refused(MISSING):
        admin.get_trace_settings(model_name="nothing")


def test_system_shared_memory(speaker):
    key = f"/graphc-test-{uuid.uuid4().hex}"
    region = shared_memory.create_shared_memory_region("mine", key, 64)
    try:
        shared_memory.set_shared_memory_region(region, [X])
        speaker.register_system_shared_memory("mine", key, 64)
        (status,) = _regions(speaker.get_system_shared_memory_status())
        assert (status["name"], status["key"], int(status["byte_size"])) == ("mine", key, 64)
        x = speaker.module.InferInput("x", [2, 3], "FP32")
        x.set_shared_memory("mine", 24)
        y = speaker.output("y")
        y.set_shared_memory("mine", 24, offset=32)
        result = speaker.infer("scale", [x], outputs=[y])
        assert result.get_output("y") is not None
        np.testing.assert_array_equal(shared_memory.get_contents_as_numpy(region, np.float32, [2, 3], 32), X * 2 + 1)
        y.set_shared_memory("mine", 8, offset=32)
        with refused(BAD):
            speaker.infer("scale", [x], outputs=[y])
        speaker.unregister_system_shared_memory("mine")
        assert not _regions(speaker.get_system_shared_memory_status())
        with refused(BAD):
            speaker.infer("scale", [x])
        with refused(BAD):
            speaker.register_system_shared_memory("mine", "../../etc/passwd", 1)
    finally:
        speaker.unregister_system_shared_memory()
        shared_memory.destroy_shared_memory_region(region)


def test_cuda_shared_memory(speaker):
    assert not _regions(speaker.get_cuda_shared_memory_status())
    with refused(UNSUPPORTED):
        speaker.register_cuda_shared_memory("mine", b"aGFuZGxl", 0, 64)
    speaker.unregister_cuda_shared_memory()


def test_async_infer(server):
    with tritonclient.http.InferenceServerClient(server.address(0), concurrency=4) as client:
        inputs = [tritonclient.http.InferInput("x", [2, 3], "FP32").set_data_from_numpy(X)]
        for request in [client.async_infer("scale", inputs) for _ in range(8)]:
            np.testing.assert_array_equal(request.get_result().as_numpy("y"), X * 2 + 1)
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(server.address(1)) as client:
        inputs = [tritonclient.grpc.InferInput("x", [2, 3], "FP32").set_data_from_numpy(X)]
        for _ in range(8):
            client.async_infer("scale", inputs, callback=lambda result, error: answers.put((result, error)))
        for _ in range(8):
            result, error = answers.get(timeout=10)
            assert error is None
            np.testing.assert_array_equal(result.as_numpy("y"), X * 2 + 1)


def test_stream(server):
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(server.address(1)) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(100):
            x = np.full((1, 3), number, np.float32)
            inputs = [tritonclient.grpc.InferInput("x", [1, 3], "FP32").set_data_from_numpy(x)]
            client.async_stream_infer("nothing" if number == 50 else "scale", inputs, request_id=str(number))
        for number in range(100):
            result, error = answers.get(timeout=10)
            if number == 50:
                assert "no model 'nothing'" in str(error)
                continue
            assert error is None and result.get_response().id == str(number)
            assert result.get_response().parameters["triton_final_response"].bool_param
            np.testing.assert_array_equal(result.as_numpy("y"), np.full((1, 3), 2 * number + 1, np.float32))
        client.stop_stream()


def test_stream_that_is_cancelled_leaves_nothing(server):
    with tritonclient.grpc.InferenceServerClient(server.address(1)) as client:
        client.start_stream(lambda result, error: None)
        for _ in range(200):
            inputs = [tritonclient.grpc.InferInput("x", [2, 3], "FP32").set_data_from_numpy(X)]
            client.async_stream_infer("scale", inputs)
        client.stop_stream(cancel_requests=True)
        result = client.infer("scale", inputs)
        np.testing.assert_array_equal(result.as_numpy("y"), X * 2 + 1)
    (found,) = server.do(_statistics(server, "scale"))
    assert found.pending == 0


def test_aio_stream(server):
    async def talk():
        async def requests():
            for number in range(5):
                x = np.full((1, 3), number, np.float32)
                inputs = [tritonclient.grpc.InferInput("x", [1, 3], "FP32").set_data_from_numpy(x)]
                yield {"model_name": "scale", "inputs": inputs, "request_id": str(number)}

        async with tritonclient.grpc.aio.InferenceServerClient(server.address(1)) as client:
            return [(result, error) async for result, error in client.stream_infer(requests())]

    found = asyncio.run(talk())
    assert [result.as_numpy("y")[0, 0] for result, error in found if error is None] == [1, 3, 5, 7, 9]


def test_typed_contents_without_raw_ones(server):
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpcio.insecure_channel(server.address(1)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="scale")
        request.inputs.add(name="x", datatype="FP32", shape=[2, 3]).contents.fp32_contents.extend(X.ravel().tolist())
        found = stub.ModelInfer(request)
        np.testing.assert_array_equal(np.frombuffer(found.raw_output_contents[0], np.float32), (X * 2 + 1).ravel())
        request.inputs[0].contents.fp32_contents.append(1)
        with pytest.raises(grpcio.RpcError, check=lambda error: error.code() is grpcio.StatusCode.INVALID_ARGUMENT):
            stub.ModelInfer(request)


def test_health_and_reflection_of_grpc(server):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpcio.insecure_channel(server.address(1)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService", "scale"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
        with pytest.raises(grpcio.RpcError, check=lambda error: error.code() is grpcio.StatusCode.NOT_FOUND):
            stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert next(stub.Watch(health_pb2.HealthCheckRequest())).status == 1
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert "inference.GRPCInferenceService" in services


async def _statistics(server, name):
    return server.server.statistics(name)


def _models(index):
    return index if isinstance(index, list) else index["models"]


def _regions(status):
    return status if isinstance(status, list) else list(status.get("regions", {}).values())


def _settings(found):
    """The settings as HTTP has them, of either protocol's answer."""
    if "settings" not in found:
        return found
    values = {}
    for key, setting in found["settings"].items():
        values[key] = next(iter(setting.values())) if setting else []
    return values
