"""What a report says of the choices that were measured."""

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from sluice.quantize.machine import Machine
from sluice.quantize.methods import Method
from sluice.quantize.nearness import Bounds, Nearness
from sluice.quantize.report import Proof, Report, mixture
from sluice.quantize.search import Found, Point

ROWS, BLOCKS = Method("rows", "rows"), Method("blocks", "blocks", block=32)


def point(name: str, speed: float, cosine: float, **more: bool) -> Point:
    near = Nearness({"cosine_mean": cosine, "neighbours": math.nan}, "cosine_mean")
    return Point(name, {"a": ROWS, "b": ROWS, "c": BLOCKS}, near, speed, 500, **more)


POINTS = (
    point("slow", 1.2, 0.9999),
    point("worse and slower", 1.1, 0.998),
    point("quick", 2.0, 0.99),
    point("middle", 1.6, 0.999),
    point("compared", 3.0, 0.9995, eligible=False),
)


@pytest.fixture
def report() -> Report:
    proof = Proof(POINTS[3].nearness, 100, 1.58, {16: 1.5, 64: 1.7}, {"spearman": 0.81})
    return Report(
        "m/1", "int8", Bounds(0.998), "texts.jsonl", Found(POINTS, {"rows": {"a": 0.1}}, POINTS[3]), POINTS[3], proof,
        1000, Machine("Some Processor", "exact"),
    )  # fmt: skip


def test_the_frontier_is_what_nothing_beats_in_both(report: Report) -> None:
    assert [each.name for each in report.frontier()] == ["quick", "middle", "slow"]


def test_metrics_are_its_own_and_no_verdict(report: Report) -> None:
    metrics = report.metrics()
    assert not [name for name in metrics if not name.startswith("quantize.")]
    assert (metrics["quantize.method"], metrics["quantize.size"], metrics["quantize.speed"]) == ("middle", 0.5, 1.58)


def test_the_record_is_json_without_nan(report: Report) -> None:
    record = json.loads(report.record(), parse_constant=lambda name: pytest.fail(name))
    assert [each["name"] for each in record["points"] if each["frontier"]] == ["slow", "quick", "middle"]
    assert [each["name"] for each in record["points"] if each["chosen"]] == ["middle"]
    assert record["layers"] == {"a": "rows", "b": "rows", "c": "blocks"}
    assert record["proof"]["speed_by_length"] == {"16": 1.5, "64": 1.7}


def test_a_report_of_nothing_chosen_says_why(report: Report) -> None:
    nothing = replace(report, chosen=None, proof=None, missed=("too far off",))
    record = json.loads(nothing.record())
    assert (record["chosen"], record["proof"], record["missed"]) == (None, None, ["too far off"])


def test_the_picture_shows_every_choice_and_the_bound(report: Report) -> None:
    picture = ET.fromstring(report.picture())
    namespace = "{http://www.w3.org/2000/svg}"
    dots = picture.findall(f".//{namespace}circle")
    assert len(dots) == len(POINTS) + 1  # and the chosen one again, in its colour
    assert len(picture.findall(f".//{namespace}polyline")) == 1
    assert "bound" in [text.text for text in picture.iter(f"{namespace}text")]


def test_a_mixture_is_told_by_its_parts() -> None:
    assert mixture(replace(POINTS[0], kept=2)) == "2 rows; 1 blocks; 2 in 32 bits"


@pytest.mark.parametrize(
    ("near", "says"),
    [
        (Nearness({"cosine_mean": 0.9999}, "cosine_mean"), []),
        (Nearness({"cosine_mean": 0.99}, "cosine_mean"), ["cosine_mean 0.99000 is below 0.998"]),
        (Nearness({"cosine_mean": 1.0, "agreement": 0.9}, "agreement"), ["agreement 0.90000 is below 0.998"]),
        (Nearness({"cosine_mean": math.nan}, "cosine_mean"), ["cosine_mean nan is below 0.998"]),
        (
            Nearness({"cosine_mean": 1.0}, "cosine_mean", finite=False),
            ["its answers have NaN or infinite values where the parent's have none"],
        ),
        (
            Nearness({"cosine_mean": 1.0}, "cosine_mean", difference=0.2),
            ["answers in a batch differ by 0.2 from those alone, and at most 0.001 is padded"],
        ),
    ],
)
def test_bounds_say_what_is_missed(near: Nearness, says: list[str]) -> None:
    assert Bounds(0.998, difference=0.001).missed(near) == says
