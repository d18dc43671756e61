"""Texts to tokens: what comes out is the library's own, whoever asks at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.errors import InternalError, InvalidRequest, ModelError
from sluice.text.tokenizing import MOST_CHARACTERS, MOST_TEXTS, MOST_WINDOWS, Options, Tokenizer, Tokenizing
from sluice.text.tokens import MOST_WINDOWS_OF_TEXT, Cut, Encoded

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


class Panic(BaseException):
    """What the library's panics are: no Exception."""


@settings(deadline=None)
@given(first=texts, second=texts, length=st.integers(4, 12), direction=st.sampled_from(["left", "right"]))
def test_pairs_are_cut_as_the_library_does_it(
    tokenizer: Tokenizer, first: str, second: str, length: int, direction: Any
) -> None:
    expected = library()
    expected.enable_truncation(length, direction=direction)
    own = expected.encode(first, second)
    (found,) = tokenizer.encode([(first, second)], Options(Cut(length, direction), offsets=True))
    assert isinstance(found, Encoded)
    assert found.type_ids is not None
    assert (found.ids.tolist(), found.type_ids.tolist()) == (own.ids, own.type_ids)
    assert (list(found.offsets), list(found.sequences)) == (own.offsets, own.sequence_ids)
    assert (found.is_cut, found.windows) == (bool(own.overflowing), ())


@settings(deadline=None)
@given(
    text=texts, first=st.none() | st.just("word7 word8"), length=st.integers(7, 12), overlap=st.integers(0, 1),
    direction=st.sampled_from(["left", "right"]),
)  # fmt: skip
def test_windows_are_those_of_the_library(
    tokenizer: Tokenizer, text: str, first: str | None, length: int, overlap: int, direction: Any
) -> None:
    expected = library()
    strategy = "longest_first" if first is None else "only_second"
    expected.enable_truncation(length, stride=overlap, direction=direction, strategy=strategy)
    own = expected.encode(text) if first is None else expected.encode(first, text)
    given = text if first is None else (first, text)
    (found,) = tokenizer.encode([given], Options(Cut(length, direction, overlap)))
    assert isinstance(found, Encoded)
    assert [one.ids.tolist() for one in (found, *found.windows)] == [one.ids for one in (own, *own.overflowing)]


def test_a_pair_is_read_in_windows_of_its_second_text(tokenizer: Tokenizer) -> None:
    cut = Options(Cut(16, overlap=6))
    long, also_long, good = tokenizer.encode(
        [("word0 " * 20, "word1 " * 40), ("word0 " * 7, "word1 " * 40), ("word0", "word1 " * 40)], cut
    )
    assert isinstance(long, InvalidRequest)
    assert "the first text has 20 tokens" in long.message
    assert isinstance(also_long, InvalidRequest)
    assert isinstance(good, Encoded)
    assert [one.ids.tolist().count(3) for one in (good, *good.windows)] == [1] * 6


def test_too_many_windows_are_refused_before_they_are_made(tokenizer: Tokenizer) -> None:
    cut = Options(Cut(4, overlap=1))
    fits, refused = tokenizer.encode(
        ["word0 " * (MOST_WINDOWS_OF_TEXT + 1), "word0 " * (MOST_WINDOWS_OF_TEXT + 2)], cut
    )
    assert isinstance(fits, Encoded)
    assert len(fits.windows) == MOST_WINDOWS_OF_TEXT - 1
    assert isinstance(refused, InvalidRequest)
    assert "at most 64" in refused.message


async def test_one_request_is_not_read_in_too_many_windows(tokenizer: Tokenizer, tokenizing: Tokenizing) -> None:
    long = "word0 " * (MOST_WINDOWS_OF_TEXT + 1)
    found = await tokenizing.encode(tokenizer, [long] * 100, Options(Cut(4, overlap=1)))
    made = [one for one in found if isinstance(one, Encoded)]
    assert sum(len(one.windows) for one in made) <= MOST_WINDOWS
    assert len(made) == MOST_WINDOWS // (MOST_WINDOWS_OF_TEXT - 1)
    assert ids(await tokenizing.encode(tokenizer, ["word0"] * 3000)) == [[1, 3, 2]] * 3000


async def test_a_panic_fails_the_text_alone(path: Path, tokenizing: Tokenizing) -> None:
    class Panicking(Tokenizer):
        """Whose library panics at one word."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            plain = self._plain

            class Library:
                def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
                    if "word9" in texts:
                        raise Panic("stride")
                    return plain.encode_batch_fast(texts, **options)

            self._plain = Library()  # type: ignore[assignment]

    good, bad = await tokenizing.encode(Panicking(path), ["word0", "word9"])
    assert ids([good]) == [[1, 3, 2]]
    assert isinstance(bad, InvalidRequest)


async def test_a_bug_is_an_internal_error(path: Path, tokenizing: Tokenizing) -> None:
    class Broken(Tokenizer):
        def encode(self, texts: Any, options: Options) -> Any:
            raise Panic("no")

    with pytest.raises(InternalError):
        await tokenizing.encode(Broken(path), ["word0"])
