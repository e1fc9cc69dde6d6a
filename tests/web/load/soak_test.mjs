// A server with a tiny random model under load and through its end: meant for a build with the thread sanitizer, whose
// reports are failures.
// usage: tests/web/soak.sh SLUICE
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { make_tiny_model, serve } from "../api/server.mjs";
import { completions, generated_text, run_load } from "./load.mjs";
import { Client } from "./stream.mjs";

const { SLUICE, TEXT, SECONDS_OF_LOAD } = process.env;
const kThreads = ["--threads", "2"];
const kSchema = { type: "object", properties: { a: { type: "integer" }, b: { enum: ["x", "y"] } }, required: ["a", "b"] };

let folder, model;
before(() => {
  folder = mkdtempSync(join(tmpdir(), "sluice-soak-"));
  model = make_tiny_model(SLUICE, TEXT, folder);
});
after(() => rmSync(folder, { recursive: true, force: true }));

/// A server that does not outlive the test.
async function start(t, options = []) {
  const server = await serve(SLUICE, model, [...kThreads, ...options]);
  t.after(() => server.stop("SIGKILL"));
  return server;
}

/// Ends the server and looks for what it or the sanitizer had to say.
async function stop_clean(server) {
  const ended = await server.stop();
  assert.ok(!server.log().includes("ThreadSanitizer"), server.log());
  assert.deepEqual(ended, { code: 0, signal: null }, server.log().slice(-2000));
}

/// Everything else that clients do, one after the other until `signal`: messages, schemas, several texts, log
/// probabilities, metrics, wrong requests.
async function mixed_requests(url, signal) {
  const messages = [{ role: "user", content: "Who is it?" }], usual = { messages, max_tokens: 24, seed: 5 };
  const requests = [
    ["/v1/chat/completions", { ...usual, stream: true, logprobs: true, top_logprobs: 3 }],
    ["/v1/chat/completions", { ...usual, max_tokens: 200, response_format: { type: "json_schema", json_schema: { name: "s", schema: kSchema } } }],
    ["/chat/completions", { ...usual, n: 3, frequency_penalty: 0.5 }],
    ["/v1/completions", { prompt: ["It was", "She"], echo: true, logprobs: 2, max_tokens: 8, seed: 1 }],
    ["/tokenize", { messages }],
    ["/v1/completions", { prompt: "x", max_tokens: -1 }],
  ];
  for (let i = 0; !signal.aborted; ++i) {
    const [path, body] = requests[i % requests.length];
    const r = await fetch(url + path, { method: "POST", body: JSON.stringify(body) });
    const answer = await r.text();
    assert.equal(r.status, body.max_tokens < 0 ? 400 : 200, answer);
    const choice = body.response_format && JSON.parse(answer).choices[0];
    if (choice?.finish_reason === "stop") JSON.parse(choice.message.content);
    assert.equal((await fetch(`${url}/metrics`)).status, 200);
  }
}

test("load: the texts of sluice generate, whoever comes and goes", async (t) => {
  const cases = completions(60).map((body) => ({ body, text: generated_text(SLUICE, model, body, kThreads) }));
  // Fewer pages than the texts need: prefixes are evicted, texts preempted.
  const server = await start(t, ["--kv-cache-tokens", "2112", "--kv-cache-dir", join(folder, "load"), "--max-num-seqs", "32"]);
  const mixing = new AbortController(), mixed = mixed_requests(server.url, mixing.signal);
  mixed.catch(() => {});  // looked at below
  const options = { streams: 40, seconds: Number(SECONDS_OF_LOAD), idle: 500, vanish: true, unique: true };
  const result = await run_load(server, cases, options).finally(() => mixing.abort());
  await mixed;
  t.diagnostic(JSON.stringify({ ...result, errors: result.errors.length }));
  assert.deepEqual(result.errors.slice(0, 5), []);
  assert.ok(result.vanished > 0 && result.compared > 0);
  await stop_clean(server);
});

test("SIGTERM in mid-stream: streams finish, nobody is let in", async (t) => {
  const body = { prompt: "It is a truth", seed: 3, temperature: 0.8, top_p: 1, max_tokens: 300 };
  const expected = generated_text(SLUICE, model, body, kThreads);
  const server = await start(t);
  const clients = [...Array(8)].map(() => new Client(server.url));
  let begun = 0;
  const streams = clients.map((c) => c.stream(body, { first: () => ++begun }));
  while (begun < clients.length) await sleep(1);
  const ended = stop_clean(server);
  for (const got of await Promise.all(streams)) assert.equal(got.text, expected);
  for (const c of clients) c.close();
  await ended;
  await assert.rejects(fetch(`${server.url}/health`));
});
