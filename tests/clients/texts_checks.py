"""What frameworks and clients for texts expect of a server, checked with them in an environment that lacks Sluice.

Called with the server's HTTP address; it serves the models of tests/models/texts.py.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import cohere  # type: ignore[import-not-found]
import openai
from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_core.vectorstores import InMemoryVectorStore  # type: ignore[import-not-found]
from langchain_openai import OpenAIEmbeddings  # type: ignore[import-not-found]
from llama_index.embeddings.text_embeddings_inference import (  # type: ignore[import-not-found]
    TextEmbeddingsInference,
)

TEXTS = ["red", "green blue", "cat"]
PATIENCE = 60.0  # seconds for a check that waits


def unit(text: str) -> list[float]:
    """What the embedder says: the colours that a text names, beside a constant for each token."""
    words = Counter(text.split())
    vector = [float(words[colour]) for colour in ("red", "green", "blue")] + [2.0 + sum(words.values())]
    length = sum(value * value for value in vector) ** 0.5
    return [value / length for value in vector]


def assert_near(found: list[list[float]], expected: list[list[float]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other), (one, other)
        assert all(abs(a - b) < 1e-5 for a, b in zip(one, other, strict=True)), (one, other)


# ---- LangChain


def lang_openai(http: str, **more: Any) -> OpenAIEmbeddings:
    # Without the last it would send tokens of OpenAI's own vocabulary.
    return OpenAIEmbeddings(
        model="embedder", base_url=f"{http}/v1", api_key="none", check_embedding_ctx_length=False, **more
    )


def check_langchain_openai(http: str) -> None:
    embeddings = lang_openai(http)
    assert_near(embeddings.embed_documents(TEXTS), [unit(text) for text in TEXTS])
    assert_near([embeddings.embed_query("red red")], [unit("red red")])


async def check_langchain_openai_asynchronously(http: str) -> None:
    embeddings = lang_openai(http)
    assert_near(await embeddings.aembed_documents(TEXTS), [unit(text) for text in TEXTS])
    assert_near([await embeddings.aembed_query("red red")], [unit("red red")])


def check_langchain_openai_with_fewer_dimensions(http: str) -> None:
    assert_near([lang_openai(http, dimensions=2).embed_query("red")], [[1.0, 0.0]])


def check_langchain_openai_in_many_small_requests(http: str) -> None:
    embeddings = lang_openai(http, chunk_size=2)
    assert_near(embeddings.embed_documents(TEXTS * 5), [unit(text) for text in TEXTS * 5])


def check_langchain_finds_what_is_like(http: str) -> None:
    store = InMemoryVectorStore(lang_openai(http))
    store.add_texts(["green cat", "red cat", "blue cat"])
    (found,) = store.similarity_search("red dog", k=1)
    assert found.page_content == "red cat"


# ---- LlamaIndex


def llama(http: str, **more: Any) -> TextEmbeddingsInference:
    return TextEmbeddingsInference(model_name="embedder", base_url=http, timeout=PATIENCE, **more)


def check_llamaindex(http: str) -> None:
    embeddings = llama(http)
    assert_near([embeddings.get_query_embedding("red")], [unit("red")])
    assert_near([embeddings.get_text_embedding("red cat")], [unit("red cat")])
    assert_near(embeddings.get_text_embedding_batch(TEXTS * 8), [unit(text) for text in TEXTS * 8])


async def check_llamaindex_asynchronously(http: str) -> None:
    embeddings = llama(http)
    assert_near([await embeddings.aget_query_embedding("red")], [unit("red")])
    assert_near(await embeddings.aget_text_embedding_batch(TEXTS * 8), [unit(text) for text in TEXTS * 8])


def check_llamaindex_names_its_model(http: str) -> None:
    assert_near([llama(http, endpoint="/embed?model=embedder").get_text_embedding("red")], [unit("red")])


def check_llamaindex_has_long_texts_cut(http: str) -> None:
    assert_near([llama(http).get_text_embedding("red " * 100)], [unit("red " * 14)])


def check_llamaindex_puts_instructions_before_texts(http: str) -> None:
    embeddings = llama(http, query_instruction="green", text_instruction="blue")
    assert_near([embeddings.get_query_embedding("red")], [unit("green red")])
    assert_near([embeddings.get_text_embedding("red")], [unit("blue red")])


# ---- Cohere

DOCUMENTS = ["cat", "red red", "red"]


def cohere_one(http: str) -> Any:
    return cohere.Client("none", base_url=http, timeout=PATIENCE)


def cohere_two(http: str) -> Any:
    return cohere.ClientV2("none", base_url=http, timeout=PATIENCE)


def assert_ranked(reply: Any) -> None:
    assert [one.index for one in reply.results] == [1, 2, 0]
    scores = [one.relevance_score for one in reply.results]
    assert all(abs(a - b) < 1e-5 for a, b in zip(scores, [0.880797, 0.731059, 0.5], strict=True)), scores
    assert reply.id


def check_cohere_one(http: str) -> None:
    reply = cohere_one(http).rerank(model="reranker", query="red", documents=DOCUMENTS)
    assert_ranked(reply)
    assert (reply.meta.api_version.version, reply.meta.billed_units.search_units) == ("1", 1)


def check_cohere_one_returns_documents(http: str) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    reply = cohere_one(http).rerank(model="reranker", query="red", documents=documents, top_n=1, return_documents=True)
    assert [one.document.text for one in reply.results] == ["red red"]


def check_cohere_two(http: str) -> None:
    reply = cohere_two(http).rerank(model="reranker", query="red", documents=DOCUMENTS, max_tokens_per_doc=512)
    assert_ranked(reply)
    assert reply.meta.api_version.version == "2"
    (best,) = cohere_two(http).rerank(model="reranker", query="red", documents=DOCUMENTS, top_n=1).results
    assert best.index == 1


async def check_cohere_asynchronously(http: str) -> None:
    for kind in (cohere.AsyncClient, cohere.AsyncClientV2):
        client = kind("none", base_url=http, timeout=PATIENCE)
        assert_ranked(await client.rerank(model="reranker", query="red", documents=DOCUMENTS))


def refusal(client: Any, model: str) -> Any:
    try:
        return client.rerank(model=model, query="red", documents=DOCUMENTS)
    except cohere.core.ApiError as error:
        return error


def check_cohere_errors(http: str) -> None:
    for client in (cohere_one(http), cohere_two(http)):
        for model, kind in (("none", cohere.NotFoundError), ("embedder", cohere.BadRequestError)):
            found = refusal(client, model)
            assert isinstance(found, kind), found
            assert model in found.body["message"], found.body


# ---- The clients themselves, in the versions that the frameworks bring


def check_openai(http: str) -> None:
    with openai.OpenAI(base_url=f"{http}/v1", api_key="none", max_retries=0) as client:
        reply = client.embeddings.create(model="embedder", input=TEXTS)
        assert_near([one.embedding for one in reply.data], [unit(text) for text in TEXTS])


def check_hugging_face(http: str) -> None:
    client = InferenceClient(f"{http}/models/embedder")
    assert_near(client.feature_extraction("red").tolist(), [unit("red")])
    (best, *_) = InferenceClient(f"{http}/models/classifier").text_classification("blue blue")
    assert best.label == "blue"
    (name,) = InferenceClient(f"{http}/models/ner").token_classification("Anna lives")
    assert (name.entity_group, name.word) == ("PER", "Anna")


async def check_hugging_face_asynchronously(http: str) -> None:
    async with AsyncInferenceClient(f"{http}/models/embedder") as client:
        assert_near((await client.feature_extraction("red")).tolist(), [unit("red")])


async def _bounded(work: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        await work


def run(check: Callable[[str], Any], http: str) -> str:
    """What went wrong; empty = nothing."""
    try:
        result = check(http)
        if inspect.isawaitable(result):
            asyncio.run(_bounded(result))
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> None:
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            print(json.dumps({"check": name.removeprefix("check_"), "failure": run(check, sys.argv[1])}), flush=True)


if __name__ == "__main__":
    main()
