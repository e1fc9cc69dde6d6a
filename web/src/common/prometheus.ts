// The Prometheus text format, as far as /metrics of this server uses it.
export interface Sample {
  labels: Record<string, string>;
  value: number;
}

/// Samples by name of the metric.
export type Metrics = Map<string, Sample[]>;

const kLine = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+(\S+)/;
const kLabel = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

export function parse_metrics(text: string): Metrics {
  const metrics: Metrics = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const found = kLine.exec(line);
    if (!found) continue;
    const value = found[3] === "+Inf" ? Infinity : found[3] === "-Inf" ? -Infinity : Number(found[3]);
    const labels: Record<string, string> = {};
    for (const [, name, quoted] of (found[2] ?? "").matchAll(kLabel)) {
      labels[name!] = quoted!.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    const samples = metrics.get(found[1]!);
    if (samples) samples.push({ labels, value });
    else metrics.set(found[1]!, [{ labels, value }]);
  }
  return metrics;
}

/// The sum over all label sets; NaN where the server has no such metric.
export function total(metrics: Metrics, name: string): number {
  const samples = metrics.get(name);
  return samples ? samples.reduce((sum, sample) => sum + sample.value, 0) : NaN;
}

/// Cumulative counts by upper bound, summed over label sets, in order of the bounds.
export type Histogram = [bound: number, count: number][];

export function histogram(metrics: Metrics, name: string): Histogram {
  const counts = new Map<number, number>();
  for (const { labels, value } of metrics.get(`${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort((a, b) => a[0] - b[0]);
}

/// The quantile of what was counted between two readings, linear within a bucket as Prometheus has it; NaN where nothing
/// was. What lies beyond the last finite bound counts as that bound.
export function quantile(before: Histogram, after: Histogram, q: number): number {
  const earlier = new Map(before);
  const counts = after.map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)] as const);
  const all = counts.at(-1)?.[1] ?? 0;
  if (!(all > 0)) return NaN;
  const rank = q * all;
  let low = 0;
  let below = 0;
  for (const [bound, count] of counts) {
    if (count >= rank) {
      if (bound === Infinity) return low;
      return count > below ? low + ((bound - low) * (rank - below)) / (count - below) : bound;
    }
    low = bound;
    below = count;
  }
  return low;
}
