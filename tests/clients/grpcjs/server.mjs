// The server under test as Node.js sees it: the service made from `protos/`, and callbacks and events as promises.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

export const PROTOS = path.resolve(import.meta.dirname, "../../../protos");

const PATIENCE = 60_000; // milliseconds

export function load(file, options) {
  return grpc.loadPackageDefinition(protoLoader.loadSync(file, options));
}

export const AS_WRITTEN = { keepCase: true, longs: String, enums: String, defaults: true, includeDirs: [PROTOS] };
export const { inference } = load("inference.proto", AS_WRITTEN);
export const { health } = load("health.proto", AS_WRITTEN).grpc;

export class Server {
  constructor(http, address, gate) {
    this.address = address;
    this.gate = gate;
    this.client = this.connect();
  }

  connect(options = {}, Service = inference.GRPCInferenceService) {
    return new Service(this.address, grpc.credentials.createInsecure(), options);
  }

  // While `work` runs the model `echo` answers nothing.
  async held(work) {
    fs.writeFileSync(this.gate, "");
    try {
      return await work();
    } finally {
      fs.rmSync(this.gate);
    }
  }

  // How many requests to `echo` were answered, well and with an error.
  async figures() {
    const { reply } = await ask(this.client, "ModelStatistics", { name: "echo" });
    const { success, fail } = reply.model_stats[0].inference_stats;
    return { succeeded: Number(success.count), failed: Number(fail.count) };
  }

  async reached(figures) {
    const end = Date.now() + PATIENCE;
    let found = await this.figures();
    while (found.failed < figures.failed && Date.now() < end) found = await this.figures();
    assert.deepEqual(found, figures);
  }
}

// A unary call under way; `answer` becomes its reply with the metadata before and after it, or its error.
export function start(client, method, message, { metadata = new grpc.Metadata(), ...options } = {}) {
  let call;
  const answer = new Promise((resolve, reject) => {
    const heard = {};
    call = client[method](message, metadata, options, (error, reply) => {
      heard.reply = reply;
      heard.error = error;
    });
    call.on("metadata", (headers) => (heard.headers = headers));
    call.on("status", ({ metadata: trailers }) => {
      if (heard.error) reject(Object.assign(heard.error, { headers: heard.headers }));
      else resolve({ reply: heard.reply, headers: heard.headers, trailers });
    });
  });
  return { call, answer };
}

export function ask(client, method, message, options) {
  return start(client, method, message, options).answer;
}

// The error of a call that must not succeed.
export async function refusal(answer, code) {
  try {
    await answer;
  } catch (error) {
    assert.equal(grpc.status[error.code], code);
    return error;
  }
  throw new assert.AssertionError({ message: `the call succeeded instead of ending with ${code}` });
}

// Sends all messages over one stream, ends it unless told to leave it open, and gathers the replies and the status.
export function stream(client, messages, { metadata = new grpc.Metadata(), open = false, ...options } = {}) {
  const call = client.ModelStreamInfer(metadata, options);
  const replies = [];
  const ended = new Promise((resolve) => {
    call.on("data", (reply) => replies.push(reply));
    call.on("error", () => {}); // its code is in the status too
    call.on("status", (status) => resolve({ replies, code: grpc.status[status.code], details: status.details }));
  });
  for (const message of messages) call.write(message);
  if (!open) call.end();
  return { call, ended };
}
