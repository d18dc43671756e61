"""Makes the small models under golden/ and what transformers' own pipelines say with them.

Run it, only to change them, in an environment with torch and transformers:
`python tests/texts/make_golden_texts.py`. The models are tiny and random; their tokenizer knows the texts' pieces.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GOLDEN = Path(__file__).parent / "golden"
TEXTS = (
    "Anna Kowalska lives in New York, near the Hudson.",
    "The mill at Łódź stands still; Berlin's does not.",
    "Water",
    "unbelievably re-organised sluicegates (of Rotterdam) kept 1,200 litres a second.",
)
PAIRS = (
    ("Where does Anna live?", "Anna Kowalska lives in New York, near the Hudson."),
    ("Where does Anna live?", "Water"),
    ("litres", "The mill at Łódź stands still; Berlin's does not."),
)
NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
STRATEGIES = ("none", "simple", "first", "average", "max")


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    transformers.utils.logging.set_verbosity_error()
    named = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
    kinds = {"id2label": {0: "calm", 1: "wild", 2: "dry"}, "label2id": {"calm": 0, "wild": 1, "dry": 2}}

    model, tokenizer = make("ner", transformers.BertForTokenClassification, 21, **named)
    tag = {
        one: transformers.pipeline("ner", model, tokenizer=tokenizer, aggregation_strategy=one) for one in STRATEGIES
    }
    save("ner", {one: [tag[one](text) for text in TEXTS] for one in STRATEGIES})

    model, tokenizer = make("classes", transformers.BertForSequenceClassification, 22, **kinds)
    classify = transformers.pipeline("text-classification", model, tokenizer=tokenizer, top_k=None)
    save("classes", {"texts": [classify([text])[0] for text in TEXTS]})

    model, tokenizer = make("cross", transformers.BertForSequenceClassification, 23, num_labels=1)
    inputs = tokenizer([one for one, _ in PAIRS], [other for _, other in PAIRS], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[:, 0]
    save("cross", {"logits": logits.tolist(), "scores": torch.sigmoid(logits).tolist()})


def make(name: str, kind: Any, seed: int, **more: Any) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.4,  # so that answers differ
        **more,
    )
    model = kind(config).eval()
    model.save_pretrained(GOLDEN / name)
    tokenizer.save_pretrained(GOLDEN / name)
    return model, tokenizer


def make_tokenizer() -> Any:
    plain = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    plain.normalizer = normalizers.BertNormalizer(lowercase=False)
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    plain.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=100, special_tokens=special)
    plain.train_from_iterator([*TEXTS, *(text for pair in PAIRS for text in pair)], trainer)
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", plain.token_to_id("[CLS]")), ("[SEP]", plain.token_to_id("[SEP]"))],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def save(name: str, expected: Any) -> None:
    text = json.dumps(expected, default=float, indent=1, ensure_ascii=False)
    (GOLDEN / name / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
