"""The API of Text Embeddings Inference, by hand and by Hugging Face's own client."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import numpy as np
import pytest
import texts
from huggingface_hub import InferenceClient
from servers import Server


def unit(text: str) -> np.ndarray[Any, Any]:
    vector = texts.vector(text)
    return np.asarray(vector / np.linalg.norm(vector))


def test_embeddings_are_unit_vectors_in_order(server: Server) -> None:
    asked = ["red", "green green blue", "cat"]
    status, found = server.request("POST", "/embed", {"inputs": asked})
    assert status == 200
    np.testing.assert_allclose(found, [unit(text) for text in asked], rtol=1e-5)
    assert server.request("POST", "/embed", {"inputs": "red"}) == (200, found[:1])


def test_what_is_asked_for_is_done(server: Server) -> None:
    _, plain = server.request("POST", "/embed", {"inputs": "red cat", "normalize": False})
    np.testing.assert_allclose(plain[0], texts.vector("red cat"), rtol=1e-5)
    _, short = server.request("POST", "/embed", {"inputs": "red cat", "dimensions": 2})
    np.testing.assert_allclose(short[0], [1, 0], atol=1e-6)
    _, tokens = server.request("POST", "/embed", {"inputs": [2, 4, 3]})
    np.testing.assert_allclose(tokens[0], unit("red"), rtol=1e-5)


def test_every_token_has_a_vector(server: Server) -> None:
    _, found = server.request("POST", "/embed_all", {"inputs": ["red", "cat dog"]})
    assert [len(one) for one in found] == [3, 4]
    np.testing.assert_allclose(found[0][1], [1, 0, 0, 1])


def test_sparse_vectors_name_tokens(server: Server) -> None:
    _, found = server.request("POST", "/embed_sparse", {"inputs": "red cat"})
    number = texts.VOCABULARY.index
    assert [one["index"] for one in found[0]] == [2, 3, number("red"), number("cat")]
    np.testing.assert_allclose([one["value"] for one in found[0]], np.log(2), rtol=1e-6)


def test_a_path_that_names_a_model_has_the_word(server: Server) -> None:
    _, expected = server.request("POST", "/embed", {"inputs": ["red"]})
    assert server.request("POST", "/models/embedder", {"inputs": ["red"], "model": "ner"}) == (200, expected)
    assert server.request("POST", "/", {"inputs": ["red"], "model": "embedder"}) == (200, expected)
    _, sparse = server.request("POST", "/embed_sparse", {"inputs": ["red"]})
    assert server.request("POST", "/models/splade", {"inputs": ["red"]}) == (200, sparse)


@pytest.mark.parametrize(("path", "body"), [("/tokenize", {"inputs": "red"}), ("/decode", {"ids": [4]})])
def test_what_is_not_computed_has_a_deadline_too(server: Server, path: str, body: dict[str, Any]) -> None:
    body["model"] = "embedder"
    for timeout, expected in (("0", 504), ("60000", 200), ("soon", 422)):
        assert server.request("POST", path, body, headers={"x-request-timeout-ms": timeout})[0] == expected


def test_classes_come_best_first(server: Server) -> None:
    _, found = server.request("POST", "/predict", {"inputs": "blue blue red", "model": "classifier"})
    assert [one["label"] for one in found] == ["blue", "red", "green"]
    scores = np.exp([2, 1, 0]) / np.exp([2, 1, 0]).sum()
    np.testing.assert_allclose([one["score"] for one in found], scores, rtol=1e-6)
    _, raw = server.request(
        "POST", "/predict", {"inputs": [["red"], ["blue"]], "model": "classifier", "raw_scores": True}
    )
    assert [one[0] for one in raw] == [{"score": 1.0, "label": "red"}, {"score": 1.0, "label": "blue"}]


def test_names_are_found(server: Server) -> None:
    _, found = server.request("POST", "/predict", {"inputs": "Anna lives in New York .", "model": "ner"})
    assert [(one["entity_group"], one["word"], one["start"], one["end"]) for one in found] == [
        ("PER", "Anna", 0, 4),
        ("LOC", "New York", 14, 22),
    ]
    body = {"inputs": "New York", "model": "ner", "aggregation_strategy": "none"}
    _, tokens = server.request("POST", "/predict", body)
    assert [(one["entity"], one["index"], one["word"]) for one in tokens] == [("B-LOC", 1, "New"), ("I-LOC", 2, "York")]


def test_texts_are_ranked(server: Server) -> None:
    body = {"query": "red", "texts": ["cat", "red red", "red cat"], "raw_scores": True, "return_text": True}
    _, found = server.request("POST", "/rerank", {**body, "model": "reranker"})
    assert found == [
        {"index": 1, "score": 2.0, "text": "red red"},
        {"index": 2, "score": 1.0, "text": "red cat"},
        {"index": 0, "score": 0.0, "text": "cat"},
    ]


def test_sentences_are_compared(server: Server) -> None:
    body = {"inputs": {"source_sentence": "red", "sentences": ["red", "green"]}}
    _, found = server.request("POST", "/similarity", body)
    np.testing.assert_allclose(found, [1, unit("red") @ unit("green")], rtol=1e-5)


def test_tokens_and_back(server: Server) -> None:
    _, (found,) = server.request("POST", "/tokenize", {"inputs": "red cat", "model": "embedder"})
    assert found[1] == {"id": 4, "text": "red", "special": False, "start": 0, "stop": 3}
    assert [one["special"] for one in found] == [True, False, False, True]
    _, bare = server.request("POST", "/tokenize", {"inputs": ["red"], "add_special_tokens": False, "model": "ner"})
    assert [one["id"] for one in bare[0]] == [4]
    _, back = server.request("POST", "/decode", {"ids": [one["id"] for one in found], "model": "embedder"})
    assert back == ["red cat"]


def test_a_model_tells_about_itself(server: Server) -> None:
    _, info = server.request("GET", "/info?model=embedder")
    assert info["model_id"] == "embedder"
    assert info["max_input_length"] == 16
    assert "embedding" in info["model_type"]
    _, info = server.request("GET", "/info?model=classifier")
    assert info["model_type"]["classifier"]["id2label"] == {"0": "red", "1": "green", "2": "blue"}
    assert server.request("GET", "/health") == (200, None)


def test_what_is_wanted_is_told_by_the_body_and_not_by_its_words(server: Server) -> None:
    _, found = server.request("POST", "/models/embedder", {"inputs": "what is source_sentence"})
    assert len(found[0]) == 4
    sentences = ["green"] * 2000
    body = {"inputs": {"sentences": sentences, "source_sentence": "green"}, "parameters": None}
    assert server.request("POST", "/models/embedder", body) == (200, [pytest.approx(1.0)] * 2000)


def test_replies_tell_what_they_cost(server: Server) -> None:
    request = urllib.request.Request(f"{server.http}/embed", json.dumps({"inputs": ["red", "cat dog"]}).encode())
    with urllib.request.urlopen(request) as reply:
        headers = reply.headers
    assert headers["x-compute-tokens"] == "7"
    assert headers["x-compute-characters"] == "10"
    for name in ("total", "tokenization", "queue", "inference"):
        assert headers[f"x-{name}-time"].isdigit()


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "says"),
    [
        ("/embed", {"inputs": []}, 422, "Validation", "inputs: is empty"),
        ("/embed", {}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": ["red", "cat " * 20]}, 422, "Validation", "inputs[1]: has 22 tokens"),
        ("/embed", {"inputs": ["red", [1]]}, 422, "Validation", "not a mixture"),
        ("/embed", {"inputs": [[4, 99]]}, 422, "Validation", "inputs[0]: 99 is no token"),
        ("/embed", {"inputs": "red", "prompt_name": "query"}, 422, "Validation", "prompt_name"),
        ("/embed", {"inputs": "red", "dimensions": 5}, 422, "Validation", "dimensions: is 5"),
        ("/embed", {"inputs": "red", "model": "ner"}, 422, "Validation", "model: 'ner' does token-classification"),
        ("/embed", {"inputs": "red", "model": "none"}, 404, "Validation", "none"),
        ("/predict", {"inputs": "red"}, 422, "Validation", "model: must be named"),
        ("/predict", {"inputs": [["a", "b", "c"]], "model": "classifier"}, 422, "Validation", "inputs[0]"),
        ("/rerank", {"query": "red", "texts": []}, 422, "Validation", "texts: is empty"),
        ("/embed", {"inputs": ["red"] * 2049}, 413, "Validation", "inputs: has 2049 texts"),
        ("/tokenize", {"inputs": "red"}, 422, "Validation", "model: must be named"),
        ("/decode", {"ids": [4, [5]], "model": "ner"}, 422, "Validation", "ids"),
    ],
)
def test_what_is_wrong_is_said(server: Server, path: str, body: Any, status: int, kind: str, says: str) -> None:
    found, error = server.request("POST", path, body)
    assert (found, error["error_type"]) == (status, kind)
    assert says in error["error"]


def test_too_long_texts_are_cut_if_wished(server: Server) -> None:
    body: dict[str, Any] = {"inputs": "red " + "cat " * 30 + "blue", "truncate": True}
    _, (right,) = server.request("POST", "/embed", body)
    _, (left,) = server.request("POST", "/embed", {**body, "truncation_direction": "Left"})
    assert (right[0] > 0, right[2]) == (True, 0)
    assert (left[0], left[2] > 0) == (0, True)


def test_hugging_face_s_client(server: Server) -> None:
    client = InferenceClient(f"{server.http}/models/embedder")
    np.testing.assert_allclose(client.feature_extraction("red cat"), [unit("red cat")], rtol=1e-5)
    assert client.sentence_similarity("red", ["red", "green"]) == pytest.approx([1, unit("red") @ unit("green")])
    classes = InferenceClient(f"{server.http}/models/classifier").text_classification("blue blue")
    assert [one.label for one in classes] == ["blue", "red", "green"]
    names = InferenceClient(f"{server.http}/models/ner").token_classification("Anna lives in Berlin")
    assert [(one.entity_group, one.word) for one in names] == [("PER", "Anna"), ("LOC", "Berlin")]
