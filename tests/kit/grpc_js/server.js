// A @grpc/grpc-js server with the methods of tests/kit/grpc_server.py that its clients in the tests call.
//
//     node server.js --port 50051 --name a [--certificate CRT --key KEY [--client-ca CRT]]
//
// It writes what it saw of calls that end early to standard output, one JSON object a line. SIGTERM ends it gracefully.
"use strict";

const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { parseArgs } = require("node:util");
const grpc = require("@grpc/grpc-js");

const text = { type: "string" };
const { values: options } = parseArgs({
  options: { port: text, name: text, certificate: text, key: text, "client-ca": text },
});

const same = (message) => message;
const method = (name, requestStream, responseStream) => ({
  path: `/kit.Test/${name}`,
  requestStream,
  responseStream,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
});

const service = {
  Empty: method("Empty", false, false),
  Echo: method("Echo", false, false),
  Who: method("Who", false, false),
  Collect: method("Collect", true, false),
  Repeat: method("Repeat", false, true),
  Chat: method("Chat", true, true),
  Fail: method("Fail", false, false),
  Metadata: method("Metadata", false, false),
  Deadline: method("Deadline", false, false),
  Wait: method("Wait", false, false),
  WaitAfterFirst: method("WaitAfterFirst", false, true),
};

const say = (event, call) => console.log(JSON.stringify({ event, call: String(call.metadata.get("x-call")[0] ?? "") }));

const hang = (call) => {
  say("waiting", call);
  call.on("cancelled", () => say("cancelled", call));
};

const implementation = {
  Empty: (call, answer) => answer(null, Buffer.alloc(0)),
  Echo: (call, answer) => answer(null, call.request),
  Who: (call, answer) => answer(null, Buffer.from(options.name ?? "")),
  Collect: (call, answer) => {
    const hash = createHash("sha256");
    let count = 0;
    let total = 0;
    call.on("data", (message) => {
      count += 1;
      total += message.length;
      hash.update(message);
    });
    call.on("end", () => answer(null, Buffer.from(`${count} ${total} ${hash.digest("hex")}`)));
  },
  Repeat: async (call) => {
    const [count, size] = call.request.toString().split(" ").map(Number);
    for (let number = 0; number < count; number += 1) {
      if (!call.write(Buffer.from(String(number).padEnd(size, ".")))) {
        await new Promise((resume) => call.once("drain", resume));
      }
    }
    call.end();
  },
  Chat: (call) => {
    call.on("data", (message) => call.write(message));
    call.on("end", () => call.end());
  },
  Fail: (call, answer) => {
    const [, code, details] = call.request.toString().match(/^(\w+) ?([^]*)$/);
    const metadata = new grpc.Metadata();
    metadata.set("x-why", "asked-for");
    answer({ code: grpc.status[code], details, metadata });
  },
  Metadata: (call, answer) => {
    const initial = new grpc.Metadata();
    const trailing = new grpc.Metadata();
    const received = [];
    for (const key of Object.keys(call.metadata.getMap())) {
      for (const value of call.metadata.get(key)) {
        received.push([key, Buffer.isBuffer(value) ? value.toString("base64") : value]);
        if (key.startsWith("x-kit-")) {
          initial.add(key, value);
          trailing.add(`t-${key}`, value);
        }
      }
    }
    call.sendMetadata(initial);
    answer(null, Buffer.from(JSON.stringify(received)), trailing);
  },
  Deadline: (call, answer) => {
    const left_s = (call.getDeadline() - Date.now()) / 1000;
    answer(null, Buffer.from(Number.isFinite(left_s) ? left_s.toFixed(3) : "none"));
  },
  Wait: (call) => {
    const begun = new grpc.Metadata();
    begun.set("x-kit-begun", "1");
    call.sendMetadata(begun);
    hang(call);
  },
  WaitAfterFirst: (call) => {
    call.write(Buffer.from("first"));
    hang(call);
  },
};

const read = (path) => (path === undefined ? null : readFileSync(path));
const credentials =
  options.certificate === undefined
    ? grpc.ServerCredentials.createInsecure()
    : grpc.ServerCredentials.createSsl(
        read(options["client-ca"]),
        [{ private_key: read(options.key), cert_chain: read(options.certificate) }],
        options["client-ca"] !== undefined,
      );
const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
server.addService(service, implementation);
server.bindAsync(`127.0.0.1:${options.port}`, credentials, (error) => {
  if (error) throw error;
});
process.on("SIGTERM", () => {
  setTimeout(() => server.forceShutdown(), 5000).unref();
  server.tryShutdown(() => process.exit(0));
});
