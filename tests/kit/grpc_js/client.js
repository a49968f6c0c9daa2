// A @grpc/grpc-js client: one scenario against the methods of tests/kit/grpc_server.py, its result as JSON.
//
//     node client.js PORT SCENARIO
"use strict";

const { createHash } = require("node:crypto");
const grpc = require("@grpc/grpc-js");

const [, , port, scenario] = process.argv;
const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
  "grpc.enable_http_proxy": 0,
  "grpc.enable_retries": 0,
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
});

const same = (message) => message;
const path = (name) => (name.startsWith("/") ? name : `/kit.Test/${name}`);
const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const marked = (mark) => {
  const metadata = new grpc.Metadata();
  metadata.set("x-call", mark);
  return metadata;
};

// The fate of a unary call: its message or its status, and the metadata of both kinds.
function unary(name, message = Buffer.alloc(0), { metadata = new grpc.Metadata(), options = within(15), started } = {}) {
  return new Promise((resolve) => {
    const fate = {};
    const call = client.makeUnaryRequest(path(name), same, same, message, metadata, options, (error, answer) => {
      fate.message = answer;
      fate.code = error ? grpc.status[error.code] : "OK";
      fate.details = error ? error.details : "";
    });
    call.on("metadata", (initial) => (fate.initial = initial));
    call.on("status", (status) => {
      fate.trailing = status.metadata;
      setImmediate(resolve, fate);
    });
    started?.(call);
  });
}

// The messages and the status of a call whose responses are a stream.
function collect(call) {
  return new Promise((resolve) => {
    const messages = [];
    call.on("data", (message) => messages.push(message));
    call.on("error", () => {}); // the status says it as well
    call.on("status", (status) => setImmediate(resolve, { messages, code: grpc.status[status.code] }));
  });
}

const chat = () => client.makeBidiStreamRequest(path("Chat"), same, same, new grpc.Metadata(), within(30));
const download = (name, message, mark = "") =>
  client.makeServerStreamRequest(path(name), same, same, Buffer.from(message), marked(mark), within(30));

const scenarios = {
  async unary() {
    const sizes = [0, 1, 100_000, 4 * 1024 * 1024];
    const results = [];
    for (const size of sizes) {
      const message = Buffer.alloc(size, "koguma");
      const fate = await unary("Echo", message);
      results.push(fate.code === "OK" && sha256(fate.message) === sha256(message));
    }
    return results;
  },

  async client_stream() {
    const fate = await new Promise((resolve) => {
      const call = client.makeClientStreamRequest(
        path("Collect"), same, same, new grpc.Metadata(), within(15),
        (error, answer) => resolve(error ? error.details : answer.toString()),
      );
      for (let number = 0; number < 1000; number += 1) call.write(Buffer.alloc(1000, String(number % 10)));
      call.end();
    });
    return fate.split(" ").slice(0, 2).map(Number);
  },

  async server_stream() {
    const { messages, code } = await collect(download("Repeat", "1000 5000"));
    const inOrder = messages.every((message, number) => parseInt(message.toString(), 10) === number);
    return [messages.length, inOrder, code];
  },

  async ping_pong() {
    const call = chat();
    const over = collect(call);
    let returned = 0;
    await new Promise((resolve) => {
      call.on("data", (message) => {
        returned += Number(message.toString() === String(returned));
        if (returned === 200) resolve();
        else call.write(Buffer.from(String(returned)));
      });
      call.write(Buffer.from("0"));
    });
    call.end();
    return [returned, (await over).code];
  },

  async thousand_streams() {
    const calls = Array.from({ length: 1000 }, chat);
    const overs = calls.map(collect);
    const round = (word) =>
      Promise.all(
        calls.map(
          (call, number) =>
            new Promise((resolve) => {
              call.once("data", (message) => resolve(message.toString() === `${word} ${number}`));
              call.write(Buffer.from(`${word} ${number}`));
            }),
        ),
      );
    const same = [...(await round("hello")), ...(await round("again"))].filter(Boolean).length;
    calls.forEach((call) => call.end());
    const codes = new Set((await Promise.all(overs)).map((over) => over.code));
    return [same, [...codes]];
  },

  async metadata() {
    const metadata = new grpc.Metadata();
    metadata.add("x-kit-text", "a value, with: signs %");
    metadata.add("x-kit-twice", "1");
    metadata.add("x-kit-twice", "2");
    metadata.add("x-kit-bytes-bin", Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));
    metadata.add("x-kit-long", "v".repeat(4000));
    const fate = await unary("Metadata", Buffer.alloc(0), { metadata });
    const seen = (received, prefix) =>
      ["text", "twice", "bytes-bin", "long"].map((key) => {
        const values = received.get(`${prefix}x-kit-${key}`);
        // Node's own HTTP/2 gives repeated fields as one, joined by a comma.
        return key.endsWith("-bin") ? sha256(Buffer.concat(values)) : values.join(", ");
      });
    const sent = seen(metadata, "");
    const equal = (others) => JSON.stringify(others) === JSON.stringify(sent);
    return [fate.code, equal(seen(fate.initial, "")), equal(seen(fate.trailing, "t-"))];
  },

  async deadline() {
    const left = Number((await unary("Deadline", undefined, { options: within(20) })).message.toString());
    const none = (await unary("Deadline", undefined, { options: {} })).message.toString();
    const late = await unary("Wait", undefined, { metadata: marked("late"), options: within(0.3) });
    return [left > 18 && left <= 20.5, none, late.code];
  },

  async statuses() {
    const results = {};
    for (const [name, code] of Object.entries(grpc.status)) {
      if (typeof code !== "number" || code === 0) continue;
      const fate = await unary("Fail", Buffer.from(`${name} because`));
      results[name] = [fate.code, fate.details, String(fate.trailing.get("x-why")[0])];
    }
    return results;
  },

  async messages() {
    const messages = ["100 %", "%41 is not A", "über 日本 🐻", "tab\tline\nreturn\r", 'a,b;c="d"', ""];
    const details = [];
    for (const message of messages) {
      details.push((await unary("Fail", Buffer.from(`DATA_LOSS ${message}`))).details === message);
    }
    return details;
  },

  async unimplemented() {
    const codes = [];
    for (const name of ["Missing", "/missing.Service/Echo", "Empty"]) codes.push((await unary(name)).code);
    return codes;
  },

  async cancel() {
    const begun = await unary("Wait", undefined, {
      metadata: marked("begun"),
      started: (call) => call.on("metadata", () => call.cancel()),
    });
    const call = download("WaitAfterFirst", "", "answered");
    const over = collect(call);
    call.once("data", () => call.cancel());
    const { messages, code } = await over;
    return [begun.code, messages.map(String), code, (await unary("Echo", Buffer.from("x"))).code];
  },

  async refused() {
    const fate = await unary("Empty");
    return [fate.code, fate.details];
  },
};

scenarios[scenario]().then((result) => {
  console.log(JSON.stringify(result));
  client.close();
});
