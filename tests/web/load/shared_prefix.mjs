// A prefix of 1,000 tokens that 20 requests begin with: computed once?
import { performance } from "node:perf_hooks";
import { Client } from "./stream.mjs";

const kPrefix = 1000, kRequests = 20, kTail = 8, kPage = 64;

/// The first `count` ids of a text.
async function first_ids(url, text, count) {
  const ids = [];
  for (let at = 0; ids.length < count; at += 10_000) {
    const body = JSON.stringify({ prompt: text.slice(at, at + 10_000), add_special_tokens: false });
    ids.push(...(await (await fetch(`${url}/tokenize`, { method: "POST", body })).json()).tokens);
  }
  return ids;
}

/// All prompts at the same time: milliseconds to the last first token, prompt tokens and cached ones in all.
async function ask(url, prompts) {
  const start = performance.now();
  const answers = await Promise.all(prompts.map(async (prompt, i) => {
    const client = new Client(url);
    return client.stream({ prompt, seed: i, temperature: 0.8, max_tokens: 1 }).finally(() => client.close());
  }));
  const sum = (field) => answers.reduce((total, a) => total + a.usage[field], 0);
  return { milliseconds: performance.now() - start, prompt: sum("prompt_tokens"), cached: sum("prompt_cache_hit_tokens") };
}

/// `once`: one prompt alone; `shared`: 20 that begin with the same 1,000 tokens; `apart`: 20 that share nothing.
export async function shared_prefix({ url }, text) {
  const ids = await first_ids(url, text, (kRequests + 3) * (kPrefix + kTail));
  const part = (i) => ids.slice(i * (kPrefix + kTail), (i + 1) * (kPrefix + kTail));
  const others = [...Array(kRequests)].map((_, i) => part(3 + i));
  await ask(url, [part(0)]);  // packs the weights
  const once = await ask(url, [part(1)]);
  const shared = await ask(url, others.map((other) => [...part(2).slice(0, kPrefix), ...other.slice(0, kTail)]));
  const apart = await ask(url, others);
  const expected = (kRequests - 1) * (kPrefix - (kPrefix % kPage)), errors = [];
  if (shared.cached !== expected) errors.push(`cached: expected ${expected} tokens, found ${shared.cached}`);
  return { once, shared, apart, errors };
}
