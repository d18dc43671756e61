"""OpenAI's API by OpenAI's own client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import texts
from servers import Server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def unit(text: str) -> np.ndarray[Any, Any]:
    vector = texts.vector(text)
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_embeddings(client: openai.OpenAI, form: Any) -> None:
    more = {"encoding_format": form} if form else {}
    reply = client.embeddings.create(input=["red", "green blue"], model="embedder", **more)
    assert [one.index for one in reply.data] == [0, 1]
    given: list[Any] = [one.embedding for one in reply.data]
    values = [np.frombuffer(base64.b64decode(one), "<f4") if isinstance(one, str) else one for one in given]
    np.testing.assert_allclose(values, [unit("red"), unit("green blue")], rtol=1e-5)
    assert reply.model == "embedder"
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (7, 7)


def test_one_text_tokens_and_fewer_dimensions(client: openai.OpenAI) -> None:
    (one,) = client.embeddings.create(input="red", model="embedder").data
    (tokens,) = client.embeddings.create(input=[2, 4, 3], model="embedder").data
    (nested,) = client.embeddings.create(input=[[2, 4, 3]], model="embedder").data
    assert one.embedding == tokens.embedding == nested.embedding
    (short,) = client.embeddings.create(input="red", model="embedder", dimensions=2).data
    np.testing.assert_allclose(short.embedding, [1, 0], atol=1e-6)


async def test_the_asynchronous_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key="none") as client:
        reply = await client.embeddings.create(input="green", model="embedder/1")
        np.testing.assert_allclose(reply.data[0].embedding, unit("green"), rtol=1e-5)


def test_models(client: openai.OpenAI) -> None:
    assert {one.id for one in client.models.list()} == {"classifier", "embedder", "ner", "reranker", "splade"}
    assert client.models.retrieve("embedder").id == "embedder"
    assert client.models.retrieve("embedder/1").id == "embedder/1"
    with pytest.raises(openai.NotFoundError, match="version 2"):
        client.models.retrieve("embedder/2")


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="none") as unknown:
        client.embeddings.create(input="red", model="none")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match=r"input\[1\]: has 22 tokens") as long:
        client.embeddings.create(input=["red", "cat " * 20], model="embedder")
    assert long.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as empty:
        client.embeddings.create(input=[], model="embedder")
    assert empty.value.param == "input"
    with pytest.raises(openai.BadRequestError, match="does token-classification"):
        client.embeddings.create(input="red", model="ner")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")
