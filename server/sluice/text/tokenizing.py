"""Tokenizes texts in threads, those of requests that arrive together in one call of the library.

`Tokenizer.encode` holds the GIL as long as it takes, and a hop to a thread costs as much as a short text, so both are
avoided: threads of our own take what waits, whosesoever it is, encode it in one batch, which releases the GIL, and hand
all results back in one go. A request of many texts is cut into slices that take turns with other requests, so that
nobody waits long behind it; and what a thread does between two batches is short, so that the event loop never does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sluice.errors import InternalError, InvalidRequest, ModelError
from sluice.text.heads import Pieces
from sluice.text.tokens import Cut, Encoded, parted

# What a thread takes at once, from one request or several. Making arrays of so much holds the GIL for a third of a
# millisecond.
MOST_CHARACTERS = 16 << 10
MOST_TEXTS = 64

# Windows of the texts of one request, beyond which the next text that needs some is refused.
MOST_WINDOWS = 2048

# Ways of cutting texts that are kept ready for one tokenizer; the library keeps that in the tokenizer itself.
MOST_CUTS = 8

# Requests that are told at once that theirs is done: what they do next takes a tenth of a millisecond each.
DELIVERED = 8

Text = str | tuple[str, str]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    cut: Cut | None = None
    special: bool = True  # add the special tokens that the model was trained with
    offsets: bool = False  # tell where in the text each token stands


class Unreadable(ModelError):
    """A tokenizer's file is none; the model can still be asked with tokens."""


class Tokenizer:
    """One model's tokenizer, ready for every way of cutting."""

    def __init__(self, path: Path) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the threads are ours
        import tokenizers

        self._library = tokenizers
        try:
            plain = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise Unreadable(f"{path.name}: cannot be read: {error}") from error
        except Exception as error:  # the library raises nothing more specific
            raise Unreadable(f"{path.name}: is no tokenizer: {error}") from error
        truncation = plain.truncation
        self.max_length: int | None = truncation["max_length"] if truncation else None  # that it was saved with
        plain.no_truncation()
        plain.no_padding()
        self._plain = plain
        self._text = plain.to_str()
        self._cuts: OrderedDict[Cut, Any] = OrderedDict()
        self._lock = threading.Lock()
        self.special_of_one = plain.num_special_tokens_to_add(False)
        self.special_of_pair = plain.num_special_tokens_to_add(True)

    def encode(self, texts: Sequence[Text], options: Options) -> list[Encoded | InvalidRequest]:
        """Each text by itself: one that cannot be encoded takes no other with it."""
        pairs = not texts or isinstance(texts[0], tuple)
        cut, offsets = options.cut, options.offsets
        ours = cut is not None and (pairs or cut.overlap is not None)
        library = self._plain if cut is None or ours else self._cutting(cut)
        encode = library.encode_batch if offsets else library.encode_batch_fast
        try:
            encodings = encode(list(texts), add_special_tokens=options.special)
        except BaseException as error:  # a panic of the library is no Exception
            if len(texts) == 1:
                return [InvalidRequest(f"cannot be tokenized: {error}")]
            return [self.encode([text], options)[0] for text in texts]
        if cut is None and not offsets:  # as nearly always, and several times as fast
            return [_whole(each, pairs) for each in encodings]
        made = (_encoded(each, pairs, offsets) for each in encodings)
        if cut is None or not ours:
            return list(made)
        return [
            one if len(one) <= cut.length else parted(one, each.sequence_ids, cut)
            for one, each in zip(made, encodings, strict=True)
        ]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        if ids and not (min(ids) >= 0 and max(ids) < 1 << 32):
            wrong = next(one for one in ids if not 0 <= one < 1 << 32)
            raise InvalidRequest(f"ids: {wrong} is no token")
        return str(self._plain.decode(list(ids), skip_special_tokens=skip_special))

    def token(self, number: int) -> str:
        """The token's own text; empty if there is no such token."""
        return self._plain.id_to_token(number) or ""

    @property
    def pieces(self) -> Pieces:
        model = self._plain.model
        unknown = getattr(model, "unk_token", None)
        return Pieces(
            self.token,
            self._joined,
            bool(getattr(model, "continuing_subword_prefix", None)),
            self._plain.token_to_id(unknown) if isinstance(unknown, str) else None,
        )

    def _joined(self, tokens: Sequence[str]) -> str:
        decoder = self._plain.decoder
        return str(decoder.decode(list(tokens))) if decoder is not None else " ".join(tokens)

    @property
    def size(self) -> int:
        """How many tokens it knows."""
        return int(self._plain.get_vocab_size(with_added_tokens=True))

    def _cutting(self, cut: Cut | None) -> Any:
        if cut is None:
            return self._plain
        with self._lock:
            found = self._cuts.get(cut)
            if found is None:
                found = self._library.Tokenizer.from_str(self._text)
                found.enable_truncation(cut.length, direction=cut.direction)
                self._cuts[cut] = found
                if len(self._cuts) > MOST_CUTS:
                    self._cuts.popitem(last=False)
            self._cuts.move_to_end(cut)
            return found


def _whole(encoding: Any, pairs: bool) -> Encoded:
    return Encoded(np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64) if pairs else None)


def _encoded(encoding: Any, pairs: bool, offsets: bool) -> Encoded:
    return Encoded(
        ids=np.array(encoding.ids, np.int64),
        type_ids=np.array(encoding.type_ids, np.int64) if pairs else None,
        is_cut=bool(encoding.overflowing),
        offsets=tuple(encoding.offsets) if offsets else (),
        special=tuple(map(bool, encoding.special_tokens_mask)) if offsets else (),
        sequences=tuple(encoding.sequence_ids) if offsets else (),
    )


@dataclass(slots=True, eq=False)
class _Job:
    """The texts of one request, of which slices are encoded in turn."""

    tokenizer: Tokenizer
    options: Options
    texts: Sequence[Text]
    done: asyncio.Future[list[Encoded | InvalidRequest]]
    results: list[Encoded | InvalidRequest | None]
    missing: int
    windows: int = 0  # that its texts became
    next: int = 0
    failure: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, begin: int, encoded: Sequence[Encoded | InvalidRequest]) -> None:
        """Keep these, as long as they are not too many windows."""
        for index, one in enumerate(encoded, begin):
            more = len(one.windows) if isinstance(one, Encoded) else 0
            if more and self.windows + more > MOST_WINDOWS:
                one = InvalidRequest(f"the texts of one request are read in at most {MOST_WINDOWS} windows; send fewer")
            else:
                self.windows += more
            self.results[index] = one

    def take(self, characters: int, texts: int) -> tuple[int, int]:
        """The next slice, of at least one text: from where to where."""
        begin = end = self.next
        while end < len(self.texts) and end - begin < texts and (characters > 0 or end == begin):
            characters -= _size(self.texts[end])
            end += 1
        self.next = end
        return begin, end


class Tokenizing:
    """The threads, for all tokenizers of a server. `encode` belongs to one event loop."""

    def __init__(self, threads: int = 1) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"sluice-tokenize-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def encode(
        self, tokenizer: Tokenizer, texts: Sequence[Text], options: Options = Options()
    ) -> list[Encoded | InvalidRequest]:
        """Every text, in order; what is wrong with one stands in its place. All are single texts, or all are pairs."""
        if not texts:
            return []
        done: asyncio.Future[list[Encoded | InvalidRequest]] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(tokenizer, options, texts, done, [None] * len(texts), len(texts)))
        return await done

    def close(self) -> None:
        """End the threads, after what was begun."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            slices = self._slices(job)
            finished = self._encode(slices)
            by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
            for one in finished:
                by_loop.setdefault(one.done.get_loop(), []).append(one)
            for loop, jobs in by_loop.items():
                try:
                    loop.call_soon_threadsafe(_deliver, jobs)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    pass

    def _slices(self, first: _Job) -> list[tuple[_Job, int, int]]:
        """As much of what waits as one call shall encode, the first job's part first."""
        slices: list[tuple[_Job, int, int]] = []
        characters, texts = MOST_CHARACTERS, MOST_TEXTS
        job: _Job | None = first
        while job is not None:
            if not job.done.cancelled():
                begin, end = job.take(characters, texts)
                slices.append((job, begin, end))
                characters -= sum(map(_size, job.texts[begin:end]))
                texts -= end - begin
                if end < len(job.texts):
                    self._jobs.put(job)  # the rest waits its turn, perhaps for another thread
            if characters <= 0 or texts <= 0:
                break
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # the next call ends this thread
            elif any(job is one for one, _, _ in slices):
                self._jobs.put(job)  # it alone is left
                break
        return slices

    @staticmethod
    def _encode(slices: list[tuple[_Job, int, int]]) -> list[_Job]:
        """Encode them, alike ones in one call; the jobs of which nothing is missing now."""
        alike: dict[tuple[Tokenizer, Options, bool], list[tuple[_Job, int, int]]] = {}
        for job, begin, end in slices:
            kind = (job.tokenizer, job.options, isinstance(job.texts[begin], tuple))
            alike.setdefault(kind, []).append((job, begin, end))
        finished = []
        for (tokenizer, options, _), group in alike.items():
            texts = [text for job, begin, end in group for text in job.texts[begin:end]]
            failure: BaseException | None = None
            encoded: list[Encoded | InvalidRequest] = []
            try:
                encoded = tokenizer.encode(texts, options)
            except BaseException as error:  # a bug must not leave a request without an answer
                failure = error
            at = 0
            for job, begin, end in group:
                some = encoded[at : at + end - begin]
                at += end - begin
                with job.lock:
                    job.put(begin, some)
                    job.failure = job.failure or failure
                    job.missing -= end - begin
                    if not job.missing:
                        finished.append(job)
        return finished


def _size(text: Text) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def _deliver(jobs: list[_Job]) -> None:
    """Hand over a few; who waits for the others has its turn after whatever else has come meanwhile."""
    if len(jobs) > DELIVERED:
        jobs[0].done.get_loop().call_soon(_deliver, jobs[DELIVERED:])
    for job in jobs[:DELIVERED]:
        if job.done.done():
            continue
        if job.failure is not None:
            failure = job.failure
            if not isinstance(failure, Exception):  # nobody above expects such a one
                _log.error("tokenizing failed", exc_info=failure)
                failure = InternalError("internal error")
            job.done.set_exception(failure)
        else:
            job.done.set_result([one for one in job.results if one is not None])
