"""Texts as a model's inputs: which of its tensors a tokenizer fills, and what a client may send instead of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sluice.errors import InvalidRequest, ModelError, TooLarge
from sluice.request import InferRequest, Parameter, Tensor, Timeline, decode_bytes
from sluice.scheduler.entry import Work
from sluice.spec import BYTES, NUMPY_TYPES, ModelSpec
from sluice.store.settings import ModelSettings
from sluice.text import profile as profiles
from sluice.text.joining import one_by_one
from sluice.text.profile import Profile, Truncation
from sluice.text.tokenizing import Options, Text, Tokenizer, Tokenizing
from sluice.text.tokens import Cut, Encoded

# What clients call the input, and that of the second text of each pair.
TEXT, PAIR = "text", "text_pair"
TOKENIZER = "tokenizer.json"

# What encoders call the tensors that a tokenizer fills.
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"

# Beyond that a text is refused unread: tokenizing it would take a second.
MOST_CHARACTERS = 1 << 20

# As many come in one request as OpenAI takes.
MOST_TEXTS = 2048

_TRUNCATE, _PROMPT = "truncate", "prompt_name"

# Beyond so many texts nobody expects an answer within the target of a single one.
FEW = 16

Direction = Literal["left", "right"]


@dataclass(slots=True)
class TextRequest(InferRequest):
    """Texts, or the tokens of texts, that a client wants to have read by a model."""

    texts: Sequence[Text] | Sequence[Sequence[int]] = ()
    truncate: Direction | None = None  # the end of a too long text that goes; None: it is refused
    overlap: int | None = None  # a too long text is read in windows that share so many tokens
    special: bool = True
    offsets: bool = False
    at: str = TEXT  # what clients call the texts, in errors


@dataclass(frozen=True, slots=True)
class TextResponse:
    """What the model says to each text."""

    model: str
    version: str
    parts: tuple[tuple[Tensor, ...], ...]  # of each text, or window of one, its outputs, as one row
    texts: Sequence[Text] | Sequence[Sequence[int]]
    encoded: tuple[Encoded, ...]  # the same as tokens
    text: TextInput
    tokens: int  # that were computed
    parameters: Mapping[str, Parameter]

    @property
    def characters(self) -> int:
        if isinstance(self.texts[0], str):
            return sum(map(len, self.texts))
        return sum(len(part) for one in self.texts for part in one if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class TextInput:
    """What a version needs to take texts."""

    tokenizer: Tokenizer
    spec: ModelSpec
    max_length: int | None  # tokens
    profile: Profile

    def is_meant(self, request: InferRequest) -> bool:
        """Whether it brings texts instead of the tensors that the model declares."""
        return any(tensor.name == TEXT for tensor in request.inputs)

    def request(self, request: InferRequest) -> TextRequest:
        """The texts among a request's tensors; raises InvalidRequest."""
        found = {tensor.name: tensor for tensor in request.inputs}
        stray = next((name for name in found if name not in (TEXT, PAIR)), None)
        if stray is not None:
            raise InvalidRequest(f"input '{stray}' is given beside '{TEXT}'; send either the text or the tensors")
        texts: list[Text] = [*_strings(found[TEXT])]
        if PAIR in found:
            second = _strings(found[PAIR])
            if len(texts) != len(second):
                raise InvalidRequest(f"input '{PAIR}' has {len(second)} elements, but '{TEXT}' has {len(texts)}")
            texts = list(zip(texts, second, strict=True))  # type: ignore[arg-type]
        elif prompt := self.prompt(request.parameters.get(_PROMPT)):
            texts = [f"{prompt}{one}" for one in texts]
        return TextRequest(
            model=request.model,
            version=request.version,
            inputs=(),
            outputs=request.outputs,
            id=request.id,
            parameters={name: value for name, value in request.parameters.items() if name not in (_TRUNCATE, _PROMPT)},
            tenant=request.tenant,
            deadline=request.deadline,
            timeline=request.timeline,
            texts=texts,
            truncate=self.profile.direction(_truncation(request.parameters.get(_TRUNCATE))),
            overlap=None,
        )

    def prompt(self, name: Parameter | None) -> str:
        """What is put before texts: the prompt of this name, or the one that is meant if none is named."""
        prompts = self.profile.prompts
        if name is None:
            return self.profile.default_prompt
        if isinstance(name, str) and name in prompts:
            return prompts[name]
        known = f"there are {', '.join(prompts)}" if prompts else "it has none"
        raise InvalidRequest(f"{_PROMPT}: '{self.spec.name}' has no prompt '{name}'; {known}")

    async def encode(self, tokenizing: Tokenizing, request: TextRequest) -> list[Encoded]:
        """The tokens of every text; raises InvalidRequest, which says which text is wrong."""
        if request.texts and not isinstance(request.texts[0], str | tuple):
            return await one_by_one(
                self._given(ids, index, request)  # type: ignore[arg-type]
                for index, ids in enumerate(request.texts)
            )
        cut = None
        if self.max_length is not None and (request.truncate or request.overlap is not None):
            cut = Cut(self.max_length, request.truncate or "right", request.overlap)
        options = Options(cut, request.special, request.offsets)
        encoded = await self.tokens(tokenizing, request.texts, options, request.at)  # type: ignore[arg-type]
        return [self._fitting(each, index, request) for index, each in enumerate(encoded)]

    async def tokens(
        self, tokenizing: Tokenizing, texts: Sequence[Text], options: Options, at: str
    ) -> list[Encoded]:  # fmt: skip
        """The tokens of every text, however many; raises InvalidRequest, which says which text is wrong."""
        for index, text in enumerate(texts):
            size = len(text) if isinstance(text, str) else max(map(len, text))
            if size > MOST_CHARACTERS:
                raise InvalidRequest(f"{at}[{index}]: has {size} characters, more than {MOST_CHARACTERS}")
        encoded = []
        for index, each in enumerate(await tokenizing.encode(self.tokenizer, texts, options)):
            if isinstance(each, InvalidRequest):
                raise InvalidRequest(f"{at}[{index}]: {each.message}") from each
            encoded.append(each)
        return encoded

    def each(self, request: TextRequest, encoded: Sequence[Encoded]) -> Iterator[InferRequest]:
        """A request of tensors for each text, or window of one."""
        for text in encoded:
            for window in (text, *text.windows):
                yield InferRequest(
                    model=request.model,
                    version=request.version,
                    inputs=self.tensors(window),
                    outputs=request.outputs,
                    id=request.id,
                    parameters=request.parameters,
                    tenant=request.tenant,
                    deadline=request.deadline,
                    timeline=Timeline(request.timeline.received),
                )

    def patient(self, request: TextRequest, work: Work) -> Work:
        """Texts of a request of many are not as urgent as others, unless it says how urgent it is."""
        if len(request.texts) <= FEW or "priority" in request.parameters:
            return work
        return replace(work, priority=1.0)

    def tensors(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """One text as the inputs of a request for it alone."""
        length = len(encoded)
        types = encoded.type_ids if self.profile.typed else None
        if types is None:
            types = np.zeros(length, np.int64)
        values = {IDS: encoded.ids, MASK: np.ones(length, np.int64), TYPES: types}
        return tuple(
            Tensor(
                one.name,
                one.datatype,
                (1, length),
                values[one.name].astype(NUMPY_TYPES[one.datatype], copy=False).tobytes(),
            )
            for one in self.spec.inputs
            if one.name in values
        )

    def _fitting(self, encoded: Encoded, index: int, request: TextRequest) -> Encoded:
        length = len(encoded)
        if not length:
            raise InvalidRequest(f"{request.at}[{index}]: has no tokens")
        if self.max_length is not None and length > self.max_length:
            raise InvalidRequest(
                f"{request.at}[{index}]: has {length} tokens, and '{self.spec.name}' takes at most {self.max_length}; "
                "shorten it, or ask for it to be truncated"
            )
        return encoded

    def _given(self, ids: Sequence[int], index: int, request: TextRequest) -> Encoded:
        """Tokens that the client made itself, as they are."""
        size = self.tokenizer.size
        if ids and (min(ids) < 0 or max(ids) >= size):
            wrong = next(one for one in ids if not 0 <= one < size)
            raise InvalidRequest(f"{request.at}[{index}]: {wrong} is no token; there are {size}")
        longest = self.max_length
        is_cut = longest is not None and len(ids) > longest and request.truncate is not None
        if is_cut:
            ids = ids[:longest] if request.truncate == "right" else ids[-longest:]  # type: ignore[operator]
        return self._fitting(Encoded(np.array(ids, np.int64), None, is_cut), index, request)


def load(directory: Path, spec: ModelSpec, settings: ModelSettings) -> TextInput | None:
    """What the version in this directory needs to take texts; None if it has no tokenizer, or takes other things."""
    path = directory / TOKENIZER
    if not _takes_tokens(spec) or not path.is_file():
        return None
    tokenizer = Tokenizer(path)
    profile = profiles.read(spec, settings.text, directory)
    lengths = [profile.max_length or tokenizer.max_length, settings.max_length]
    length = min((one for one in lengths if one is not None), default=None)
    pairs = profile.task == "rerank"  # whose first text needs a token as well
    own = tokenizer.special_of_pair + 1 if pairs else tokenizer.special_of_one
    if profile.overlap is not None and length is not None and profile.overlap >= length - own:
        raise ModelError(f"text.overlap: {profile.overlap} tokens are no less than a window of {length} has")
    return TextInput(tokenizer, spec, length, profile)


def _takes_tokens(spec: ModelSpec) -> bool:
    known = {IDS, MASK, TYPES}
    named = {one.name for one in spec.inputs}
    tokens = [one for one in spec.inputs if one.name in known]
    return (
        IDS in named
        and TEXT not in named
        and all(one.fill is not None for one in spec.inputs if one.name not in known)
        and all(len(one.shape) == 2 and one.datatype in ("INT32", "INT64") for one in tokens)
    )


def _truncation(wanted: Parameter | None) -> Truncation | None:
    if wanted is None or isinstance(wanted, bool):
        return wanted
    if wanted in ("left", "right"):
        return "left" if wanted == "left" else "right"
    raise InvalidRequest(f'parameter \'{_TRUNCATE}\' must be true, false, "left" or "right", got {wanted!r:.40}')


def _strings(tensor: Tensor) -> Sequence[str]:
    at = f"input '{tensor.name}'"
    if tensor.datatype != BYTES:
        raise InvalidRequest(f"{at} has the datatype '{tensor.datatype}', but texts are BYTES")
    if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
        raise InvalidRequest(f"unexpected shape for {at}: expected [-1] or [-1, 1], got {list(tensor.shape)}")
    if tensor.shape[0] > MOST_TEXTS:
        raise TooLarge(f"{at} has {tensor.shape[0]} elements, and at most {MOST_TEXTS} texts come in one request")
    elements = decode_bytes(tensor.data, tensor.name)
    if len(elements) != tensor.shape[0]:
        raise InvalidRequest(f"{at} has {len(elements)} elements, but its shape says {tensor.shape[0]}")
    if not elements:
        raise InvalidRequest(f"{at} has no element")
    texts = []
    for index, element in enumerate(elements):
        try:
            texts.append(element.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{tensor.name}[{index}]: is not UTF-8") from error
    return texts
