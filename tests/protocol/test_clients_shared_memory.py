"""System shared memory as tritonclient uses it: inputs read and outputs written in place, over both protocols."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import graphs
import numpy as np
import pytest
from clients import given, open_client, wanted
from servers import Server, end, launch
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, shared_memory

PROTOCOLS = ["http", "grpc"]
IDS = np.array([[1, 2, 3]], np.int64)
SIZE = 4096
Region = Callable[[Any], tuple[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("memory")
    graphs.tagger(root / "models")
    graphs.identity(root / "models", "texts", ("BYTES",))
    running = launch(root / "models", root / "log")
    yield running
    end(running)


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    with open_client(server, request.param) as opened:
        opened.protocol = request.param
        yield opened


_numbers = itertools.count()


@pytest.fixture
def region(server: Server) -> Iterator[Region]:
    """Makes regions and registers them with the given client: the name, and the handle to their memory."""
    made = []

    def make(client: Any) -> tuple[str, Any]:
        name = f"region{next(_numbers)}"
        key = f"/sluice-test-{os.getpid()}-{name}"
        handle = shared_memory.create_shared_memory_region(name, key, SIZE)
        made.append(handle)
        client.register_system_shared_memory(name, key, SIZE)
        return name, handle

    yield make
    with open_client(server, "grpc") as cleaner:
        cleaner.unregister_system_shared_memory()
    for handle in made:
        shared_memory.destroy_shared_memory_region(handle)


def from_memory(client: Any, handle: Any, name: str) -> list[Any]:
    """The tagger's inputs, both in the region: ids at 0, mask at 1024."""
    shared_memory.set_shared_memory_region(handle, [IDS])
    shared_memory.set_shared_memory_region(handle, [np.ones_like(IDS)], offset=1024)
    ids, mask = given(client.protocol, input_ids=IDS, attention_mask=IDS)
    ids.set_shared_memory(name, IDS.nbytes)
    mask.set_shared_memory(name, IDS.nbytes, offset=1024)
    return [ids, mask]


def into_memory(client: Any, name: str) -> list[Any]:
    """The tagger's outputs, both into the region: tokens at 2048, total at 3072."""
    outputs = [wanted(client.protocol, output) for output in ("tokens", "total")]
    outputs[0].set_shared_memory(name, 1024, offset=2048)
    outputs[1].set_shared_memory(name, 8, offset=3072)
    return outputs


def test_in_and_out(client: Any, region: Region) -> None:
    name, handle = region(client)
    result = client.infer("tagger", from_memory(client, handle, name), outputs=into_memory(client, name))
    tokens = shared_memory.get_contents_as_numpy(handle, np.int64, [1, 3], offset=2048)
    assert tokens.tolist() == [[2, 4, 6]]
    assert shared_memory.get_contents_as_numpy(handle, np.int64, [1, 1], offset=3072).item() == 12
    output = result.get_output("tokens")
    assert list(output.shape if client.protocol == "grpc" else output["shape"]) == [1, 3]


def test_inputs_only(client: Any, region: Region) -> None:
    name, handle = region(client)
    assert client.infer("tagger", from_memory(client, handle, name)).as_numpy("total").item() == 12


def test_one_input_in_memory_and_one_sent(client: Any, region: Region) -> None:
    name, handle = region(client)
    in_memory, _ = from_memory(client, handle, name)
    _, sent = given(client.protocol, input_ids=IDS, attention_mask=np.array([[1, 0, 1]], np.int64))
    assert client.infer("tagger", [in_memory, sent]).as_numpy("total").item() == 8


def test_texts(client: Any, region: Region) -> None:
    name, handle = region(client)
    texts = np.array([["shared", "memöry"]], dtype=object)
    shared_memory.set_shared_memory_region(handle, [serialize_byte_tensor(texts)])
    (tensor,) = given(client.protocol, INPUT0=texts)
    size = len(serialize_byte_tensor(texts).item())
    tensor.set_shared_memory(name, size)
    output = wanted(client.protocol, "OUTPUT0")
    output.set_shared_memory(name, 1024, offset=1024)
    client.infer("texts", [tensor], outputs=[output])
    received = shared_memory.get_contents_as_numpy(handle, np.object_, [1, 2], offset=1024)
    assert received.tolist() == [[b"shared", "memöry".encode()]]


@pytest.mark.parametrize("owner", PROTOCOLS)
def test_registered_by_one_protocol_used_through_the_other(server: Server, region: Region, owner: str) -> None:
    other = next(protocol for protocol in PROTOCOLS if protocol != owner)
    with open_client(server, owner) as first, open_client(server, other) as second:
        second.protocol = other
        name, handle = region(first)
        second.infer("tagger", from_memory(second, handle, name), outputs=into_memory(second, name))
        assert shared_memory.get_contents_as_numpy(handle, np.int64, [1, 1], offset=3072).item() == 12
        statuses = second.get_system_shared_memory_status(name)
        found = statuses.regions[name] if other == "grpc" else statuses[0]
        assert (found.byte_size if other == "grpc" else found["byte_size"]) == SIZE
        second.unregister_system_shared_memory(name)
        left = first.get_system_shared_memory_status()
        assert not (left.regions if owner == "grpc" else left)


def test_a_region_that_is_too_small_for_an_output(client: Any, region: Region) -> None:
    name, handle = region(client)
    outputs = into_memory(client, name)
    outputs[0].set_shared_memory(name, 8, offset=2048)
    with pytest.raises(InferenceServerException, match=f"'{name}'.* do not fit into the 8"):
        client.infer("tagger", from_memory(client, handle, name), outputs=outputs)


def test_a_place_outside_the_region(client: Any, region: Region) -> None:
    name, handle = region(client)
    inputs = from_memory(client, handle, name)
    inputs[0].set_shared_memory(name, IDS.nbytes, offset=SIZE - 8)
    with pytest.raises(InferenceServerException, match=f"'{name}' has {SIZE} bytes"):
        client.infer("tagger", inputs)


def test_registering_twice_or_beyond_the_object(client: Any, region: Region) -> None:
    name, handle = region(client)
    key = handle._shm_key
    with pytest.raises(InferenceServerException, match="already registered"):
        client.register_system_shared_memory(name, key, SIZE)
    with pytest.raises(InferenceServerException, match="byte_size"):
        client.register_system_shared_memory("larger", key, SIZE + 1)
    with pytest.raises(InferenceServerException, match="byte_size"):
        client.register_system_shared_memory("beyond", key, SIZE, offset=1)


def test_an_object_that_shrank_does_not_kill_the_server(client: Any, region: Region) -> None:
    """Reading behind its end would be a bus error."""
    name, handle = region(client)
    inputs = from_memory(client, handle, name)
    os.truncate(f"/dev/shm{handle._shm_key}", 0)
    with pytest.raises(InferenceServerException, match="smaller"):
        client.infer("tagger", inputs)
    assert client.is_server_live()


def test_cuda_shared_memory_is_refused_clearly(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not supported"):
        client.register_cuda_shared_memory("cuda", b"QUJD", 0, 8)
    client.unregister_cuda_shared_memory()
    statuses = client.get_cuda_shared_memory_status()
    assert not (statuses.regions if client.protocol == "grpc" else statuses)
