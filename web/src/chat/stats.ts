// The figures below an answer: from the server's usage where it came, else counted here.
import type { Usage } from "../common/api";
import type { Stats } from "./store";

/// `usage`: of the latest step, if it had one; `pieces` of text came in `elapsed` ms since the first.
export function answer_stats(last: Stats | null, usage: Usage | undefined, pieces: number, elapsed: number): Stats {
  const counted_rate = elapsed > 200 ? ((pieces - 1) * 1000) / elapsed : null;
  if (!usage) {
    if (last && !last.is_estimate) return last;
    return {
      tokens: pieces, rate: counted_rate, is_estimate: true, draft_proposed: 0, draft_accepted: 0, prompt_tokens: 0, cached_tokens: 0,
    };
  }
  const own = usage.sluice ?? {};
  const tokens = usage.completion_tokens;
  const seconds = own.generation_seconds;
  return {
    tokens,
    // The first token comes out of the prompt's pass: the time counts the others.
    rate: seconds && tokens > 1 ? (tokens - 1) / seconds : elapsed > 0 && tokens > 1 ? ((tokens - 1) * 1000) / elapsed : null,
    is_estimate: false,
    draft_proposed: own.draft_proposed ?? 0,
    draft_accepted: own.draft_accepted ?? 0,
    prompt_tokens: usage.prompt_tokens,
    cached_tokens: usage.prompt_cache_hit_tokens ?? 0,
  };
}

const number = new Intl.NumberFormat("en");

/// "212 tokens, 23.4 tokens/s, drafts 71% accepted, prompt 1,024 (900 cached)", as its parts.
export function stats_parts(stats: Stats): string[] {
  const parts = [`${stats.is_estimate ? "~" : ""}${number.format(stats.tokens)} ${stats.tokens === 1 ? "token" : "tokens"}`];
  if (stats.rate !== null) parts.push(`${stats.rate < 100 ? stats.rate.toFixed(1) : number.format(Math.round(stats.rate))} tokens/s`);
  if (stats.draft_proposed > 0) {
    parts.push(`drafts ${Math.round((100 * stats.draft_accepted) / stats.draft_proposed)}% accepted`);
  }
  if (stats.prompt_tokens > 0) {
    const cached = stats.cached_tokens > 0 ? ` (${number.format(stats.cached_tokens)} cached)` : "";
    parts.push(`prompt ${number.format(stats.prompt_tokens)}${cached}`);
  }
  return parts;
}
