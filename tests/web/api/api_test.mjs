// Real clients against `sluice serve` with a tiny random model: the npm package openai, raw requests as DeepSeek's clients
// send them, and promtool.
// usage: tests/web/api.sh SLUICE
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { start_server } from "./server.mjs";

const { SLUICE, TEXT } = process.env;
const kKey = "sk-test";
const kQuestion = [{ role: "user", content: "What is the capital of France?" }];
const kTool = {
  type: "function",
  function: {
    name: "set_light",
    description: "Switches a light",
    parameters: {
      type: "object",
      properties: { room: { enum: ["kitchen", "hall"] }, on: { type: "boolean" } },
      required: ["room", "on"],
      additionalProperties: false,
    },
  },
};

let server, client;
before(async () => {
  server = await start_server(SLUICE, TEXT, ["--served-model-name", "tiny", "--served-model-name", "deepseek-chat"], {
    SLUICE_API_KEY: kKey,
  });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: kKey, maxRetries: 0 });
});
after(async () => assert.deepEqual(await server.stop(), { code: 0, signal: null }));

/// A request as DeepSeek's clients send it.
const raw = (path, body, key = kKey) =>
  fetch(server.url + path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

const chat = (fields) =>
  client.chat.completions.create({ model: "tiny", messages: kQuestion, seed: 1, max_tokens: 20, ...fields });

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return { chunks, text: chunks.map((c) => c.choices[0]?.delta.content ?? "").join("") };
}

test("a chat completion, the same text with the same seed, streamed too", async () => {
  const first = await chat({});
  assert.equal(first.object, "chat.completion");
  assert.equal(first.model, "tiny");
  assert.equal(first.choices[0].message.role, "assistant");
  assert.ok(first.choices[0].message.content.length > 0);
  assert.equal(first.usage.completion_tokens <= 20, true);
  assert.equal(first.usage.prompt_tokens, first.usage.prompt_cache_hit_tokens + first.usage.prompt_cache_miss_tokens);
  assert.equal((await chat({})).choices[0].message.content, first.choices[0].message.content);
  assert.notEqual((await chat({ seed: 2 })).choices[0].message.content, first.choices[0].message.content);

  const { chunks, text } = await collect(await chat({ stream: true, stream_options: { include_usage: true } }));
  assert.equal(text, first.choices[0].message.content);
  assert.equal(chunks.at(-2).choices[0].finish_reason, first.choices[0].finish_reason);
  assert.equal(chunks.at(-1).choices.length, 0);
  assert.equal(chunks.at(-1).usage.completion_tokens, first.usage.completion_tokens);
  assert.equal(new Set(chunks.map((c) => c.id)).size, 1);
});

test("the text of sluice generate", async () => {
  const prompt = "It is a truth";
  const options = ["--temperature", "0.7", "--top-p", "0.9", "--seed", "11", "--max-tokens", "30", "--json"];
  const out = execFileSync(SLUICE, ["generate", "--model", server.model, "--prompt", prompt, ...options]);
  const body = { model: "tiny", prompt, temperature: 0.7, top_p: 0.9, seed: 11, max_tokens: 30 };
  const alone = await client.completions.create(body);
  assert.equal(alone.choices[0].text, JSON.parse(out).text);
  const crowd = await Promise.all([...Array(20)].map((_, i) => client.completions.create(i % 2 ? { ...body, seed: i } : body)));
  for (let i = 0; i < 20; i += 2) assert.equal(crowd[i].choices[0].text, alone.choices[0].text);
});

test("several texts, stop strings, penalties and biases", async () => {
  const several = await chat({ n: 3 });
  assert.equal(several.choices.length, 3);
  assert.equal(several.choices[0].message.content, (await chat({})).choices[0].message.content);
  const text = several.choices[0].message.content;
  const stop = text.slice(3, 6);
  const stopped = await chat({ stop: [stop, "\u0000never"] });
  assert.equal(stopped.choices[0].message.content, text.slice(0, text.indexOf(stop)));
  assert.equal(stopped.choices[0].finish_reason, "stop");
  const ids = (await (await raw("/tokenize", { prompt: "a", add_special_tokens: false })).json()).tokens;
  const biased = await client.completions.create({
    model: "tiny", prompt: "x", max_tokens: 4, logit_bias: { [ids[0]]: 100 }, temperature: 0 });
  assert.equal(biased.choices[0].text, "aaaa");
});

test("log probabilities", async () => {
  const r = await chat({ logprobs: true, top_logprobs: 3, temperature: 0 });
  const { content } = r.choices[0].logprobs;
  assert.equal(content.length, r.usage.completion_tokens);
  for (const entry of content) {
    assert.ok(entry.logprob <= 0);
    assert.equal(entry.top_logprobs.length, 3);
    assert.equal(entry.token, entry.top_logprobs[0].token); // greedy
  }
  const echoed = await client.completions.create({ model: "tiny", prompt: "It was", echo: true, logprobs: 2, max_tokens: 0 });
  const l = echoed.choices[0].logprobs;
  assert.equal(echoed.choices[0].text, "It was");
  assert.equal(l.tokens.length, l.token_logprobs.length);
  assert.equal(l.token_logprobs[0], null);
  assert.ok(l.token_logprobs.slice(1).every((p) => p < 0));
});

test("JSON by a schema", async () => {
  const schema = kTool.function.parameters;
  const response_format = { type: "json_schema", json_schema: { name: "light", schema, strict: true } };
  for (let seed = 0; seed < 5; ++seed) {
    const r = await chat({ response_format, seed, max_tokens: 200 });
    const value = JSON.parse(r.choices[0].message.content);
    assert.ok(["kitchen", "hall"].includes(value.room));
    assert.equal(typeof value.on, "boolean");
    assert.equal(r.choices[0].finish_reason, "stop");
    const { text } = await collect(await chat({ response_format, seed, max_tokens: 200, stream: true }));
    assert.deepEqual(JSON.parse(text), value);
  }
});

test("tools: a call that is demanded, whole and streamed", async () => {
  const tool_choice = { type: "function", function: { name: "set_light" } };
  for (const choice of [tool_choice, "required"]) {
    const r = await chat({ tools: [kTool], tool_choice: choice, max_tokens: 200 });
    assert.equal(r.choices[0].finish_reason, "tool_calls");
    const call = r.choices[0].message.tool_calls[0];
    assert.equal(call.function.name, "set_light");
    const value = JSON.parse(call.function.arguments);
    assert.equal(typeof value.on, "boolean");

    let name = "", text = "", id;
    for await (const chunk of await chat({ tools: [kTool], tool_choice: choice, max_tokens: 200, stream: true }))
      for (const part of chunk.choices[0]?.delta.tool_calls ?? []) {
        id ??= part.id;
        name += part.function?.name ?? "";
        text += part.function?.arguments ?? "";
      }
    assert.ok(id);
    assert.equal(name, "set_light");
    assert.deepEqual(JSON.parse(text), value);
    // The call and its result go back.
    const messages = [...kQuestion, r.choices[0].message, { role: "tool", tool_call_id: call.id, content: "done" }];
    assert.ok((await chat({ messages, tools: [kTool] })).choices[0].message.role === "assistant");
  }
});

test("an abort frees the engine", async () => {
  const stream = await chat({ stream: true, max_tokens: 1900, logit_bias: { 1: -100 } });
  let chunks = 0;
  for await (const chunk of stream) if (chunk && ++chunks === 5) stream.controller.abort();
  assert.ok(chunks < 1000);
  for (let i = 0; ; ++i) {
    const text = await (await fetch(`${server.url}/metrics`, { headers: { Authorization: `Bearer ${kKey}` } })).text();
    if (/sluice_num_requests_running\{[^}]*\} 0\n/.test(text)) break;
    assert.ok(i < 100, text);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

test("errors are of the client's classes", async () => {
  await assert.rejects(chat({ temperature: 3 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature");
  await assert.rejects(chat({ model: "gpt" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
  await assert.rejects(chat({ messages: [{ role: "user", content: "word ".repeat(5000) }] }),
    (e) => e instanceof OpenAI.BadRequestError && e.code === "context_length_exceeded");
  const wrong = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "sk-wrong", maxRetries: 0 });
  await assert.rejects(wrong.models.list(), (e) => e instanceof OpenAI.AuthenticationError && e.code === "invalid_api_key");
  await assert.rejects(client.responses.create({ model: "tiny", input: "x" }),
    (e) => e instanceof OpenAI.NotFoundError && e.message.includes("/v1/chat/completions"));
});

test("models", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.deepEqual(names, ["tiny", "deepseek-chat"]);
  assert.equal((await client.models.retrieve("tiny")).max_model_len, 2048);
});

test("DeepSeek: chat, prefix completion, cache counts, wrong parameters", async () => {
  const body = { model: "deepseek-chat", messages: kQuestion, max_tokens: 8 };
  const first = await (await raw("/chat/completions", body)).json();
  assert.equal(first.choices[0].message.role, "assistant");
  const prefix = { role: "assistant", content: "The capital is", prefix: true };
  const continued = await (await raw("/beta/chat/completions", { ...body, messages: [...kQuestion, prefix] })).json();
  assert.equal(typeof continued.choices[0].message.content, "string");

  const long = [{ role: "user", content: "Once upon a time there was a river. ".repeat(30) }];
  await raw("/chat/completions", { ...body, messages: long });
  const again = await (await raw("/chat/completions", { ...body, messages: long })).json();
  assert.ok(again.usage.prompt_cache_hit_tokens >= 64, JSON.stringify(again.usage));

  assert.equal((await raw("/chat/completions", "{")).status, 400);
  assert.equal((await raw("/chat/completions", { ...body, top_p: 2 })).status, 422);
  assert.equal((await raw("/chat/completions", body, "wrong")).status, 401);
});

test("DeepSeek: a stream as text", async () => {
  const response = await raw("/chat/completions", { model: "deepseek-chat", messages: kQuestion, max_tokens: 4, stream: true });
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  assert.ok(response.headers.get("x-request-id"));
  const text = await response.text();
  assert.ok(text.endsWith("data: [DONE]\n\n"));
  for (const line of text.split("\n\n").filter((l) => l && !l.startsWith(":"))) assert.match(line, /^data: (\{.*\}|\[DONE\])$/);
});

test("tokens and back", async () => {
  const text = "It is a truth universally acknowledged";
  const { tokens, count, max_model_len } = await (await raw("/tokenize", { prompt: text, add_special_tokens: false })).json();
  assert.equal(tokens.length, count);
  assert.equal(max_model_len, 2048);
  assert.equal((await (await raw("/detokenize", { tokens })).json()).prompt, text);
});

test("metrics are what promtool accepts", async () => {
  const response = await fetch(`${server.url}/metrics`, { headers: { Authorization: `Bearer ${kKey}` } });
  const text = await response.text();
  const checked = spawnSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8" });
  assert.equal(checked.status, 0, checked.stdout + checked.stderr);
  for (const name of ["num_requests_running", "kv_cache_usage_perc", "time_to_first_token_seconds_bucket", "expert_tokens_total"])
    assert.ok(text.includes(`\nsluice_${name}{`), name);
});

test("no prompt is in the log", () => {
  assert.ok(server.log().includes("/v1/chat/completions"));
  assert.ok(!server.log().includes("capital"));
});
