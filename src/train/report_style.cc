#include "train/report_html.h"

namespace sluice {

namespace {

constexpr std::string_view kCss = R"css(:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #fff; --text: #1b1c1e; --dim: #63666b; --rule: #e4e4e0; --none: #efefec;
  --main: #2a66c8; --mtp: #c77a12; --eval0: #0b8a68; --eval1: #b0387e; --eval2: #6b50c4; --eval3: #5c6b14;
  --hot: #c8321e; --cold: #1f57b8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --card: #1c1e21; --text: #ebebe8; --dim: #a0a4aa; --rule: #303338; --none: #2a2d31;
    --main: #6ea3f7; --mtp: #e6a23c; --eval0: #3ec49b; --eval1: #ee82bd; --eval2: #a690f2; --eval3: #b3c25a;
    --hot: #ff6b52; --cold: #5b9bff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1160px; padding: 28px 20px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
h1 { margin: 0; font-size: 26px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 28px 0 12px; font-size: 18px; }
header p, .unit, footer { color: var(--dim); }
header p { margin: 4px 0 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.tile, figure, article, details { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { flex: 1 1 190px; padding: 10px 14px; }
.tile span { display: block; color: var(--dim); font-size: 13px; }
.tile b { font-size: 22px; font-weight: 600; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tile small { font-size: 13px; font-weight: 400; }
.charts { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px; }
.wide { grid-column: 1 / -1; }
figure { margin: 0; padding: 12px 14px; min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 8px; align-items: baseline; }
.unit { font-size: 13px; }
.legend { display: flex; flex-wrap: wrap; gap: 0 16px; margin-left: auto; font-size: 13px; }
.key::before {
  content: ""; display: inline-block; width: 14px; height: 3px; margin-right: 6px; border-radius: 2px;
  vertical-align: middle; background: var(--c);
}
.scale { color: var(--dim); align-items: center; gap: 6px; }
.ramp {
  width: 120px; height: 10px; border-radius: 2px;
  background: linear-gradient(90deg, var(--cold), var(--none), var(--hot));
}
.plot { position: relative; height: 190px; margin-top: 8px; }
.wide .plot { height: 320px; }
.area { position: absolute; inset: 8px 12px 24px 46px; }
svg { display: block; width: 100%; height: 100%; overflow: visible; }
path { fill: none; }
.grid { stroke: var(--rule); vector-effect: non-scaling-stroke; }
.line, .dots {
  stroke: var(--c); stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke;
}
.dots { stroke-width: 7; }
.band { fill: var(--c); fill-opacity: .18; }
.main { --c: var(--main); } .mtp { --c: var(--mtp); } .eval0 { --c: var(--eval0); } .eval1 { --c: var(--eval1); }
.eval2 { --c: var(--eval2); } .eval3 { --c: var(--eval3); }
.heat .area { left: 58px; }
.heat svg { background: var(--none); shape-rendering: crispEdges; }
.hot { stroke: var(--hot); } .cold { stroke: var(--cold); }
.border { stroke: var(--card); stroke-width: 3; vector-effect: non-scaling-stroke; }
i { position: absolute; color: var(--dim); font-style: normal; font-size: 12px; line-height: 1; white-space: nowrap; }
i.y { right: 100%; margin-right: 8px; transform: translateY(-50%); }
i.x { top: 100%; margin-top: 8px; transform: translateX(-50%); }
.cross { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--dim); pointer-events: none; }
.tip {
  position: absolute; top: 4px; z-index: 1; padding: 6px 10px; border: 1px solid var(--rule); border-radius: 6px;
  background: var(--card); font-size: 13px; line-height: 1.4; white-space: pre; pointer-events: none;
  box-shadow: 0 2px 8px rgb(0 0 0 / .18); font-variant-numeric: tabular-nums;
}
article { padding: 10px 14px; margin-bottom: 12px; }
article span { color: var(--dim); font-size: 13px; }
article p {
  margin: 4px 0 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font-family: Georgia, "Noto Serif", "DejaVu Serif", serif;
}
details { margin-top: 28px; padding: 10px 14px; }
summary { cursor: pointer; font-weight: 600; }
pre { margin: 10px 0 0; overflow-x: auto; font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
footer { margin-top: 24px; font-size: 13px; }
@media (max-width: 900px) { .charts { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 600px) {
  body { padding: 20px 12px; }
  .tiles { gap: 8px; }
  .tile { flex-basis: 150px; padding: 8px 12px; }
  .tile b { font-size: 19px; }
  .charts { grid-template-columns: 1fr; }
  .wide .plot { height: 240px; }
  .legend { margin-left: 0; width: 100%; }
}
)css";

constexpr std::string_view kScript = R"js('use strict';
// Names the values under the pointer. The charts are complete without this.
const nearest = (xs, x) => {
  let best = 0;
  xs.forEach((v, i) => { if (Math.abs(v - x) < Math.abs(xs[best] - x)) best = i; });
  return best;
};
const chartText = chart => {
  let xs = [];
  for (const c of chart.curves) c.x = xs = c.x || xs;
  return fx => {
    const lines = chart.curves.map(c => {
      const i = nearest(c.x, fx * chart.last), y = c.y[i];
      return [c.x[i], (chart.curves.length > 1 ? c.name + ': ' : '') + (y === null ? '-' : y)];
    });
    const step = lines[0][0];
    return 'step ' + step + '\n' + lines.map(([s, t]) => t + (s === step ? '' : ' (step ' + s + ')')).join('\n');
  };
};
const heatText = heat => {
  const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  const columns = heat.steps.length, rows = heat.layers.length * heat.rows;
  return (fx, fy) => {
    const c = Math.min(columns - 1, Math.floor(fx * columns)), r = Math.min(rows - 1, Math.floor(fy * rows));
    const load = 2 ** (digits.indexOf(heat.values[r * columns + c]) / 62 * 8 - 4);
    const first = r % heat.rows * heat.experts + 1, last = first + heat.experts - 1;
    const [a, b] = heat.steps[c];
    return heat.layers[Math.floor(r / heat.rows)] + ', expert ' + first + (last > first ? '-' + last : '') +
      '\nstep ' + a + (b > a ? '-' + b : '') + '\n' + load.toFixed(2) + ' times the fair share';
  };
};
const hover = (area, text) => {
  const cross = document.createElement('div'), tip = document.createElement('div');
  cross.className = 'cross';
  tip.className = 'tip';
  area.addEventListener('pointermove', e => {
    const box = area.getBoundingClientRect(), inside = v => Math.min(1, Math.max(0, v));
    const fx = inside((e.clientX - box.left) / box.width), fy = inside((e.clientY - box.top) / box.height);
    area.append(cross, tip);
    tip.textContent = text(fx, fy);
    cross.style.left = 100 * fx + '%';
    tip.style.left = fx < .5 ? 'calc(' + 100 * fx + '% + 10px)' : 'auto';
    tip.style.right = fx < .5 ? 'auto' : 'calc(' + (100 - 100 * fx) + '% + 10px)';
  });
  area.addEventListener('pointerleave', () => { cross.remove(); tip.remove(); });
};
for (const a of document.querySelectorAll('[data-chart]')) hover(a, chartText(JSON.parse(a.dataset.chart)));
for (const a of document.querySelectorAll('[data-heat]')) hover(a, heatText(JSON.parse(a.dataset.heat)));
)js";

}  // namespace

std::string_view report_css() { return kCss; }

std::string_view report_script() { return kScript; }

}  // namespace sluice
