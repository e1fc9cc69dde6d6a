import { ChatIcon } from "../common/icons";
import { KeyField } from "../common/key_field";
import { ThemeButton } from "../common/theme_button";
import { Chart } from "./chart";
import { format_count, format_rate, format_seconds, format_share } from "./format";
import { HeatMap } from "./heat_map";
import type { History, Point } from "./history";

export function MonitorApp({ history }: { history: History }) {
  const points = history.points;
  const now = points.at(-1);
  return (
    <>
      <header class="bar monitor-bar">
        <span class="name">Sluice</span>
        <span class={`state${history.error ? " bad" : ""}`} role="status">{history.error ? "not connected" : now ? "live" : "connecting"}</span>
        <nav class="tools" aria-label="Tools">
          <a class="icon" href="./" aria-label="Chat" title="Chat"><ChatIcon /></a>
          <ThemeButton />
        </nav>
      </header>
      {history.error && (
        <div class="notice" role="alert">
          <p>{history.error}</p>
          {history.needs_key && <KeyField on_use={() => history.start()} />}
        </div>
      )}
      <main class="board">
        <Tiles history={history} now={now} />
        <Chart title="Requests" points={points} format={format_count}
          curves={[{ name: "running", of: (p) => p.running }, { name: "waiting", of: (p) => p.waiting }]} least_top={4} />
        <Chart title="Tokens per second" points={points} format={format_rate}
          curves={[{ name: "generation", of: (p) => p.generation_rate }, { name: "prompt", of: (p) => p.prompt_rate }]} least_top={1} />
        <Chart title="Time to first token" points={points} format={format_seconds}
          curves={[{ name: "p50", of: (p) => p.first_token_p50 }, { name: "p95", of: (p) => p.first_token_p95 }]} least_top={0.001} />
        <Chart title="Time between tokens" points={points} format={format_seconds}
          curves={[{ name: "p50", of: (p) => p.between_p50 }, { name: "p95", of: (p) => p.between_p95 }]} least_top={0.001} />
        <Chart title="KV cache in use" points={points} format={format_share} curves={[{ name: "", of: (p) => p.cache }]} top={1} />
        <Chart title="Work saved" points={points} format={format_share} top={1}
          curves={[{ name: "prefix cache hits", of: (p) => p.prefix_hits }, { name: "drafts accepted", of: (p) => p.drafts_accepted }]} />
        <HeatMap load={history.experts} />
      </main>
    </>
  );
}

function Tiles({ history, now }: { history: History; now: Point | undefined }) {
  const tiles: [string, string, string][] = [
    ["Running", format_count(now?.running ?? NaN), `${format_count(now?.waiting ?? NaN)} waiting`],
    ["Generation", format_rate(now?.generation_rate ?? NaN), "tokens/s"],
    ["Prompt", format_rate(now?.prompt_rate ?? NaN), "tokens/s"],
    ["First token", format_seconds(now?.first_token_p50 ?? NaN), "p50 of 30 s"],
    ["KV cache", format_share(now?.cache ?? NaN), "in use"],
    ["Since start", format_count(history.generated), "tokens written"],
  ];
  return (
    <dl class="tiles">
      {tiles.map(([name, value, unit]) => (
        <div key={name}><dt>{name}</dt><dd><b>{value}</b> <span>{unit}</span></dd></div>
      ))}
    </dl>
  );
}
