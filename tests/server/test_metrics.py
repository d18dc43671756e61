"""The metrics port tells what happened, under our names and under Triton's."""

from collections.abc import Iterator

import graphs
import pytest
from servers import Server, end, launch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("metrics")
    graphs.lookup(directory / "models")
    server = launch(directory / "models", directory / "log")
    yield server
    end(server)


def ask(server: Server, ids: list[int]) -> int:
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, len(ids)], "data": ids}]}
    return server.request("POST", "/v2/models/lookup/infer", body)[0]


def test_answers_and_failures_are_counted(server: Server) -> None:
    names = {"model": "lookup", "version": "1"}
    before = server.metric("sluice_requests_total", **names)
    assert [ask(server, [1, 2, 3]), ask(server, [1]), ask(server, [10_000])] == [200, 200, 400]
    assert server.metric("sluice_requests_total", **names) - before == 3
    assert server.metric("sluice_request_failures_total", reason="invalid", **names) == 1
    assert server.metric("nv_inference_request_success", **names) == 2
    assert server.metric("nv_inference_request_failure", **names) == 1
    for phase in ("queue", "assemble", "compute", "respond"):
        assert server.metric("sluice_phase_seconds_count", phase=phase, **names) >= 2
    assert server.metric("sluice_batch_rows_count", **names) >= 2
    assert server.metric("sluice_tokens_total", **names) >= 4
    assert server.metric("sluice_queue_length", **names) == 0
    assert server.metric("sluice_workers", state="running") == 2


def test_what_cannot_be_read_is_counted_too(server: Server) -> None:
    before = server.metric("sluice_request_failures_total", model="", reason="invalid")
    status, reply = server.request("POST", "/v2/models/lookup/infer", b"{not json")
    assert (status, list(reply)) == (400, ["error"])
    assert server.metric("sluice_request_failures_total", model="", reason="invalid") - before == 1


def test_unknown_models_share_one_label(server: Server) -> None:
    """Otherwise anybody could fill the metrics with names."""
    body: dict[str, list[object]] = {"inputs": []}
    for name in ("nosuch", "neither"):
        assert server.request("POST", f"/v2/models/{name}/infer", body)[0] == 404
    assert server.metric("sluice_request_failures_total", model="nosuch") == 0
    assert server.metric("sluice_request_failures_total", model="", reason="unknown_model") >= 2
