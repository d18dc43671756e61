"""Reranking, scoring and the one simple call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import texts
from servers import Server


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked(server: Server, path: str) -> None:
    body: dict[str, Any] = {"model": "reranker", "query": "red", "documents": ["cat", {"text": "red red"}, "red"]}
    status, found = server.request("POST", path, body)
    assert status == 200
    assert [(one["index"], one["relevance_score"]) for one in found["results"]] == [
        (1, pytest.approx(sigmoid(2))),
        (2, pytest.approx(sigmoid(1))),
        (0, pytest.approx(0.5)),
    ]
    assert found["usage"]["total_tokens"] == 16
    assert found["id"]
    assert found["meta"]["api_version"] == {"version": path[2]}
    assert server.request("POST", path, {**body, "query": {"text": "red"}, "return_documents": None})[0] == 200
    _, best = server.request("POST", path, {**body, "top_n": 1, "return_documents": True})
    assert [(one["index"], one["document"]) for one in best["results"]] == [(1, {"text": "red red"})]


def test_scores(server: Server) -> None:
    _, found = server.request("POST", "/score", {"model": "reranker", "text_1": "x", "text_2": ["red", "cat"]})
    assert [one["score"] for one in found["data"]] == pytest.approx([sigmoid(1), 0.5])
    _, cosine = server.request(
        "POST", "/score", {"model": "embedder", "text_1": ["red", "red"], "text_2": ["red", "cat"]}
    )
    one, other = texts.vector("red"), texts.vector("cat")
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert [one["score"] for one in cosine["data"]] == pytest.approx([1, expected])


def test_one_call_for_every_task(server: Server) -> None:
    def ask(model: str, given: Any, **parameters: Any) -> Any:
        status, found = server.request(
            "POST", "/v1/inference", {"model_id": model, "input": given, "parameters": parameters}
        )
        assert status == 200, found
        return found["output"]

    assert len(ask("embedder", "red")) == 4
    assert np.shape(ask("embedder", ["red", "blue"], dimensions=3)) == (2, 3)
    assert ask("classifier", "green")[0]["label"] == "green"
    assert ask("ner", ["Anna", "cat"])[0][0]["entity_group"] == "PER"
    assert ask("ner", ["Anna", "cat"])[1] == []
    assert ask("reranker", [["x", "red"], {"text": "x", "text_pair": "cat"}]) == pytest.approx([sigmoid(1), 0.5])
    assert ask("splade", "red")["indices"] == [2, 3, 4]
    np.testing.assert_allclose(ask("embedder", "red cat", normalize=False), texts.vector("red cat"), rtol=1e-5)
    assert [one["score"] for one in ask("classifier", {"text": "red red"}, raw_scores=True)] == [2, 0, 0]
    tokens = ask("ner", "New York", aggregation_strategy="none")
    assert [(one["entity"], one["index"]) for one in tokens] == [("B-LOC", 1), ("I-LOC", 2)]
    assert ask("reranker", {"text": "x", "text_pair": "red"}, raw_scores=True) == 1


def test_long_texts_are_cut_for_scores_if_wished(server: Server) -> None:
    body = {"model": "embedder", "text_1": "red " * 30, "text_2": "red"}
    assert server.request("POST", "/score", body)[0] == 400
    status, found = server.request("POST", "/score", {**body, "truncate_prompt_tokens": -1})
    assert (status, len(found["data"])) == (200, 1)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/rerank", {"query": "a", "documents": []}, 400, "documents: is empty"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0, "model": "reranker"}, 400, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "model": "embedder"}, 400, "does embedding"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a"], "model": "reranker"}, 400, "text_2: has 1 texts"),
        ("/v1/inference", {"model_id": "embedder", "input": 3}, 400, "input: expected"),
        ("/v1/inference", {"model_id": "embedder", "input": ["a", 3]}, 400, "input[1]"),
        ("/v1/inference", {"model_id": "embedder", "input": "a", "parameters": {"truncate": 3}}, 400, "truncate"),
        ("/v1/inference", {"model_id": "reranker", "input": ["a", "b"]}, 400, "send pairs"),
        ("/v1/inference", {"model_id": "ner", "input": [["a", "b"]]}, 400, "pairs cannot be tagged"),
        ("/v1/inference", {"model_id": "splade", "input": "a", "parameters": {"dimensions": 0}}, 400, "dimensions"),
        ("/v1/inference", {"input": "a"}, 400, "model_id"),
        ("/v1/inference", {"model_id": "none", "input": "a"}, 404, "none"),
    ],
)
def test_what_is_wrong_is_said(server: Server, path: str, body: Any, status: int, says: str) -> None:
    found, error = server.request("POST", path, body)
    assert found == status
    assert says in error["error"]
