// What /metrics said in the last minutes, as curves over time.
import { ApiError, request } from "../common/api";
import { histogram, parse_metrics, quantile, total, type Histogram, type Metrics } from "../common/prometheus";

const kPeriod = 1000;       // ms between readings
const kKept = 300;          // readings
const kRateWindow = 5;      // readings over which a rate is taken
const kLatencyWindow = 30;  // readings over which quantiles are taken: requests are rarer than tokens
const kExpertWindow = 60;   // readings over which the load of experts is taken

/// A point of every curve; NaN where there is nothing to say.
export interface Point {
  time: number;  // ms since 1970
  running: number;
  waiting: number;
  cache: number;  // 0 to 1
  prompt_rate: number;
  generation_rate: number;
  first_token_p50: number;  // seconds
  first_token_p95: number;
  between_p50: number;
  between_p95: number;
  prefix_hits: number;      // 0 to 1
  drafts_accepted: number;  // 0 to 1
}

/// Tokens by layer and expert.
export type ExpertLoad = Map<number, number[]>;

interface Reading {
  time: number;
  running: number;
  waiting: number;
  cache: number;
  counters: Record<Counter, number>;
  first_token: Histogram;
  between: Histogram;
  experts: ExpertLoad;
}

const kCounters = {
  prompt: "sluice_prompt_tokens_total",
  generation: "sluice_generation_tokens_total",
  prefix_queries: "sluice_prefix_cache_queries_total",
  prefix_hits: "sluice_prefix_cache_hits_total",
  drafted: "sluice_spec_decode_num_draft_tokens_total",
  accepted: "sluice_spec_decode_num_accepted_tokens_total",
};
type Counter = keyof typeof kCounters;

export class History {
  points: Point[] = [];
  experts: ExpertLoad = new Map();  // of the last minute
  generated = NaN;                  // tokens since the server started
  error = "";
  needs_key = false;

  private readings: Reading[] = [];
  private listeners = new Set<() => void>();
  private timer = 0;

  listen(listener: () => void): void {
    this.listeners.add(listener);
  }

  /// Reads at once, then every second. May be called again, after a key was entered.
  start(): void {
    clearTimeout(this.timer);
    this.step();
  }

  private async step(): Promise<void> {
    const begin = performance.now();
    try {
      const response = await request("metrics", undefined, AbortSignal.timeout(10 * kPeriod));
      this.take(read(parse_metrics(await response.text())));
      this.error = "";
      this.needs_key = false;
    } catch (error) {
      this.needs_key = error instanceof ApiError && error.status === 401;
      this.error = error instanceof ApiError ? error.message : "The server does not answer.";
    }
    for (const listener of this.listeners) listener();
    this.timer = window.setTimeout(() => this.step(), Math.max(0, kPeriod - (performance.now() - begin)));
  }

  private take(now: Reading): void {
    const last = this.readings.at(-1);
    // A counter that fell means a server that was started anew: rates across that make no sense.
    if (last && (Object.keys(kCounters) as Counter[]).some((name) => now.counters[name] < last.counters[name])) this.readings = [];
    this.readings.push(now);
    if (this.readings.length > Math.max(kLatencyWindow, kExpertWindow) + 1) this.readings.shift();
    this.points.push(this.point(now));
    if (this.points.length > kKept) this.points.shift();
    this.experts = difference(this.before(kExpertWindow).experts, now.experts);
    this.generated = now.counters.generation;
  }

  private before(count: number): Reading {
    return this.readings[Math.max(0, this.readings.length - 1 - count)]!;
  }

  private point(now: Reading): Point {
    const recent = this.before(kRateWindow);
    const seconds = (now.time - recent.time) / 1000;
    const grown = (name: Counter) => now.counters[name] - recent.counters[name];
    const share = (part: Counter, whole: Counter) => (grown(whole) > 0 ? grown(part) / grown(whole) : NaN);
    const { first_token, between } = this.before(kLatencyWindow);
    return {
      time: now.time,
      running: now.running,
      waiting: now.waiting,
      cache: now.cache,
      prompt_rate: seconds > 0 ? grown("prompt") / seconds : NaN,
      generation_rate: seconds > 0 ? grown("generation") / seconds : NaN,
      first_token_p50: quantile(first_token, now.first_token, 0.5),
      first_token_p95: quantile(first_token, now.first_token, 0.95),
      between_p50: quantile(between, now.between, 0.5),
      between_p95: quantile(between, now.between, 0.95),
      prefix_hits: share("prefix_hits", "prefix_queries"),
      drafts_accepted: share("accepted", "drafted"),
    };
  }
}

function read(metrics: Metrics): Reading {
  const counters = {} as Record<Counter, number>;
  for (const [name, metric] of Object.entries(kCounters)) counters[name as Counter] = total(metrics, metric);
  const experts: ExpertLoad = new Map();
  for (const { labels, value } of metrics.get("sluice_expert_tokens_total") ?? []) {
    const layer = Number(labels.layer);
    const expert = Number(labels.expert);
    if (!Number.isInteger(layer) || !Number.isInteger(expert) || expert < 0 || expert >= 4096) continue;
    if (!experts.has(layer)) experts.set(layer, []);
    experts.get(layer)![expert] = value;
  }
  return {
    time: Date.now(),
    running: total(metrics, "sluice_num_requests_running"),
    waiting: total(metrics, "sluice_num_requests_waiting"),
    cache: total(metrics, "sluice_kv_cache_usage_perc"),
    counters,
    first_token: histogram(metrics, "sluice_time_to_first_token_seconds"),
    between: histogram(metrics, "sluice_inter_token_latency_seconds"),
    experts,
  };
}

function difference(before: ExpertLoad, now: ExpertLoad): ExpertLoad {
  const grown: ExpertLoad = new Map();
  for (const [layer, counts] of [...now].sort((a, b) => a[0] - b[0])) {
    const earlier = before.get(layer) ?? [];
    grown.set(layer, Array.from(counts, (count, expert) => (count ?? 0) - (earlier[expert] ?? 0)));
  }
  return grown;
}
