import json
import xml.etree.ElementTree as ElementTree

from sluice.bench import report
from sluice.bench.samples import Sample, summarize
from sluice.bench.server import Counters
from sluice.bench.session import Load, Result, Step
from sluice.bench.traffic import mix

LOAD = Load(mix("lognormal"), target=0.2)


def step(rate: float, seconds: float, counters: Counters | None = None) -> Step:
    samples = [Sample(0.0, length, seconds=seconds, outcome="answered") for length in range(20)]
    figures = summarize(samples, rate, 10, LOAD.target)
    return Step(figures, figures.share >= LOAD.share, counters)


def result() -> Result:
    counters = Counters({1: 3, 8: 2}, tokens=90, padding=10)
    empty = Step(summarize([], 40, 10, LOAD.target), held=False)
    return Result([step(10, 0.1, counters), step(20, 0.3, counters), empty], ["a <note>"])


def test_the_document_is_json_and_names_what_counts() -> None:
    document = json.loads(json.dumps(report.document({"model": "m"}, LOAD, result()), allow_nan=False))
    assert document["held_rate"] == 10
    assert document["load"]["lengths"] == "lognormal"
    assert [each["held"] for each in document["steps"]] == [True, False, False]
    assert document["steps"][0]["server"] == {"batches": {"1": 3, "8": 2}, "padding_share": 0.1}
    assert document["steps"][2]["percentiles"]["p50"] is None


def test_the_page_is_self_contained_and_escapes() -> None:
    page = report.page({"model": "<m>"}, LOAD, result())
    assert "&lt;m&gt;" in page
    assert "a &lt;note&gt;" in page
    assert "src=" not in page
    assert page.count("<svg") == 5
    for part in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")


def test_a_row_has_a_cell_for_every_heading() -> None:
    assert all(len(report.row(each)) == len(report.HEADINGS) for each in result().steps)
    assert report.row(step(10, 0.1, Counters({}, 90, 10)))[-1] == "10%"


def test_a_rate_above_one_that_was_missed_does_not_count_when_rates_were_listed() -> None:
    steps = [step(10, 0.1), step(20, 0.3), step(30, 0.1)]
    assert Result(steps).held_rate == 10
    assert Result(steps, searched=True).held_rate == 30


def test_counters_are_told_apart_by_what_ran_between() -> None:
    before, after = Counters({1: 5, 2: 1}, 100, 0), Counters({1: 5, 2: 4}, 130, 10)
    assert after.since(before) == Counters({2: 3}, 30, 10)
    assert Counters().padding_share is None
