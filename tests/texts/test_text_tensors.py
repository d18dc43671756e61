"""Texts as BYTES over the Open Inference Protocol, both ways, by tritonclient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import texts
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from servers import Server
from tritonclient.utils import InferenceServerException

CLIENTS = [triton_grpc, triton_http]


def asked(module: Any, *words: str, name: str = "text", shape: tuple[int, ...] | None = None) -> Any:
    tensor = module.InferInput(name, list(shape or (len(words),)), "BYTES")
    tensor.set_data_from_numpy(np.array([word.encode() for word in words], object).reshape(shape or (len(words),)))
    return tensor


def url(module: Any, server: Server) -> str:
    return server.grpc if module is triton_grpc else server.netloc


@pytest.mark.parametrize("module", CLIENTS)
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_texts_instead_of_tokens(server: Server, module: Any, shape: tuple[int, ...]) -> None:
    with module.InferenceServerClient(url(module, server)) as client:
        result = client.infer("embedder", [asked(module, "red", "cat dog", "", shape=shape)])
        expected = [texts.vector(text) for text in ("red", "cat dog", "")]
        np.testing.assert_allclose(result.as_numpy("embedding"), expected, rtol=1e-5)


@pytest.mark.parametrize("module", CLIENTS)
def test_what_has_a_length_is_filled_up(server: Server, module: Any) -> None:
    with module.InferenceServerClient(url(module, server)) as client:
        wanted = [module.InferRequestedOutput("token_embeddings")]
        found = client.infer("embedder", [asked(module, "red", "cat dog")], outputs=wanted).as_numpy("token_embeddings")
        assert found.shape == (2, 4, 4)
        np.testing.assert_allclose(found[0, :, 3], [1, 1, 1, 0])


@pytest.mark.parametrize("module", CLIENTS)
def test_pairs_and_truncation(server: Server, module: Any) -> None:
    with module.InferenceServerClient(url(module, server)) as client:
        pair = [asked(module, "x"), asked(module, "red red", name="text_pair")]
        assert client.infer("reranker", pair).as_numpy("logits").tolist() == [[2.0]]
        long = [asked(module, "red " + "cat " * 30)]
        cut = client.infer("embedder", long, parameters={"truncate": True}).as_numpy("embedding")
        assert cut[0, 0] == pytest.approx(1 / 16)


@pytest.mark.parametrize("module", CLIENTS)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("red", "cat " * 20), r"text\[1\]: has 22 tokens"),
    ],
)
def test_one_bad_text_is_named(server: Server, module: Any, words: tuple[str, ...], says: str) -> None:
    with (
        module.InferenceServerClient(url(module, server)) as client,
        pytest.raises(InferenceServerException, match=says),
    ):
        client.infer("embedder", [asked(module, *words)])


def test_texts_and_tensors_exclude_each_other(server: Server) -> None:
    body = {
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["red"]},
            {"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [4]},
        ]
    }
    status, error = server.request("POST", "/v2/models/embedder/infer", body)
    assert (status, "send either" in error["error"]) == (400, True)


def test_models_say_that_they_take_texts(server: Server) -> None:
    _, told = server.request("GET", "/v2/models/classifier")
    assert told["properties"]["text"] == "classification"


@pytest.mark.parametrize("data", [["red"] * 2049, "not even looked at"], ids=["texts", "no list"])
def test_too_many_texts_are_refused_unread(server: Server, data: Any) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2049], "data": data}
    status, said = server.request("POST", "/v2/models/embedder/infer", {"inputs": [tensor]})
    assert status == 413
    assert said["error"] == "input 'text' has 2049 elements, and at most 2048 texts come in one request"
