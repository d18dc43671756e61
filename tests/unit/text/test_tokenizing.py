"""Texts to tokens: what comes out is the library's own, whoever asks at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.errors import InvalidRequest, ModelError
from sluice.text.tokenizing import MOST_CHARACTERS, MOST_TEXTS, Cut, Encoded, Options, Tokenizer, Tokenizing

WORDS = [f"word{number}" for number in range(50)]


def library() -> tokenizers.Tokenizer:
    vocabulary = {word: index for index, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made = library()
    made.enable_truncation(7)  # whatever the file says about it
    made.enable_padding()
    path.write_text(made.to_str())
    return path


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer(path)


@pytest.fixture(scope="module")
def tokenizing() -> Iterator[Tokenizing]:
    made = Tokenizing(2)
    yield made
    made.close()


def ids(results: list[Encoded | InvalidRequest]) -> list[list[int]]:
    return [one.ids.tolist() for one in results if isinstance(one, Encoded)]


texts = st.lists(st.sampled_from([*WORDS, "unknown"]), max_size=12).map(" ".join)


@settings(deadline=None)
@given(requests=st.lists(st.lists(texts, max_size=9), max_size=9))
def test_what_arrives_together_comes_out_as_if_alone(
    tokenizer: Tokenizer, tokenizing: Tokenizing, requests: list[list[str]]
) -> None:
    async def all_at_once() -> list[list[Encoded | InvalidRequest]]:
        return await asyncio.gather(*(tokenizing.encode(tokenizer, request) for request in requests))

    expected = [[library().encode(text).ids for text in request] for request in requests]
    assert [ids(results) for results in asyncio.run(all_at_once())] == expected


async def test_a_large_request_is_cut_into_slices_that_are_joined_again(
    tokenizer: Tokenizer, tokenizing: Tokenizing
) -> None:
    many = [WORDS[number % 50] for number in range(5 * MOST_TEXTS + 3)]
    long = ["word1 " * (MOST_CHARACTERS // 6 + 1) for _ in range(4)]
    small, large, huge = await asyncio.gather(
        tokenizing.encode(tokenizer, ["word3"]), tokenizing.encode(tokenizer, many), tokenizing.encode(tokenizer, long)
    )
    assert ids(small) == [[1, 6, 2]]
    assert ids(large) == [[1, 3 + number % 50, 2] for number in range(len(many))]
    assert [len(one) for one in ids(huge)] == [MOST_CHARACTERS // 6 + 3] * 4


async def test_pairs_have_types(tokenizer: Tokenizer, tokenizing: Tokenizing) -> None:
    (found,) = await tokenizing.encode(tokenizer, [("word0 word1", "word2")])
    assert isinstance(found, Encoded)
    assert found.ids.tolist() == [1, 3, 4, 2, 5, 2]
    assert found.type_ids is not None
    assert found.type_ids.tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(("direction", "left"), [("right", [1, 3, 4, 2]), ("left", [1, 6, 7, 2])])
async def test_too_long_texts_are_cut_where_wished(
    tokenizer: Tokenizer, tokenizing: Tokenizing, direction: str, left: list[int]
) -> None:
    cut = Options(Cut(4, "left" if direction == "left" else "right"))
    long, short = await tokenizing.encode(tokenizer, ["word0 word1 word2 word3 word4", "word0"], cut)
    assert isinstance(long, Encoded)
    assert isinstance(short, Encoded)
    assert (long.ids.tolist(), long.is_cut, long.windows) == (left, True, ())
    assert (short.ids.tolist(), short.is_cut) == ([1, 3, 2], False)


async def test_windows_share_tokens(tokenizer: Tokenizer, tokenizing: Tokenizing) -> None:
    (found,) = await tokenizing.encode(tokenizer, ["word0 word1 word2 word3"], Options(Cut(4, overlap=1)))
    assert isinstance(found, Encoded)
    assert [one.ids.tolist() for one in (found, *found.windows)] == [[1, 3, 4, 2], [1, 4, 5, 2], [1, 5, 6, 2]]


async def test_offsets_are_given_when_asked_for(tokenizer: Tokenizer, tokenizing: Tokenizing) -> None:
    (found,) = await tokenizing.encode(tokenizer, ["word0 é word1"], Options(offsets=True))
    assert isinstance(found, Encoded)
    assert found.offsets == ((0, 0), (0, 5), (6, 7), (8, 13), (0, 0))
    assert found.special == (True, False, False, False, True)


async def test_a_text_that_cannot_be_encoded_fails_alone(tokenizer: Tokenizer, tokenizing: Tokenizing) -> None:
    good, bad, also_good = await tokenizing.encode(tokenizer, ["word0", "\ud800", "word1"])
    assert ids([good, also_good]) == [[1, 3, 2], [1, 4, 2]]
    assert isinstance(bad, InvalidRequest)


async def test_a_request_given_up_costs_nothing_more(tokenizer: Tokenizer, tokenizing: Tokenizing) -> None:
    given_up = asyncio.create_task(tokenizing.encode(tokenizer, ["word1"] * 100_000))
    await asyncio.sleep(0)
    given_up.cancel()
    assert ids(await tokenizing.encode(tokenizer, ["word0"])) == [[1, 3, 2]]
    with pytest.raises(asyncio.CancelledError):
        await given_up


@pytest.mark.parametrize("content", ["", "{}", "no json", "\udc80"])
def test_what_is_no_tokenizer_is_said_so(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer(path)


def test_arrays_are_64_bit(tokenizer: Tokenizer) -> None:
    (found,) = tokenizer.encode(["word0"], Options())
    assert isinstance(found, Encoded)
    assert found.ids.dtype == np.int64
