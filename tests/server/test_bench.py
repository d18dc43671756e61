"""`sluice bench` against a real server, over every protocol."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import pytest
from servers import Server, end, launch

from sluice.cli.main import main

PATIENT = ["--target", "20", "--patience", "40", "--seconds", "1", "--warm-up", "0.2"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("bench")
    graphs.tagger(directory / "models")
    server = launch(directory / "models", directory / "server.log")
    yield server
    end(server)


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["bench", "tagger", *PATIENT, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("protocol", ["binary", "json", "grpc"])
def test_rates_that_are_held(server: Server, capsys: pytest.CaptureFixture[str], protocol: str) -> None:
    url = f"grpc://{server.grpc}" if protocol == "grpc" else server.http
    flags = ["--json-tensors"] if protocol == "json" else []
    result = bench(capsys, "--url", url, "--rates", "20,40", *flags)
    assert result["held_rate"] == 40
    assert [step["answered"] == step["requests"] > 0 for step in result["steps"]] == [True, True]
    # the server counted what was sent, warm-up included
    rows = sum(int(rows) * count for rows, count in result["steps"][0]["server"]["batches"].items())
    assert rows >= result["steps"][0]["requests"]


def test_a_search_and_its_report(server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--url", server.http, "--metrics-url", server.metrics, "--start", "10", "--steps", "2"]
    lengths = tmp_path / "trace"
    lengths.write_text("2\n5\n30\n")
    report = tmp_path / "report"
    result = bench(
        capsys, *flags, "--lengths", str(lengths), "--arrivals", "constant", "--deadline", "--report", str(report)
    )
    assert [step["rate"] for step in result["steps"]] == [10, 20]
    assert result["steps"][0]["requests"] == 10
    assert 0 <= result["steps"][0]["server"]["padding_share"] < 1
    assert json.loads(report.with_suffix(".json").read_text()) == result
    assert "<svg" in report.with_suffix(".html").read_text()


def test_an_overdue_deadline_is_counted(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(capsys, "--url", f"grpc://{server.grpc}", "--rates", "10", "--target", "0.001", "--deadline")
    (step,) = result["steps"]
    assert step["answered"] + step["expired"] + step["refused"] == step["requests"]


def test_a_table_for_people(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tagger", *PATIENT, "--url", server.http, "--rates", "10"]) == 0
    printed = capsys.readouterr()
    assert "largest rate held: 10.0/s" in printed.out
    assert "held" in printed.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent"], 1, "absent"),
        (["tagger", "--lengths", "nonsense"], 1, "nonsense"),
        (["tagger", "--url", "ftp://x"], 1, "ftp://x"),
        (["tagger", "--rates", "1,x"], 2, "--rates"),
        (["tagger", "--rates", "-1"], 2, "--rates"),
        (["tagger", "--ids", "5"], 2, "--ids"),
        (["tagger", "--shape", "x"], 2, "--shape"),
        (["tagger", "--rates", "900000"], 1, "requests"),
    ],
)
def test_what_makes_no_sense_is_said(
    server: Server, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    url = [] if "--url" in arguments else ["--url", server.http]
    assert main(["bench", *arguments, *url]) == code
    assert message in capsys.readouterr().err
