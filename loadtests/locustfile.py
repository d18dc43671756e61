"""Locust users of a server of the Open Inference Protocol: gRPC, HTTP with binary tensors, HTTP with JSON.

Choose a user by its name, and give its address:

    locust -f loadtests/locustfile.py GrpcUser --host grpc://127.0.0.1:8001

LOADTEST_MODEL names the model (minilm), LOADTEST_LENGTHS the mix of lengths (lognormal), and LOADTEST_RATE how many
requests a second each user sends at most (5). Locust waits for an answer before a user sends again, so a slow server is
sent less: for latencies at a given rate use `sluice bench`.
"""

import os
import time
from itertools import count

import grpc
import grpc.experimental.gevent
from locust import FastHttpUser, User, constant_throughput, task

from sluice.bench import bodies
from sluice.bench.address import address
from sluice.bench.server import SERVICE, Model
from sluice.bench.traffic import BenchError, mix

grpc.experimental.gevent.init_gevent()  # or a call would block every user of the process

MODEL = os.environ.get("LOADTEST_MODEL", "minilm")
LENGTHS = mix(os.environ.get("LOADTEST_LENGTHS", "lognormal"))
RATE = float(os.environ.get("LOADTEST_RATE", "5"))
PATIENCE = 30.0  # seconds
TEXTS = 1000  # after which a user's lengths repeat

_seeds = count()


class Requests:
    """A user's own sequence of lengths, and the tensors of each for the inputs that the server names."""

    def __init__(self, host):
        self._inputs = Model(address(host), MODEL).inputs()
        self._lengths = LENGTHS.lengths(TEXTS, seed=next(_seeds))
        self._sent = 0

    def next(self):
        length = self._lengths[self._sent % TEXTS]
        self._sent += 1
        return bodies.tensors(self._inputs, length, bodies.Making())


class GrpcUser(User):
    """One channel for each user; what Locust counts is reported by hand."""

    wait_time = constant_throughput(RATE)

    def on_start(self):
        where = address(self.host)
        if not where.grpc:
            raise BenchError(f"--host: {self.host} is no gRPC address such as grpc://127.0.0.1:8001")
        self._requests = Requests(self.host)
        self._channel = grpc.insecure_channel(where.netloc, [("grpc.use_local_subchannel_pool", 1)])
        self._call = self._channel.unary_unary(f"{SERVICE}/ModelInfer")

    def on_stop(self):
        self._channel.close()

    @task
    def infer(self):
        message = bodies.grpc_message(MODEL, "", self._requests.next())
        started, answer, failure = time.perf_counter(), b"", None
        try:
            answer = self._call(message, timeout=PATIENCE)
        except grpc.RpcError as error:
            failure = error
        self.environment.events.request.fire(
            request_type="gRPC",
            name="ModelInfer",
            response_time=(time.perf_counter() - started) * 1000,
            response_length=len(answer),
            exception=failure,
        )


class HttpUser(FastHttpUser):
    """What the two HTTP users share; a status other than 200 is a failure of its own."""

    abstract = True
    wait_time = constant_throughput(RATE)
    network_timeout = connection_timeout = PATIENCE

    def on_start(self):
        self._requests = Requests(self.host)

    def send(self, body, headers, name):
        self.client.post(bodies.infer_path(MODEL), data=body, headers=headers, name=name)


class BinaryUser(HttpUser):
    """Tensors after the JSON, both ways."""

    @task
    def infer(self):
        self.send(*bodies.http_binary(self._requests.next()), name="infer, binary")


class JsonUser(HttpUser):
    """Tensors in the JSON, both ways."""

    @task
    def infer(self):
        self.send(*bodies.http_json(self._requests.next()), name="infer, JSON")
