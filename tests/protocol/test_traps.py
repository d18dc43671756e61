"""What breaks real clients when a server gets it wrong, each shown as it stands on the wire."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import graphs
import grpc
import numpy as np
import pytest
import tritonclient.http
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc import StatusCode
from servers import Server, end, launch
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import deserialize_bytes_tensor
from wires import SERVICE, Ask, Input, call, channel, connect, http_call, method_of, read_reply, send_raw, tokens

GOOD = tokens(1, 2, 3)
FLOATS = Ask("floats", (Input("INPUT0", "FP32", (1, 2), (0.5, 1.5)),))
HALVES = ("FP16", "BF16")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("traps") / "models"
    graphs.tagger(root)
    graphs.tagger(root, "a+b@c:1")
    graphs.identity(root, "floats")
    graphs.identity(root, "halves", HALVES)
    graphs.identity(root, "flags", ("BOOL", "BYTES"))
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    running = launch(repository, repository.parent / "log")
    yield running
    end(running)


@pytest.fixture
def region(server: Server) -> Iterator[Any]:
    """Shared memory of 64 bytes, registered as `trap`."""
    memory = SharedMemory(create=True, size=64)
    call(server, "SystemSharedMemoryRegister",
         pb.SystemSharedMemoryRegisterRequest(name="trap", key=f"/{memory.name}", byte_size=64))  # fmt: skip
    yield memory
    call(server, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="trap"))
    memory.close()
    memory.unlink()


def typed(ask: Ask) -> Any:
    """The request with its INT64 data in typed contents instead of raw ones."""
    message = ask.message()
    del message.raw_input_contents[:]
    for tensor, given in zip(message.inputs, ask.inputs, strict=True):
        tensor.contents.int64_contents.extend(given.data)
    return message


def refusal(server: Server, method: str, message: Any, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(server, method, message, metadata=metadata)
    return caught.value


def infer_json(server: Server, ask: Ask) -> Any:
    reply = http_call(server, "POST", ask.path(), ask.json())
    assert reply.status == 200, reply.body
    return reply.json


def test_trap_1_grpc_answers_raw_even_to_typed_contents(server: Server) -> None:
    """tritonclient.grpc reads nothing but raw_output_contents."""
    reply = call(server, "ModelInfer", typed(GOOD))
    assert [np.frombuffer(raw, np.int64).tolist() for raw in reply.raw_output_contents] == [[2, 4, 6], [12]]
    assert not any(output.HasField("contents") for output in reply.outputs)


def test_trap_2_raw_and_typed_contents_do_not_mix(server: Server) -> None:
    message = typed(GOOD)
    message.raw_input_contents.append(GOOD.inputs[1].raw())
    error = refusal(server, "ModelInfer", message)
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert "'input_ids'" in error.details()


def test_trap_2_raw_contents_skip_tensors_in_shared_memory(server: Server, region: Any) -> None:
    """The first raw entry belongs to the second input when the first lies in shared memory."""
    ids, mask = GOOD.inputs
    region.buf[8:32] = ids.raw()
    message = GOOD.message()
    del message.raw_input_contents[:]
    message.inputs[0].parameters["shared_memory_region"].string_param = "trap"
    message.inputs[0].parameters["shared_memory_offset"].int64_param = 8
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 24
    message.raw_input_contents.append(mask.raw())
    assert np.frombuffer(call(server, "ModelInfer", message).raw_output_contents[1], np.int64) == 12


def test_trap_3_the_parameter_that_the_cpp_client_always_sends(server: Server) -> None:
    """triton_enable_empty_final_response is accepted on every request, another triton_ parameter is not."""
    for wanted in (False, True):
        ask = replace(GOOD, parameters={"triton_enable_empty_final_response": wanted})
        assert call(server, "ModelInfer", ask.message()).outputs
        assert infer_json(server, ask)["outputs"]
    error = refusal(server, "ModelInfer", replace(GOOD, parameters={"triton_other": True}).message())
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert "triton_other" in error.details()


def test_trap_4_reserved_parameters_in_each_type_they_come_in(server: Server) -> None:
    message = GOOD.message()
    message.parameters["priority"].uint64_param = 1
    message.parameters["timeout"].int64_param = 60_000_000
    message.parameters["sequence_id"].int64_param = 7
    message.parameters["sequence_start"].bool_param = True
    message.parameters["sequence_end"].bool_param = False
    assert call(server, "ModelInfer", message).outputs
    message.parameters["priority"].int64_param = 1
    message.parameters["sequence_id"].string_param = "seven"
    assert call(server, "ModelInfer", message).outputs
    parameters = {"priority": 1, "timeout": 60_000_000, "sequence_id": "seven", "sequence_start": True}
    assert infer_json(server, replace(GOOD, parameters={**parameters, "own": 1.5, "mine": "x"}))["outputs"]


def test_trap_5_http_outputs_have_parameters_only_with_binary_data_size(server: Server, region: Any) -> None:
    """Clients take any parameters object of an output for one that has the size of binary data in it."""
    place = {"shared_memory_region": "trap", "shared_memory_byte_size": 8}
    ask = replace(GOOD, outputs=(("tokens", {"binary_data": False}), ("total", place)))
    tokens_in_json, total_in_memory = infer_json(server, ask)["outputs"]
    assert "parameters" not in tokens_in_json
    assert set(total_in_memory) == {"name", "datatype", "shape"}
    assert struct.unpack("<q", region.buf[:8]) == (12,)
    reply = http_call(server, "POST", GOOD.path(), replace(GOOD, outputs=(("total", {"binary_data": True}),)).json())
    text = reply.body[: int(reply.headers["inference-header-content-length"])]
    assert json.loads(text)["outputs"][0]["parameters"] == {"binary_data_size": 8}


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_trap_6_header_length_counts_before_compression(server: Server, encoding: str) -> None:
    """The header comes with plain JSON too, its value and all offsets are those of the inflated body, and `deflate`
    is zlib's format. The reply works alike."""
    wide = Input("INPUT0", "FP32", (1, 600), tuple(range(600)))
    request: Any = {"name": wide.name, "datatype": wide.datatype, "shape": wide.shape}
    as_json = json.dumps({"inputs": [{**request, "data": wide.data}]}).encode()
    parameters = {"binary_data_output": True}
    request["parameters"] = {"binary_data_size": len(wide.raw())}
    as_binary = json.dumps({"inputs": [request], "parameters": parameters}).encode()
    for text, rest in ((as_json, b""), (as_binary, wide.raw())):
        headers = {"Inference-Header-Content-Length": str(len(text)), "Accept-Encoding": encoding}
        body = text + rest
        if encoding:
            headers["Content-Encoding"] = encoding
            body = zlib.compress(body, wbits=31 if encoding == "gzip" else 15)
        reply = http_call(server, "POST", "/v2/models/floats/infer", body, headers)
        assert reply.status == 200, reply.body
        assert reply.headers.get("content-encoding", "") == encoding
        content = zlib.decompress(reply.body, wbits=31 if encoding == "gzip" else 15) if encoding else reply.body
        if not rest:
            assert json.loads(content)["outputs"][0]["data"] == list(range(600))
        else:
            length = int(reply.headers["inference-header-content-length"])
            assert json.loads(content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 2400}
            assert content[length:] == wide.raw()


def test_trap_7_a_raw_body_is_the_only_input(server: Server) -> None:
    """Inference-Header-Content-Length: 0 means one row of the single input, and binary outputs."""
    raw = FLOATS.inputs[0].raw()
    reply = http_call(server, "POST", FLOATS.path(), raw, {"Inference-Header-Content-Length": "0"})
    length = int(reply.headers["inference-header-content-length"])
    (output,) = json.loads(reply.body[:length])["outputs"]
    assert output == {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    assert reply.body[length:] == raw
    refused = http_call(server, "POST", GOOD.path(), raw, {"Inference-Header-Content-Length": "0"})
    assert refused.status == 400
    assert "2" in refused.json["error"]


def test_trap_8_what_the_python_http_client_means_by_saying_nothing(server: Server) -> None:
    """Without outputs it asks for all as binary data; a requested output is binary by its default; buffers follow the
    order of the JSON."""
    client = tritonclient.http.InferenceServerClient
    inputs = []
    for one in GOOD.inputs:
        inputs.append(tritonclient.http.InferInput(one.name, list(one.shape), one.datatype))
        inputs[-1].set_data_from_numpy(np.array(one.data).reshape(one.shape))
    requested = [tritonclient.http.InferRequestedOutput(name) for name in ("total", "tokens")]
    for outputs, order in ((None, ["tokens", "total"]), (requested, ["total", "tokens"])):
        body, length = client.generate_request_body(inputs, outputs)
        asked = json.loads(body[:length])
        if outputs is None:
            assert asked["parameters"] == {"binary_data_output": True}
        else:
            assert [output["parameters"] for output in asked["outputs"]] == [{"binary_data": True}] * 2
        reply = http_call(server, "POST", GOOD.path(), body, {"Inference-Header-Content-Length": str(length)})
        length = int(reply.headers["inference-header-content-length"])
        assert [output["name"] for output in json.loads(reply.body[:length])["outputs"]] == order
        numbers = np.frombuffer(reply.body[length:], np.int64).tolist()
        assert numbers == ([2, 4, 6, 12] if outputs is None else [12, 2, 4, 6])


def test_trap_9_only_200_counts_as_ready(server: Server) -> None:
    """Also at the path that one C++ client asks for the server's readiness."""
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/tagger/ready",
        "/v2/models/tagger/versions/1/ready",
    ):
        assert http_call(server, "GET", path).status == 200
    assert http_call(server, "GET", "/v2/models/broken/ready").status != 200
    assert http_call(server, "GET", "/v2/models/unknown/ready").status != 200


def test_trap_10_health_routes_have_bodies_and_replies_a_model_name(server: Server) -> None:
    """The kserve client parses both."""
    assert http_call(server, "GET", "/v2/health/live").json == {"live": True}
    assert http_call(server, "GET", "/v2/health/ready").json == {"ready": True}
    assert http_call(server, "GET", "/v2/models/tagger/ready").json == {"name": "tagger", "ready": True}
    assert http_call(server, "GET", "/v2/models/broken/ready").json == {"name": "broken", "ready": False}
    assert infer_json(server, GOOD)["model_name"] == "tagger"


@pytest.mark.parametrize("path", ["/v2/models/unknown", "/nowhere", "/v2/models/unknown/ready", "/v2/models/%ff"])
def test_trap_11_http_errors_are_json_with_an_error(server: Server, path: str) -> None:
    reply = http_call(server, "GET", path)
    assert reply.status in (400, 404)
    assert list(reply.json) == ["error"]
    assert isinstance(reply.json["error"], str)
    assert reply.headers["content-type"] == "application/json"


def test_trap_12_statistics_are_numbers_and_all_there(server: Server) -> None:
    """perf_analyzer diffs them because the extension is listed, and crashes on a field that is missing."""
    infer_json(server, GOOD)
    assert "statistics" in http_call(server, "GET", "/v2").json["extensions"]
    (statistics,) = http_call(server, "GET", "/v2/models/tagger/stats").json["model_stats"]
    assert statistics["version"] == "1"
    for name in ("last_inference", "inference_count", "execution_count"):
        assert type(statistics[name]) is int
        assert statistics[name] > 0
    phases = "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"
    assert set(statistics["inference_stats"]) == set(phases)
    for phase in phases:
        duration = statistics["inference_stats"][phase]
        assert {name: type(value) for name, value in duration.items()} == {"count": int, "ns": int}
    assert statistics["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
    (batch, *_) = statistics["batch_stats"]
    assert set(batch) == {"batch_size", "compute_input", "compute_infer", "compute_output"}


def test_trap_13_metadata_and_configuration_as_perf_analyzer_reads_them(server: Server) -> None:
    metadata = http_call(server, "GET", "/v2/models/tagger").json
    config = http_call(server, "GET", "/v2/models/tagger/config").json
    assert config["max_batch_size"] > 0
    for tensor in (*metadata["inputs"], *metadata["outputs"]):
        assert set(tensor) == {"name", "datatype", "shape"}
        assert tensor["shape"][0] == -1
    assert [tensor["name"] for tensor in config["input"]] == [tensor["name"] for tensor in metadata["inputs"]]
    assert [tensor["name"] for tensor in config["output"]] == [tensor["name"] for tensor in metadata["outputs"]]
    assert [tensor["dims"] for tensor in config["input"]] == [tensor["shape"][1:] for tensor in metadata["inputs"]]
    assert config["dynamic_batching"]
    for key in ("sequence_batching", "ensemble_scheduling"):
        assert key not in config  # their presence alone would decide
    assert not [key for key, value in config.items() if value in (None, "", [], {})]
    assert config["model_transaction_policy"] == {"decoupled": False}
    assert config["response_cache"] == {"enable": False}


def test_trap_14_unregistering_what_was_never_registered(server: Server) -> None:
    """perf_analyzer starts so, for both kinds of shared memory; then it reads the metrics port."""
    for kind in ("System", "Cuda"):
        message = getattr(pb, f"{kind}SharedMemoryUnregisterRequest")(name="")
        assert call(server, f"{kind}SharedMemoryUnregister", message).ByteSize() == 0
        assert http_call(server, "POST", f"/v2/{kind.lower()}sharedmemory/unregister").status == 200
        assert http_call(server, "POST", f"/v2/{kind.lower()}sharedmemory/region/none/unregister").status == 200
    infer_json(server, GOOD)
    assert server.metric("nv_inference_count", model="tagger") > 0


def test_trap_15_grpc_configuration_is_protobuf(server: Server) -> None:
    """In the very message type that clients bring along."""
    config = call(server, "ModelConfig", pb.ModelConfigRequest(name="tagger")).config
    assert config.name == "tagger"
    assert config.max_batch_size == 64
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [
        ("input_ids", [-1]),
        ("attention_mask", [-1]),
    ]
    assert config.input[0].data_type == model_config_pb2.TYPE_INT64
    assert config.HasField("dynamic_batching")
    assert not config.HasField("sequence_batching")
    assert not len(UnknownFieldSet(config))


def test_trap_16_bytes_and_bools_on_the_wire(server: Server) -> None:
    """BYTES elements follow their length of four bytes, a BOOL is one byte."""
    flags, texts = b"\x01\x00", struct.pack("<I", 1) + b"a" + struct.pack("<I", 3) + "bä".encode()
    message = pb.ModelInferRequest(model_name="flags", raw_input_contents=[flags, texts])
    message.inputs.add(name="INPUT0", datatype="BOOL", shape=[1, 2])
    message.inputs.add(name="INPUT1", datatype="BYTES", shape=[1, 2])
    assert list(call(server, "ModelInfer", message).raw_output_contents) == [flags, texts]


@pytest.mark.parametrize("index", range(len(HALVES)))
def test_trap_16_half_precision_is_binary_only(server: Server, index: int) -> None:
    inputs: list[dict[str, Any]] = [
        {"name": f"INPUT{number}", "datatype": datatype, "shape": [1, 2], "parameters": {"binary_data_size": 4}}
        for number, datatype in enumerate(HALVES)
    ]
    binary = {"parameters": {"binary_data_output": True}}

    def infer(body: Any, rest: bytes) -> Any:
        text = json.dumps(body).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        return http_call(server, "POST", "/v2/models/halves/infer", text + rest, headers)

    raw = b"\x00\x3c\x80\x3f" * 2
    reply = infer({"inputs": inputs, **binary}, raw)
    assert reply.body[int(reply.headers["inference-header-content-length"]) :] == raw
    refused = infer({"inputs": inputs}, raw)  # asks for JSON
    assert refused.status == 400
    assert "binary" in refused.json["error"]
    inputs[index] = {"name": f"INPUT{index}", "datatype": HALVES[index], "shape": [1, 2], "data": [1, 2]}
    refused = infer({"inputs": inputs, **binary}, raw[:4])
    assert refused.status == 400
    assert f"inputs[{index}].datatype" in refused.json["error"]


def test_trap_17_stream_errors_are_answers_unless_asked_otherwise(server: Server) -> None:
    """An error leaves the stream open; with the metadata triton_grpc_error it ends the call with a status."""
    wrong = replace(GOOD, model="unknown").message()
    wrong.id = "wrong"
    final = replace(GOOD, parameters={"triton_enable_empty_final_response": True}).message()
    final.id = "final"
    with channel(server) as opened:
        stream = opened.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
        replies = {reply.infer_response.id: reply for reply in stream(iter([wrong, final]))}
        assert "unknown model: 'unknown'" in replies["wrong"].error_message
        assert not replies["final"].error_message
        assert replies["final"].infer_response.parameters["triton_final_response"].bool_param
        ended = stream(iter([wrong]), metadata=(("triton_grpc_error", "true"),))
        with pytest.raises(grpc.RpcError) as caught:
            list(ended)
        assert caught.value.code() is StatusCode.NOT_FOUND


def test_trap_18_connections_are_kept_and_replies_are_not_chunked(server: Server) -> None:
    """The Python HTTP client understands no Transfer-Encoding and quotes model names."""
    body = json.dumps(GOOD.json()).encode()
    request = b"POST /v2/models/a%%2Bb%%40c%%3A1/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(server) as connection:
        for _ in range(3):
            connection.sendall(request + body)
            reply = read_reply(connection)
            assert reply.status == 200, reply.body
            assert reply.json["model_name"] == "a+b@c:1"
            assert "transfer-encoding" not in reply.headers
            assert int(reply.headers["content-length"]) == len(reply.body)


def test_trap_19_unavailable_is_not_to_be_tried_again(server: Server) -> None:
    """The kserve client repeats calls on UNAVAILABLE at once unless the trailing metadata forbids it."""
    error = refusal(server, "ModelInfer", replace(GOOD, model="broken").message())
    assert error.code() is StatusCode.UNAVAILABLE
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"


def test_trap_20_the_repository_over_http(server: Server, repository: Path) -> None:
    """The index is a bare array; load takes a configuration and files in base64, unload what to do with dependents."""
    rows = {row["name"]: row for row in http_call(server, "POST", "/v2/repository/index", {}).json}
    assert set(rows["tagger"]) == {"name", "version", "state", "reason"}
    assert (rows["tagger"]["version"], rows["tagger"]["state"]) == ("1", "READY")
    assert rows["broken"]["state"] == "UNAVAILABLE"
    assert "model.onnx" in rows["broken"]["reason"]
    ready = http_call(server, "POST", "/v2/repository/index", {"ready": True}).json
    assert {row["state"] for row in ready} == {"READY"}

    file = base64.b64encode((repository / "floats" / "1" / "model.onnx").read_bytes()).decode()
    parameters = {"config": json.dumps({"max_batch_size": 3}), "file:7/model.onnx": file}
    reply = http_call(server, "POST", "/v2/repository/models/sent/load", {"parameters": parameters})
    assert reply.status == 200, reply.body
    assert http_call(server, "GET", "/v2/models/sent/config").json["max_batch_size"] == 3
    assert infer_json(server, replace(FLOATS, model="sent"))["model_version"] == "7"
    unload = {"parameters": {"unload_dependents": False}}
    assert http_call(server, "POST", "/v2/repository/models/sent/unload", unload).status == 200
    assert http_call(server, "GET", "/v2/models/sent/ready").status != 200


def test_an_http_1_0_client_is_served(server: Server) -> None:
    """Its connection closes after the answer, and nothing is chunked."""
    reply = send_raw(server, b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert reply.json == {"live": True}
    assert reply.headers["connection"] == "close"


def test_bytes_outputs_can_be_read_back(server: Server) -> None:
    """What tritonclient decodes is what was sent, embedded zeros included."""
    elements = [b"", b"a\0b", "ü".encode() * 100]
    raw = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    message = pb.ModelInferRequest(model_name="flags", raw_input_contents=[b"\1\1\0", raw])
    message.inputs.add(name="INPUT0", datatype="BOOL", shape=[1, 3])
    message.inputs.add(name="INPUT1", datatype="BYTES", shape=[1, 3])
    with channel(server) as opened:
        reply = method_of(opened, "ModelInfer")(message)
    assert deserialize_bytes_tensor(reply.raw_output_contents[1]).tolist() == elements
