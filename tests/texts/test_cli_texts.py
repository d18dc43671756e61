"""Texts from the command line."""

from __future__ import annotations

import json

from servers import Server
from typer.testing import CliRunner

from sluice.cli.main import app


def run(server: Server, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["infer", "--url", server.http, *words])
    return result.exit_code, result.output


def test_answers_by_task(server: Server) -> None:
    assert run(server, "embedder", "red", "cat") == (
        0,
        "red\n  4 numbers: 0.3162, 0, 0, 0.9487\n\ncat\n  4 numbers: 0, 0, 0, 1\n\n",
    )
    assert run(server, "classifier", "green")[1].splitlines()[1].startswith("  label green, score 0.57")
    assert "entity_group LOC" in run(server, "ner", "Anna lives in New York")[1]
    code, output = run(server, "embedder", "red", "--json")
    assert (code, json.loads(output)["task"]) == (0, "embedding")


def test_texts_are_the_whole_request(server: Server) -> None:
    assert run(server, "embedder", "red", "-i", "input_ids=[[1]]")[0] == 2
    result = CliRunner().invoke(app, ["infer", "--url", server.http, "none", "red"])
    assert "none" in str(result.exception)
