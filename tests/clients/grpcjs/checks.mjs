// What Node.js's gRPC client may expect of a server; each check is a test.

import assert from "node:assert/strict";
import { once } from "node:events";
import path from "node:path";

import grpc from "@grpc/grpc-js";

import { ask, health, load, PROTOS, refusal, start, stream } from "./server.mjs";

// Sent at once to the model that is held up; it can have a few at work and one waiting, so most of them are refused.
const CROWD = 20;
const MOST = 10;

const RETRYING = {
  "grpc.service_config": JSON.stringify({
    methodConfig: [
      {
        name: [{}],
        retryPolicy: {
          maxAttempts: 3,
          initialBackoff: "0.01s",
          maxBackoff: "0.01s",
          backoffMultiplier: 1,
          retryableStatusCodes: ["UNAVAILABLE"],
        },
      },
    ],
  }),
};

// Two elements of each datatype: the list they go into, themselves, and their bytes.
const ELEMENTS = {
  BOOL: ["bool_contents", [true, false], [1, 0]],
  UINT8: ["uint_contents", [0, 255], [0, 255]],
  UINT16: ["uint_contents", [1, 65535], [1, 0, 255, 255]],
  UINT32: ["uint_contents", [1, 4294967295], new Uint32Array([1, 4294967295])],
  UINT64: ["uint64_contents", ["1", "18446744073709551615"], new BigUint64Array([1n, 18446744073709551615n])],
  INT8: ["int_contents", [-128, 127], [128, 127]],
  INT16: ["int_contents", [-32768, 32767], new Int16Array([-32768, 32767])],
  INT32: ["int_contents", [-2147483648, 2147483647], new Int32Array([-2147483648, 2147483647])],
  INT64: ["int64_contents", ["-9223372036854775808", "5"], new BigInt64Array([-9223372036854775808n, 5n])],
  FP32: ["fp32_contents", [0.1, -3e38], new Float32Array([0.1, -3e38])],
  FP64: ["fp64_contents", [0.1, -1e308], new Float64Array([0.1, -1e308])],
  BYTES: ["bytes_contents", [Buffer.from("größe"), Buffer.alloc(0)], Buffer.from("\x07\0\0\0größe\0\0\0\0")],
};

const UNKNOWN = { model_name: "unknown", id: "bad" };

function bytes(elements) {
  if (Array.isArray(elements)) return Buffer.from(elements);
  return Buffer.from(elements.buffer, elements.byteOffset, elements.byteLength);
}

function ints(...elements) {
  return bytes(new BigInt64Array(elements.map(BigInt)));
}

function tagger(id, ...ids) {
  const shape = [1, ids.length];
  return {
    model_name: "tagger",
    id,
    inputs: [
      { name: "input_ids", datatype: "INT64", shape },
      { name: "attention_mask", datatype: "INT64", shape },
    ],
    raw_input_contents: [ints(...ids), ints(...ids.map(() => 1))],
  };
}

function echo(...values) {
  const x = { name: "x", datatype: "INT64", shape: [1, values.length], contents: { int64_contents: values } };
  return { model_name: "echo", inputs: [x] };
}

function identity() {
  const inputs = Object.keys(ELEMENTS).map((datatype, i) => ({ name: `INPUT${i}`, datatype, shape: [1, 2] }));
  return { model_name: "identity", inputs };
}

function assertIdentity(reply) {
  assert.deepEqual(
    reply.outputs.map(({ name, datatype, shape }) => ({ name, datatype, shape })),
    Object.keys(ELEMENTS).map((datatype, i) => ({ name: `OUTPUT${i}`, datatype, shape: ["1", "2"] })),
  );
  assert.deepEqual(
    reply.raw_output_contents,
    Object.values(ELEMENTS).map(([, , raw]) => bytes(raw)),
  );
}

async function assertAnswering({ client }) {
  const { reply } = await ask(client, "ModelInfer", echo(7));
  assert.deepEqual(reply.raw_output_contents, [ints(7)]);
}

function soon() {
  return { deadline: Date.now() + 200 };
}

// Overloads `echo` until most requests are refused, then lets the others through.
async function crowd(server, client) {
  const answers = await server.held(async () => {
    const sent = Array.from({ length: CROWD }, () => ask(client, "ModelInfer", echo(7, 8)));
    let refused = 0;
    await new Promise((resolve) => {
      for (const answer of sent) answer.catch(() => (refused += 1) === MOST && resolve());
    });
    return sent;
  });
  return Promise.allSettled(answers);
}

// ---- Unary calls

export async function check_health_and_readiness({ client }) {
  assert.deepEqual((await ask(client, "ServerLive", {})).reply, { live: true });
  assert.deepEqual((await ask(client, "ServerReady", {})).reply, { ready: true });
  assert.deepEqual((await ask(client, "ModelReady", { name: "tagger", version: "1" })).reply, { ready: true });
}

export async function check_descriptions({ client }) {
  const { reply: server } = await ask(client, "ServerMetadata", {});
  assert.equal(server.name, "sluice");
  const { reply: model } = await ask(client, "ModelMetadata", { name: "tagger" });
  assert.deepEqual(model.inputs[0], { name: "input_ids", datatype: "INT64", shape: ["-1", "-1"] });
  const { reply: described } = await ask(client, "ModelConfig", { name: "tagger" });
  assert.equal(described.config.input[0].data_type, "TYPE_INT64");
  const { reply: index } = await ask(client, "RepositoryIndex", { ready: true });
  assert.deepEqual(
    index.models.map(({ name, state }) => [name, state]).sort(),
    ["bf16", "echo", "fp16", "identity", "tagger"].map((name) => [name, "READY"]),
  );
}

export async function check_every_datatype_typed({ client }) {
  const request = identity();
  for (const [list, values] of Object.values(ELEMENTS)) {
    const input = request.inputs.find(({ contents }) => !contents);
    input.contents = { [list]: values };
  }
  assertIdentity((await ask(client, "ModelInfer", request)).reply);
}

export async function check_every_datatype_raw({ client }) {
  const raw_input_contents = Object.values(ELEMENTS).map(([, , raw]) => bytes(raw));
  assertIdentity((await ask(client, "ModelInfer", { ...identity(), raw_input_contents })).reply);
}

export async function check_half_precision_raw({ client }) {
  for (const datatype of ["FP16", "BF16"]) {
    const sent = bytes([0, 0x38, 0xff, 0xfb]);
    const inputs = [{ name: "INPUT0", datatype, shape: [1, 2] }];
    const request = { model_name: datatype.toLowerCase(), inputs, raw_input_contents: [sent] };
    const { reply } = await ask(client, "ModelInfer", request);
    assert.equal(reply.outputs[0].datatype, datatype);
    assert.deepEqual(reply.raw_output_contents, [sent]);
  }
}

// Without options the loader renames fields and makes objects of 64-bit numbers.
export async function check_the_loaders_own_names(server) {
  const loaded = load(path.join(PROTOS, "inference.proto"));
  const client = server.connect({}, loaded.inference.GRPCInferenceService);
  const x = { name: "x", datatype: "INT64", shape: [1, 2], contents: { int64Contents: [7, 8] } };
  const { reply } = await ask(client, "ModelInfer", { modelName: "echo", inputs: [x] });
  assert.equal(reply.modelName, "echo");
  assert.equal(reply.outputs[0].shape[1].toNumber(), 2);
  assert.deepEqual(reply.rawOutputContents, [ints(7, 8)]);
}

export async function check_request_ids_as_metadata({ client }) {
  const metadata = new grpc.Metadata();
  metadata.set("x-request-id", "from-metadata");
  const { reply, headers } = await ask(client, "ModelInfer", echo(1), { metadata });
  assert.equal(reply.id, "from-metadata");
  assert.deepEqual(headers.get("x-request-id"), ["from-metadata"]);
  const failed = await refusal(ask(client, "ModelInfer", { ...UNKNOWN, id: "" }, { metadata }), "NOT_FOUND");
  assert.deepEqual(failed.headers.get("x-request-id"), ["from-metadata"]);
}

export async function check_parameters({ client }) {
  const parameters = {
    priority: { uint64_param: 1 },
    timeout: { int64_param: 60_000_000 },
    note: { string_param: "é" },
  };
  const { reply } = await ask(client, "ModelInfer", { ...tagger("p", 3, 4), parameters, outputs: [{ name: "total" }] });
  assert.deepEqual(reply.raw_output_contents, [ints(14)]);
  const unknown = { triton_unknown: { bool_param: true } };
  await refusal(ask(client, "ModelInfer", { ...tagger("p", 3), parameters: unknown }), "INVALID_ARGUMENT");
}

export async function check_compressed_requests(server) {
  const gzip = server.connect({ "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip });
  const values = Array(10_000).fill("7");
  const { reply } = await ask(gzip, "ModelInfer", echo(...values));
  assert.deepEqual(reply.raw_output_contents, [ints(...values)]);
}

export async function check_large_messages(server) {
  const unlimited = server.connect({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
  const x = { name: "x", datatype: "INT64", shape: [1, 1_000_000] };
  const sent = bytes(new BigInt64Array(1_000_000).fill(7n));
  const { reply } = await ask(unlimited, "ModelInfer", { model_name: "echo", inputs: [x], raw_input_contents: [sent] });
  assert(reply.raw_output_contents[0].equals(sent));
}

export async function check_errors({ client }) {
  const unknown = await refusal(ask(client, "ModelInfer", UNKNOWN), "NOT_FOUND");
  assert.equal(unknown.details, "Request for unknown model: 'unknown' is not found");
  const mixed = { ...tagger("", 3) };
  mixed.inputs[0].contents = { int64_contents: [3] };
  await refusal(ask(client, "ModelInfer", mixed), "INVALID_ARGUMENT");
  const failed = await refusal(ask(client, "ModelInfer", echo(666)), "INTERNAL");
  assert.match(failed.details, /the number of the beast/);
}

export async function check_unknown_methods(server) {
  const Service = grpc.makeGenericClientConstructor({
    Ask: {
      path: "/inference.GRPCInferenceService/Ask",
      requestStream: false,
      responseStream: false,
      requestSerialize: (value) => value,
      responseDeserialize: (value) => value,
    },
  });
  await refusal(ask(server.connect({}, Service), "Ask", Buffer.alloc(0)), "UNIMPLEMENTED");
}

// ---- Deadlines, cancels, overload

export async function check_deadline(server) {
  await server.held(() => refusal(ask(server.client, "ModelInfer", echo(7), soon()), "DEADLINE_EXCEEDED"));
  await assertAnswering(server);
}

export async function check_stream_deadline(server) {
  await server.held(async () => {
    const { code } = await stream(server.client, [echo(7)], { ...soon(), open: true }).ended;
    assert.equal(code, "DEADLINE_EXCEEDED");
  });
  await assertAnswering(server);
}

export async function check_cancel(server) {
  const { succeeded, failed } = await server.figures();
  await server.held(async () => {
    const { call, answer } = start(server.client, "ModelInfer", echo(7));
    await refusal(ask(server.client, "ModelInfer", UNKNOWN), "NOT_FOUND"); // sent later: the server has the first
    call.cancel();
    await refusal(answer, "CANCELLED");
    await server.reached({ succeeded, failed: failed + 1 });
  });
  await assertAnswering(server);
}

export async function check_stream_cancel(server) {
  const { succeeded, failed } = await server.figures();
  await server.held(async () => {
    const { call, ended } = stream(server.client, [echo(7), UNKNOWN], { open: true });
    await once(call, "data"); // answers the second: the server has both
    call.cancel();
    assert.equal((await ended).code, "CANCELLED");
    await server.reached({ succeeded, failed: failed + 1 });
  });
  await assertAnswering(server);
}

export async function check_overload_is_not_repeated(server) {
  const { succeeded, failed } = await server.figures();
  const answers = await crowd(server, server.connect(RETRYING));
  const refused = answers.flatMap(({ reason }) => reason ?? []);
  for (const error of refused) {
    assert.equal(grpc.status[error.code], "UNAVAILABLE");
    assert.match(error.details, /Exceeds maximum queue size/);
    assert.deepEqual(error.metadata.get("grpc-retry-pushback-ms"), ["-1"]);
  }
  const expected = { succeeded: succeeded + CROWD - refused.length, failed: failed + refused.length };
  assert.deepEqual(await server.figures(), expected);
}

// ---- Streams

export async function check_stream({ client }) {
  const requests = Array.from({ length: 200 }, (_, i) => tagger(`${i}`, ...Array((i % 7) + 1).fill(i)));
  const { replies, code } = await stream(client, requests).ended;
  assert.equal(code, "OK");
  const totals = replies.map(({ error_message, infer_response: { id, raw_output_contents } }) => {
    assert.equal(error_message, "");
    return [Number(id), Number(raw_output_contents[1].readBigInt64LE())];
  });
  const expected = requests.map((_, i) => [i, 2 * i * ((i % 7) + 1)]);
  assert.deepEqual(totals.sort(([a], [b]) => a - b), expected);
}

export async function check_stream_goes_on_after_errors({ client }) {
  const { call, ended } = stream(client, [UNKNOWN], { open: true });
  const [bad] = await once(call, "data");
  assert.equal(bad.error_message, "Request for unknown model: 'unknown' is not found");
  assert.equal(bad.infer_response.id, "bad");
  call.write(tagger("good", 3));
  const [good] = await once(call, "data");
  assert.equal(good.infer_response.id, "good");
  call.end();
  assert.equal((await ended).code, "OK");
}

export async function check_stream_ends_with_an_error_if_asked({ client }) {
  const metadata = new grpc.Metadata();
  metadata.set("triton_grpc_error", "true");
  const { code, details } = await stream(client, [UNKNOWN], { metadata, open: true }).ended;
  assert.equal(code, "NOT_FOUND");
  assert.equal(details, "Request for unknown model: 'unknown' is not found");
}

export async function check_stream_marks_final_responses({ client }) {
  const parameters = { triton_enable_empty_final_response: { bool_param: true } };
  const { replies } = await stream(client, [{ ...tagger("", 3), parameters }]).ended;
  assert.equal(replies[0].infer_response.parameters.triton_final_response.bool_param, true);
}

export async function check_empty_stream({ client }) {
  const { replies, code } = await stream(client, []).ended;
  assert.deepEqual([replies, code], [[], "OK"]);
}

// ---- The standard health check

export async function check_health_check(server) {
  const client = server.connect({}, health.v1.Health);
  for (const service of ["", "inference.GRPCInferenceService", "tagger", "tagger/1"]) {
    assert.deepEqual((await ask(client, "Check", { service })).reply, { status: "SERVING" });
  }
  await refusal(ask(client, "Check", { service: "unknown" }), "NOT_FOUND");
}

export async function check_health_watch(server) {
  const watch = server.connect({}, health.v1.Health).Watch({ service: "bf16" });
  let [status] = await once(watch, "data");
  assert.equal(status.status, "SERVING");
  for (const [method, expected] of [
    ["RepositoryModelUnload", "NOT_SERVING"],
    ["RepositoryModelLoad", "SERVING"],
  ]) {
    const next = once(watch, "data"); // awaited before it can come: nobody keeps it
    await ask(server.client, method, { model_name: "bf16" });
    [status] = await next;
    assert.equal(status.status, expected);
  }
  const end = once(watch, "error");
  watch.cancel();
  const [error] = await end;
  assert.equal(grpc.status[error.code], "CANCELLED");
}
