"""Texts that are too long, prompts, and what an operator can say about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import texts
from servers import Server, StartServer


def embed(server: Server, text: str, model: str, **more: Any) -> Any:
    status, found = server.request("POST", "/embed", {"inputs": text, "model": model, "normalize": False, **more})
    assert status == 200, found
    return np.array(found[0])


def test_what_an_operator_says_is_done(tmp_path: Path, start_server: StartServer) -> None:
    windows = "max_length = 8\n\n[text]\noverlap = 2\nnormalize = false\n"
    texts.embedder(tmp_path, "windows", windows)
    texts.embedder(tmp_path, "left", 'max_length = 8\n\n[text]\ntruncate = "left"\n')
    prompts = '\n[text]\nprompts = { query = "red ", passage = "blue " }\ndefault_prompt = "passage"\n'
    texts.embedder(tmp_path, "prompted", prompts)
    texts.embedder(tmp_path, "pooled", '\n[text]\noutput = "token_embeddings"\npooling = "max"\n')
    server = start_server(tmp_path, "--workers", "1")

    # Six words fit; two are shared.
    words = ["red"] * 5 + ["green"] * 7
    parts = [words[0:6], words[4:10], words[8:12]]
    vectors = [texts.vector(" ".join(part)) for part in parts]
    expected = np.average(vectors, axis=0, weights=[8, 8, 6])
    np.testing.assert_allclose(embed(server, " ".join(words), "windows"), expected, rtol=1e-5)

    refused, error = server.request("POST", "/embed_all", {"inputs": " ".join(words), "model": "windows"})
    assert (refused, "has 14 tokens" in error["error"]) == (422, True)  # shared tokens would come twice
    refused, found = server.request("POST", "/embed_all", {"inputs": " ".join(words[:6]), "model": "windows"})
    assert (refused, len(found[0])) == (200, 8)

    np.testing.assert_allclose(embed(server, " ".join(words), "left"), texts.vector("green " * 6), rtol=1e-5)
    cut = embed(server, " ".join(words), "left", truncate=True)
    np.testing.assert_allclose(cut, texts.vector("green " * 6), rtol=1e-5)
    long = {"inputs": " ".join(words), "model": "left", "truncate": False}
    refused, error = server.request("POST", "/embed", long)
    assert (refused, "takes at most 8" in error["error"]) == (422, True)
    np.testing.assert_allclose(embed(server, "cat", "prompted"), texts.vector("blue cat"), rtol=1e-5)
    np.testing.assert_allclose(
        embed(server, "cat", "prompted", prompt_name="query"), texts.vector("red cat"), rtol=1e-5
    )
    np.testing.assert_allclose(embed(server, "red blue", "pooled"), [1, 0, 1, 1])


def test_prompts_are_put_before_texts_of_any_protocol(tmp_path: Path, start_server: StartServer) -> None:
    prompts = '\n[text]\nprompts = { query = "red ", passage = "blue " }\ndefault_prompt = "passage"\n'
    texts.embedder(tmp_path, "prompted", prompts)
    server = start_server(tmp_path, "--workers", "1")

    def infer(**parameters: Any) -> tuple[int, Any]:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["cat"]}
        return server.request("POST", "/v2/models/prompted/infer", {"inputs": [tensor], "parameters": parameters})

    for parameters, text in (({}, "blue cat"), ({"prompt_name": "query"}, "red cat")):
        status, found = infer(**parameters)
        assert status == 200, found
        np.testing.assert_allclose(found["outputs"][0]["data"], texts.vector(text), rtol=1e-5)
    for wrong in ("none", 3, True):
        status, error = infer(prompt_name=wrong)
        assert (status, "there are query, passage" in error["error"]) == (400, True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ('[text]\noutput = "none"\n', "text.output"),
        ('[text]\ndefault_prompt = "none"\n', "text.default_prompt"),
        ("max_length = 8\n\n[text]\noverlap = 7\n", "text.overlap"),
        ('max_length = 8\n\n[text]\ntask = "rerank"\noverlap = 4\n', "text.overlap"),
        ('[text]\npooling = "median"\n', "text.pooling"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, start_server: StartServer, settings: str, says: str) -> None:
    texts.embedder(tmp_path, "wrong", settings)
    server = start_server(tmp_path, "--workers", "1")
    _, index = server.request("POST", "/v2/repository/index", {})
    assert [row["state"] for row in index] == ["UNAVAILABLE"]
    assert says in index[0]["reason"]


def test_a_damaged_tokenizer_is_said(tmp_path: Path, start_server: StartServer) -> None:
    (texts.embedder(tmp_path, "wrong") / "1" / "tokenizer.json").write_text("{}")
    server = start_server(tmp_path, "--workers", "1")
    _, index = server.request("POST", "/v2/repository/index", {})
    assert (index[0]["state"], "tokenizer.json: is no tokenizer" in index[0]["reason"]) == ("READY", True)
    assert server.request("POST", "/embed", {"inputs": "red", "model": "wrong"})[0] == 422


def test_long_pairs_are_answered_or_refused(tmp_path: Path, start_server: StartServer) -> None:
    more = 'max_length = 16\n[text]\ntask = "rerank"\noverlap = 6\n'
    (texts.reranker(tmp_path, "windows") / "model.toml").write_text(more)
    server = start_server(tmp_path, "--workers", "1")

    def rank(query: str, *documents: str) -> tuple[int, Any]:
        body = {"model": "windows", "query": query, "documents": documents}
        return server.request("POST", "/v1/rerank", body)

    status, error = rank("red " * 20, "red", "green " * 40)
    assert status == 400
    assert "documents[0]: the first text has 20 tokens" in str(error)
    status, found = rank("blue", "green " * 39 + "red", "green")
    assert (status, [one["index"] for one in found["results"]]) == (200, [0, 1])
    status, error = rank("blue", "green", "green " * 400)
    assert (status, "documents[1]: has 404 tokens, which are 66 windows" in str(error)) == (400, True)


def test_much_is_cut_in_little_memory(tmp_path: Path, start_server: StartServer) -> None:
    (texts.reranker(tmp_path) / "model.toml").write_text('max_length = 16\n[text]\ntask = "rerank"\n')
    server = start_server(tmp_path, "--workers", "1")
    body = {"model": "reranker", "query": "green " * 20_000, "documents": ["red " * 20_000]}
    status, found = server.request("POST", "/v1/rerank", body)
    assert (status, found["usage"]["total_tokens"]) == (200, 16)
