import pytest
from hypothesis import given
from hypothesis import strategies as st
from loadtests.chaos.ledger import Doubled, Epochs, Ledger, Outcome


def test_a_request_has_one_outcome() -> None:
    ledger = Ledger()
    request = ledger.send("tagger", "http", 0.0)
    ledger.end(request, Outcome.RIGHT, 1.0)
    with pytest.raises(Doubled):
        ledger.end(request, Outcome.ERROR, 2.0)
    assert ledger.counts() == {Outcome.RIGHT: 1}


def test_what_nobody_answered_is_lost_when_the_account_is_closed() -> None:
    ledger = Ledger()
    ledger.end(ledger.send("tagger", "http", 0.0), Outcome.RIGHT, 1.0)
    silent = ledger.send("tagger", "grpc", 0.5)
    ledger.close(30.0)
    assert ledger.bad() == [silent]
    assert ledger.counts() == {Outcome.RIGHT: 1, Outcome.LOST: 1}


@given(st.lists(st.sampled_from([*Outcome, None]), max_size=30))
def test_the_outcomes_add_up_to_what_was_sent(outcomes: list[Outcome | None]) -> None:
    ledger = Ledger()
    for number, outcome in enumerate(outcomes):
        request = ledger.send("tagger", "http", float(number))
        if outcome is not None:
            ledger.end(request, outcome, number + 0.5)
    ledger.close(100.0)
    assert sum(ledger.counts().values()) == len(outcomes)


def test_errors_are_told_apart_by_who_got_them() -> None:
    ledger = Ledger()
    for model, guilty, kind in (
        ("whim", True, "worker lost"),
        ("whim", False, "model failed"),
        ("whim", False, "model failed"),
    ):
        ledger.end(ledger.send(model, "http", 0.0, guilty), Outcome.ERROR, 1.0, kind)
    assert ledger.errors() == {("worker lost", "guilty"): 1, ("model failed", "whim"): 2}


def test_rates_and_windows_count_the_innocent_who_waited() -> None:
    ledger = Ledger()
    for sent, ended in ((0.5, 0.7), (1.5, 2.5), (3.5, 3.6)):
        ledger.end(ledger.send("tagger", "http", sent), Outcome.RIGHT, ended)
    ledger.end(ledger.send("tagger", "http", 1.6), Outcome.ERROR, 1.7, "not ready")
    ledger.end(ledger.send("whim", "http", 1.6, guilty=True), Outcome.ERROR, 1.7, "model failed")
    ledger.end(ledger.send("whim", "http", 1.6), Outcome.CANCELLED, 1.7)
    rates = ledger.per_second(0.0)
    assert rates["sent"] == [(0.0, 1.0), (1.0, 2.0), (2.0, 0.0), (3.0, 1.0)]
    assert rates["right"] == [(0.0, 1.0), (1.0, 0.0), (2.0, 1.0), (3.0, 1.0)]
    assert ledger.during([(1.0, 2.0)]) == (2, 1, [1.0])
    assert ledger.during([]) == (0, 0, [])


def test_while_a_version_is_loaded_either_may_answer_and_afterwards_only_the_new_one() -> None:
    epochs = Epochs.starting(1, 0.0)
    epochs.begin(2, 10.0)
    epochs.only(2, 12.0)
    assert epochs.allowed(1.0, 2.0) == {1}
    assert epochs.allowed(9.0, 11.0) == {1, 2}
    assert epochs.allowed(11.0, 13.0) == {1, 2}
    assert epochs.allowed(12.5, 13.0) == {2}
    assert epochs.current == {2}
