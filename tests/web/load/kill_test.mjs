// SIGKILL while a disk cache is being written, again and again, and files that are torn as by a power cut: the next server
// gives the same texts.
// usage: tests/web/api.sh SLUICE, or tests/web/soak.sh SLUICE
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { make_tiny_model, serve } from "../api/server.mjs";
import { generated_text } from "./load.mjs";
import { Client } from "./stream.mjs";

const { SLUICE, TEXT, KILLS } = process.env;
const kThreads = ["--threads", "2"];
const text = readFileSync(TEXT, "utf8");

let folder, model;
before(() => {
  folder = mkdtempSync(join(tmpdir(), "sluice-kill-"));
  model = make_tiny_model(SLUICE, TEXT, folder);
});
after(() => rmSync(folder, { recursive: true, force: true }));

const cache_folder = () => join(folder, "cache");
const cache_files = () => readdirSync(cache_folder()).filter((name) => name.endsWith(".kv")).map((name) => join(cache_folder(), name));

async function start(t) {
  const server = await serve(SLUICE, model, [...kThreads, "--kv-cache-dir", cache_folder()]);
  t.after(() => server.stop("SIGKILL"));
  return server;
}

function ask(url, body) {
  const client = new Client(url);
  return client.stream(body).finally(() => client.close());
}

/// Every third file is no longer what was written: cut off, empty, or changed in a byte.
function tear_files() {
  const files = cache_files().filter((_, i) => i % 3 === 0);
  for (const [i, file] of files.entries()) {
    const { size } = statSync(file);
    if (i % 2 === 0) {
      truncateSync(file, i % 4 === 0 ? Math.floor(Math.random() * size) : 0);
    } else {
      const bytes = readFileSync(file);
      bytes[Math.floor(Math.random() * size)] ^= 16;
      writeFileSync(file, bytes);
    }
  }
  return files.length;
}

/// Milliseconds that all answers take with an empty cache; it is empty again then.
async function time_to_answer(t, bodies) {
  const server = await start(t), begin = performance.now();
  await Promise.all(bodies.map((body) => ask(server.url, body)));
  const milliseconds = performance.now() - begin;
  await server.stop();
  for (const file of cache_files()) rmSync(file);
  return milliseconds;
}

test("SIGKILL while the disk cache is written, and torn files", async (t) => {
  const bodies = [...Array(24)].map((_, i) => ({
    prompt: text.slice(3000 * i, 3000 * i + 2000), seed: i, temperature: 0.8, top_p: 1, max_tokens: 4 }));
  const expected = bodies.map((body) => generated_text(SLUICE, model, body, kThreads));
  const longest = await time_to_answer(t, bodies);
  let answered = 0, cached = 0, torn = 0, written = 0;
  for (let round = 0; round < Number(KILLS); ++round) {
    const server = await start(t);
    const answers = bodies.map((body) => ask(server.url, body).catch(() => null));
    await sleep(Math.random() * longest);
    assert.deepEqual(await server.stop("SIGKILL"), { code: null, signal: "SIGKILL" }, server.log());
    for (const [i, got] of (await Promise.all(answers)).entries()) {
      if (!got) continue;
      assert.equal(got.text, expected[i]);
      ++answered;
      cached += got.usage.prompt_cache_hit_tokens;
    }
    written = Math.max(written, cache_files().length);
    if (round % 4 === 3) torn += tear_files();
    if (round % 8 === 7) for (const file of cache_files()) rmSync(file);  // there is something to write again
  }
  t.diagnostic(`${KILLS} kills: ${answered} answers with ${cached} cached tokens, up to ${written} files, ${torn} torn`);
  assert.ok(answered > 0 && cached > 0 && written > 0);
  for (const again of [false, true]) {
    const server = await start(t);
    const answers = await Promise.all(bodies.map((body) => ask(server.url, body)));
    assert.deepEqual(answers.map((a) => a.text), expected);
    if (again) for (const a of answers) assert.ok(a.usage.prompt_cache_hit_tokens > 0);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
  }
});
