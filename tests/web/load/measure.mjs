// What docs/benchmarks.md says of the server. Fails on any error, on a text that is not the one that its request gets
// alone, and where the server's memory grows.
// usage: tests/web/load.sh SLUICE MODEL [OPTION OF serve...]
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { serve } from "../api/server.mjs";
import { completions, run_load, texts_alone } from "./load.mjs";
import { shared_prefix } from "./shared_prefix.mjs";

const kFlat = 1.05;      // what the resident set may grow by after the warm-up
const kBenchSeconds = 5;  // of a round, about
const [sluice, model, ...options] = process.argv.slice(2);
const { TEXT, SECONDS_OF_LOAD, ROUNDS, MAX_TOKENS } = process.env;
const seconds = Number(SECONDS_OF_LOAD), max_tokens = Number(MAX_TOKENS), errors = [];

const decimals = (x) => x.toLocaleString("en", { maximumFractionDigits: x < 100 ? 1 : 0 });
const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
const first_token = (r) => `first token p50 ${decimals(r.first_p50)} ms, p99 ${decimals(r.first_p99)} ms`;
const busy = (r) => `load generator ${r.own_cores.toFixed(2)} cores, load average ${loadavg()[0].toFixed(1)}`;

async function many_streams(server, cases) {
  const r = await run_load(server, cases, { streams: 64, seconds, idle: 2000, vanish: true, unique: true });
  errors.push(...r.errors);
  if (r.rss_end > kFlat * r.rss_warm) errors.push(`resident set: expected at most ${kFlat} times ${r.rss_warm} MiB, found ${r.rss_end}`);
  console.log(`64 streams of ${max_tokens} tokens for ${seconds} s beside 2,000 idle connections: ${decimals(r.tokens_per_second)} tokens/s`);
  console.log(`  ${r.requests} texts, ${r.compared} of them compared, ${r.vanished} clients that vanished, ${r.errors.length} errors`);
  console.log(`  ${first_token(r)}; resident set ${decimals(r.rss_warm)} MiB, at the end ${decimals(r.rss_end)}; ${busy(r)}`);
}

function bench(runs) {
  const args = ["bench", "decode", "--model", model, "--batch", "16", "--tokens", String(max_tokens), "--runs", String(runs), "--json"];
  return JSON.parse(execFileSync(sluice, args)).median;
}

/// Server and bench in turn, since other work on the machine comes and goes.
async function beside_bench(server) {
  const load = { streams: 16, seconds: seconds / 6 };
  const runs = Math.max(1, Math.round((kBenchSeconds * bench(1)) / (16 * max_tokens)));
  const ratios = { sampled: [], greedy: [] }, temperatures = { sampled: 0.8, greedy: 0 };
  console.log(`16 streams beside sluice bench decode --batch 16 --tokens ${max_tokens}:`);
  for (let i = 0; i < Number(ROUNDS); ++i) {
    const rate = bench(runs), rates = {};
    for (const [how, list] of Object.entries(ratios)) {
      const r = await run_load(server, completions(max_tokens, temperatures[how]).map((body) => ({ body })), load);
      errors.push(...r.errors);
      list.push(r.tokens_per_second / rate);
      rates[how] = `${how} ${decimals(r.tokens_per_second)} (${first_token(r)})`;
    }
    console.log(`  bench ${decimals(rate)} tokens/s, server ${rates.sampled}, ${rates.greedy}; load average ${loadavg()[0].toFixed(1)}`);
  }
  console.log(`  median ratio: at temperature 0.8 ${median(ratios.sampled).toFixed(2)}, greedy ${median(ratios.greedy).toFixed(2)}`);
}

async function same_prefix(server) {
  const { once, shared, apart, errors: found } = await shared_prefix(server, readFileSync(TEXT, "utf8"));
  errors.push(...found);
  console.log(`a prefix of 1,000 tokens shared by 20 requests: ${decimals(shared.cached)} of ${decimals(shared.prompt)} prompt tokens cached`);
  console.log(`  ${decimals(shared.milliseconds)} ms to the last first token; one prompt alone ${decimals(once.milliseconds)} ms, 20 that share nothing ${decimals(apart.milliseconds)} ms`);
}

const server = await serve(sluice, model, options);
try {
  const cases = await texts_alone(server.url, completions(max_tokens));
  await same_prefix(server);
  await many_streams(server, cases);
  await beside_bench(server);
} finally {
  const ended = await server.stop();
  if (ended.code !== 0) errors.push(`the server ended with ${JSON.stringify(ended)}: ${server.log().slice(-500)}`);
}
for (const error of errors.slice(0, 10)) console.error(error);
process.exit(errors.length === 0 ? 0 : 1);
