import json

import numpy as np
import pytest

from sluice.bench.address import Address, address
from sluice.bench.bodies import Input, Making, grpc_message, http_binary, http_json, http_request, infer_path, tensors
from sluice.bench.traffic import BenchError
from sluice.pb import inference_pb2
from sluice.spec import NUMPY_TYPES

TEXT = [Input("input_ids", "INT64", (-1, -1)), Input("attention_mask", "INT64", (-1, -1))]


def test_a_text_has_ids_and_a_mask_of_its_length() -> None:
    ids, mask = tensors(TEXT, 12, Making())
    assert ids.shape == mask.shape == (1, 12)
    assert ((ids.array() >= 1000) & (ids.array() < 20000)).all()
    assert (mask.array() == 1).all()


def test_tokenizer_inputs_are_known_by_their_names() -> None:
    inputs = [Input("token_type_ids", "INT32", (-1, -1)), Input("position_ids", "INT64", (-1, -1))]
    types, positions = tensors(inputs, 4, Making())
    assert types.array().tolist() == [[0, 0, 0, 0]]
    assert positions.array().tolist() == [[0, 1, 2, 3]]


def test_rows_ids_and_shapes_can_be_said() -> None:
    making = Making(rows=3, ids=(5, 6), shapes={"fixed": (2, None)})
    ids, fixed, flat = tensors(
        [Input("ids", "INT64", (-1, -1)), Input("fixed", "FP32", (-1, -1)), Input("flat", "INT64", (-1,))], 4, making
    )
    assert ids.array().tolist() == [[5] * 4] * 3
    assert fixed.shape == (2, 4)
    assert flat.shape == (3,)


@pytest.mark.parametrize("datatype", [*NUMPY_TYPES, "BYTES"])
def test_every_datatype_can_be_made_up_and_sent(datatype: str) -> None:
    made = tensors([Input("x", datatype, (-1, 3))], 9, Making())
    assert made[0].array().shape == (1, 3)
    message = inference_pb2.ModelInferRequest.FromString(grpc_message("m", "2", made))
    assert (message.model_name, message.model_version) == ("m", "2")
    assert message.raw_input_contents[0] == bytes(made[0].data)
    body, headers = http_binary(made)
    length = int(headers["Inference-Header-Content-Length"])
    assert json.loads(body[:length])["inputs"][0]["parameters"]["binary_data_size"] == len(body) - length
    if datatype in ("FP16", "BF16"):
        with pytest.raises(BenchError, match="JSON cannot carry"):
            http_json(made)
    else:
        assert len(json.loads(http_json(made)[0])["inputs"][0]["data"]) == 3


def test_an_unknown_datatype_is_refused() -> None:
    with pytest.raises(BenchError, match="COMPLEX"):
        tensors([Input("x", "COMPLEX", (1,))], 1, Making())


def test_the_same_length_gives_the_same_request() -> None:
    one, other = (tensors(TEXT, 30, Making())[0].array() for _ in range(2))
    assert np.array_equal(one, other)


def test_a_whole_http_request() -> None:
    path = infer_path("a b", "1")
    raw = http_request("h:1", path, b"body", {"X-A": "1"})
    expected = (
        b"POST /v2/models/a%20b/versions/1/infer HTTP/1.1\r\nHost: h:1\r\nContent-Length: 4\r\nX-A: 1\r\n\r\nbody"
    )
    assert raw == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:8000", Address("http", "127.0.0.1", 8000)),
        ("https://example/base/", Address("https", "example", 443, "/base")),
        ("grpc://[::1]", Address("grpc", "::1", 8001)),
    ],
)
def test_addresses(url: str, expected: Address) -> None:
    assert address(url) == expected


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:b"])
def test_no_addresses(url: str) -> None:
    with pytest.raises(BenchError, match="url"):
        address(url)


def test_an_ipv6_address_is_bracketed() -> None:
    assert address("grpc://[::1]:9").netloc == "[::1]:9"
