import pytest

from sluice.store.symbols import automatic, looks_like_batch, looks_like_sequence, meaning

SEQUENCES = """seq sequence sequence_length seq_len seqlen length len tokens num_tokens time T max_seq_len maxSeqLen
    SEQ_LEN text_length encoder_sequence_length timesteps n_frames seq1"""
OTHERS = """batch N height width past_sequence_length total_sequence_length past_length+1 hidden_len batch_sequence
    sequence_length*2 heads vocab_size unk__12 s0 embedding_length T_dim_0"""


@pytest.mark.parametrize("name", SEQUENCES.split())
def test_names_of_sequences(name: str) -> None:
    assert looks_like_sequence(name)
    assert not looks_like_batch(name)
    assert not automatic(name)


@pytest.mark.parametrize("name", OTHERS.split())
def test_names_of_other_things(name: str) -> None:
    assert not looks_like_sequence(name)


@pytest.mark.parametrize("dim", [None, "", "?", "unk__12", "dynamic_axes_1", "Gemmoutput_dim_0"])
def test_names_that_exporters_invent(dim: str | None) -> None:
    assert automatic(dim)
    assert meaning(dim) == frozenset()


@pytest.mark.parametrize("dim", [1, 384, "batch", "s0"])
def test_what_is_not_invented(dim: int | str) -> None:
    assert not automatic(dim)


@pytest.mark.parametrize("name", ["batch", "batch_size", "N", "bs", "text_batch_size", "BatchSize"])
def test_names_of_batches(name: str) -> None:
    assert looks_like_batch(name)


def test_meanings() -> None:
    assert meaning("seq_len") == meaning("sequence_length") == meaning("max_tokens") == meaning("length")
    assert meaning("T") == meaning("time") == meaning("num_frames")
    assert meaning("encoder_seq") != meaning("decoder_seq")
    assert meaning("seq1") != meaning("seq2")
    assert meaning("past_sequence_length") != meaning("sequence_length")
    assert meaning(3) == meaning("a + b") == meaning("size") == frozenset()
