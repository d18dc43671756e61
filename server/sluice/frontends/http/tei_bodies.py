"""What clients send to the API of Text Embeddings Inference, as types."""

from __future__ import annotations

from typing import Literal

import msgspec

from sluice.text.profile import Truncation

Direction = Literal["Left", "Right", "left", "right"]


class Asked(msgspec.Struct):
    model: str = ""  # ours: which one, where several are served
    truncate: bool | None = None
    truncation_direction: Direction | None = None

    @property
    def direction(self) -> Truncation | None:
        if not self.truncate or self.truncation_direction is None:
            return self.truncate
        return "left" if self.truncation_direction.lower() == "left" else "right"


class EmbedBody(Asked, kw_only=True):
    inputs: str | list[str | int | list[int]]
    normalize: bool | None = None
    prompt_name: str | None = None
    dimensions: int | None = None


class PredictBody(Asked, kw_only=True):
    inputs: str | list[str | list[str]]
    raw_scores: bool = False
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"


class PipelineParameters(msgspec.Struct):
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: int | None = None
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"


class Whatever(msgspec.Struct):
    """As much as tells what is wanted."""

    inputs: msgspec.Raw = msgspec.Raw(b"")
    model: str = ""

    @property
    def compares(self) -> bool:
        """It brings a sentence and others, not texts."""
        return bytes(self.inputs).lstrip()[:1] == b"{"


class PipelineBody(PredictBody, kw_only=True):
    parameters: PipelineParameters | None = None


class RerankBody(Asked, kw_only=True):
    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class Sentences(msgspec.Struct):
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(msgspec.Struct):
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class SimilarityBody(msgspec.Struct):
    inputs: Sentences
    parameters: SimilarityParameters | None = None
    model: str = ""


class TokenizeBody(msgspec.Struct):
    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str = ""


class DecodeBody(msgspec.Struct):
    ids: list[int | list[int]]
    skip_special_tokens: bool = True
    model: str = ""


WHATEVER = msgspec.json.Decoder(Whatever)
EMBED = msgspec.json.Decoder(EmbedBody)
PREDICT = msgspec.json.Decoder(PredictBody)
PIPELINE = msgspec.json.Decoder(PipelineBody)
RERANK = msgspec.json.Decoder(RerankBody)
SIMILARITY = msgspec.json.Decoder(SimilarityBody)
TOKENIZE = msgspec.json.Decoder(TokenizeBody)
DECODE = msgspec.json.Decoder(DecodeBody)
