import json
from pathlib import Path

import numpy as np
import pytest
from loadtests.compare.contestants import (
    TUNED,
    Contestant,
    Setting,
    contestants,
    described,
    embedding,
    grid,
    request,
    start,
    token_ids,
)

from sluice.bench.address import Address
from sluice.pb import inference_pb2

EVERY = contestants()
each_contestant = pytest.mark.parametrize("contestant", EVERY, ids=lambda each: each.name)


def setting(tmp_path: Path) -> Setting:
    model = tmp_path / "minilm" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"a model")
    (tmp_path / "minilm" / "model.toml").write_text("")
    return Setting(model, workers=3, target=0.3, folder=tmp_path / "run")


def test_every_peer_enters_with_its_batching_and_without() -> None:
    names = [each.name for each in EVERY]
    assert len(set(names)) == len(names) == 1 + 2 * len(TUNED)
    for peer in TUNED:
        on, off = (each for each in EVERY if each.peer == peer)
        assert on.batching == TUNED[peer]
        assert off.batching is None
        assert described(on, 0.3) != described(off, 0.3)


@pytest.mark.parametrize("peer", TUNED)
def test_what_a_peer_is_set_to_is_one_of_what_tuning_tries(peer: str) -> None:
    assert TUNED[peer] in grid(peer, target=0.3)


@each_contestant
def test_a_server_is_started_with_the_workers_and_port_of_the_run(
    contestant: Contestant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_SERVER_HOST", "elsewhere")
    run = setting(tmp_path)
    how = start(contestant, run, [4001, 4002, 4003])
    assert how.address.port == 4001
    assert how.environment["OMP_NUM_THREADS"] == "1"
    assert not any(name.startswith("SLUICE_") for name in how.environment)
    told = " ".join([*how.command, *how.environment.values(), *_written(how.folder)])
    assert "4001" in told
    assert "3" in told
    assert (str(run.model) in told) is not contestant.ours


def _written(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".pbtxt")]


@pytest.mark.parametrize("contestant", [each for each in EVERY if each.scheme == "grpc"], ids=lambda each: each.name)
def test_a_grpc_request_carries_the_token_ids(contestant: Contestant) -> None:
    message = inference_pb2.ModelInferRequest.FromString(request(contestant, Address("grpc", "127.0.0.1", 1), 20))
    assert message.raw_input_contents[0].endswith(token_ids(20).tobytes())


@pytest.mark.parametrize("contestant", [each for each in EVERY if each.scheme == "http"], ids=lambda each: each.name)
def test_an_http_request_carries_the_token_ids(contestant: Contestant) -> None:
    head, _, body = request(contestant, Address("http", "127.0.0.1", 81), 20).partition(b"\r\n\r\n")
    assert b"Host: 127.0.0.1:81" in head
    found = json.loads(body)["texts"][0] if b"json" in head else np.frombuffer(body, "<i8").tolist()
    assert found == token_ids(20).tolist()


def test_an_answer_is_read_from_raw_bytes_typed_contents_and_json() -> None:
    by_name = {each.name: each for each in EVERY}
    floats = np.array([0.5, -1.5], "<f4")
    raw = inference_pb2.ModelInferResponse(raw_output_contents=[floats.tobytes()])
    typed = inference_pb2.ModelInferResponse()
    typed.outputs.add(name="embedding").contents.fp32_contents.extend(floats)
    answers = {
        "triton-batching": raw.SerializeToString(),
        "mlserver-single": typed.SerializeToString(),
        "ray-single": floats.tobytes(),
        "bentoml-batching": b"[[0.5, -1.5]]",
    }
    for name, answer in answers.items():
        assert embedding(by_name[name], answer).tolist() == floats.tolist()
