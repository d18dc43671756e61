"""What the name of a dimension tells: an exporter invented it, it is the batch, or it is a sequence."""

import re

from sluice.spec import Port

Dim = int | str | None

# Names that exporters invent when nobody names an axis; two different ones may well be the same size.
_AUTOMATIC = re.compile(r"|\?|-1|None|unk__\d+|dynamic_axes_\d+|dim_\d+|.+_dim_\d+")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")  # anything else is an expression, such as "past + 1"
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SYNONYMS = {
    "seq": "sequence",
    "seqlen": "sequence",
    "sequences": "sequence",
    "token": "sequence",
    "tokens": "sequence",
    "len": "length",
    "lengths": "length",
    "t": "time",
    "timestep": "time",
    "timesteps": "time",
    "frame": "time",
    "frames": "time",
    "step": "time",
    "steps": "time",
}
_FILLERS = frozenset({"length", "size", "max", "num", "number", "n", "dim", "axis", "of"})
_SEQUENCES = frozenset({"sequence", "time"})
# Words that may stand beside a sequence's without making it another thing, unlike past, total, batch or hidden.
_BESIDE = frozenset({"input", "source", "src", "text", "encoder", "decoder", "question", "context", "audio", "signal"})
_BATCH_LETTERS = frozenset({"n", "b", "bs", "bsz"})


def automatic(dim: Dim) -> bool:
    """Of any size, and nobody gave it a name that means something."""
    return dim is None or (isinstance(dim, str) and _AUTOMATIC.fullmatch(dim) is not None)


def meaning(dim: Dim) -> frozenset[str]:
    """The words of a name that matter; names with equal ones mean the same size. Empty: it means nothing we know."""
    if not isinstance(dim, str) or automatic(dim) or not _IDENTIFIER.fullmatch(dim):
        return frozenset()
    words = {_SYNONYMS.get(word.lower(), word.lower()) for word in _WORD.findall(dim)}
    return frozenset(words - _FILLERS | ({"sequence"} if "length" in words else set()))


def looks_like_sequence(dim: Dim) -> bool:
    words = meaning(dim)
    return bool(words & _SEQUENCES) and all(word in _BESIDE or word.isdigit() for word in words - _SEQUENCES)


def looks_like_batch(dim: Dim) -> bool:
    return isinstance(dim, str) and ("batch" in meaning(dim) or dim.lower() in _BATCH_LETTERS)


def described(ports: tuple[Port, ...]) -> str:
    """What a graph has, for error messages."""
    return ", ".join(f"{port.name} {port.datatype} {shown(port.dims)}" for port in ports) or "none"


def shown(dims: tuple[Dim, ...]) -> str:
    return f"[{', '.join('any' if automatic(dim) else str(dim) for dim in dims)}]"
