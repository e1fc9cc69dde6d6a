// Load on a running server, bounded in count and time: streams whose texts are known, others that nobody has asked for
// before, clients that vanish, idle connections.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, idle_clients } from "./stream.mjs";

const kPrompts = [
  "It is a truth", "She had been", "春风", "The captain", "My dear", "Nothing could", "明月", "Upon the whole",
  "In the morning", "Her father", "白日", "A letter", "But Emma", "There was", "山中", "Mrs. Bennet",
];

/// What `sluice generate` writes for the body of a completion.
export function generated_text(sluice, model, { prompt, seed, temperature, top_p, max_tokens }, options = []) {
  const fields = { model, prompt, seed, temperature, "top-p": top_p, "max-tokens": max_tokens };
  const args = Object.entries(fields).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const out = execFileSync(sluice, ["generate", ...args, "--json", ...options], { stdio: ["ignore", "pipe", "ignore"] });
  return JSON.parse(out).text;
}

/// 16 completions that have nothing in common; without `temperature` a quarter of them are greedy.
export const completions = (max_tokens, temperature) =>
  kPrompts.map((prompt, i) => ({ prompt, seed: 100 + i, temperature: temperature ?? (i % 4 === 0 ? 0 : 0.8), top_p: 1, max_tokens }));

/// Completions and the texts that the server gives them when it has nothing else to do.
export async function texts_alone(url, bodies) {
  const client = new Client(url), cases = [];
  for (const body of bodies) cases.push({ body, text: (await client.stream(body)).text });
  client.close();
  return cases;
}

const resident_mib = (pid) => Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) / 1024;

const share = (sorted, q) => sorted[Math.floor(q * (sorted.length - 1))] ?? NaN;

/// The state of things at some moment.
async function look(client, pid) {
  const written = /^sluice_generation_tokens_total\S* (\S+)$/m.exec(await client.get("/metrics"))[1];
  const { user, system } = process.cpuUsage();
  return { time: performance.now(), tokens: Number(written), rss: resident_mib(pid), own: (user + system) / 1000 };
}

/// One stream after the other until `end`. Every fourth is new where options.unique is set, every eighth vanishes where
/// options.vanish is; all others are cases, compared where their text is known.
async function keep_streaming(url, worker, cases, options, end, result) {
  const client = new Client(url);
  const first = (milliseconds) => result.first.push(milliseconds);
  for (let i = 0; performance.now() < end; ++i) {
    const n = worker + i * (options.streams | 1);
    const { body, text } = n % 4 === 2 && options.unique
      ? { body: { ...cases[0].body, prompt: `${n} ${kPrompts[n % kPrompts.length]}`, seed: n, temperature: 0.8 } }
      : cases[n % cases.length];
    const pieces = options.vanish && n % 8 === 5 ? 2 + (n % 17) : Infinity;
    try {
      const got = await client.stream(body, { first, pieces });
      if (!got) {
        ++result.vanished;
        continue;
      }
      ++result.requests;
      if (text === undefined) continue;
      ++result.compared;
      if (got.text !== text)
        result.errors.push(`${JSON.stringify(body)}: expected ${JSON.stringify(text)}, found ${JSON.stringify(got.text)}`);
    } catch (error) {
      result.errors.push(error.message);
      client.close();
      await sleep(20);
    }
  }
  client.close();
}

/// Whether they are still connected and get an answer.
async function check_idle(clients, errors) {
  const open = clients.filter((c) => c.is_open());
  if (open.length < clients.length) errors.push(`${clients.length - open.length} idle connections were closed`);
  for (const c of open) if (!(await c.get("/health")).includes("ok")) errors.push("an idle connection: expected an answer");
  for (const c of open) c.close();
}

/// options: streams, seconds, idle, vanish, unique; pid of the server. Figures are those of all but the first quarter of
/// the time, `own_cores` what this process took itself.
export async function run_load({ url, pid }, cases, options) {
  const result = { requests: 0, compared: 0, vanished: 0, errors: [], first: [] };
  const idle = await idle_clients(url, options.idle ?? 0), watcher = new Client(url);
  const end = performance.now() + options.seconds * 1000;
  const workers = [...Array(options.streams)].map((_, i) => keep_streaming(url, i, cases, options, end, result));
  await sleep(options.seconds * 250);
  const warm = await look(watcher, pid);
  result.first.length = 0;
  await sleep(Math.max(0, end - performance.now() - 100));
  const late = await look(watcher, pid);
  await Promise.all(workers);
  watcher.close();
  await check_idle(idle, result.errors);
  const { first, ...counts } = result, milliseconds = late.time - warm.time;
  first.sort((a, b) => a - b);
  return {
    ...counts,
    tokens_per_second: ((late.tokens - warm.tokens) / milliseconds) * 1000,
    own_cores: (late.own - warm.own) / milliseconds,
    first_p50: share(first, 0.5),
    first_p99: share(first, 0.99),
    rss_warm: warm.rss,
    rss_end: late.rss,
  };
}
