// Numbers as they are shown; "–" for what is not known.
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

export function format_count(value: number): string {
  return Number.isFinite(value) ? (value < 100_000 ? grouped : compact).format(value) : "–";
}

export function format_rate(value: number): string {
  if (!Number.isFinite(value)) return "–";
  return value < 99.95 ? value.toFixed(1) : format_count(value);
}

export function format_seconds(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value >= 9.995) return `${value.toFixed(1)} s`;
  if (value >= 0.9995) return `${value.toFixed(2)} s`;
  return value * 1000 < 9.95 ? `${(value * 1000).toFixed(1)} ms` : `${Math.round(value * 1000)} ms`;
}

export function format_share(value: number): string {
  return Number.isFinite(value) ? `${(value * 100).toFixed(value < 0.0995 && value > 0 ? 1 : 0)}%` : "–";
}
