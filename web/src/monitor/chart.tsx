import { useState } from "preact/hooks";
import type { Point } from "./history";

const kWidth = 480;
const kHeight = 132;
const kMinutes = [1, 2, 5];  // what the axis may span

export interface Curve {
  name: string;
  of: (point: Point) => number;
}

interface ChartProps {
  title: string;
  points: Point[];
  curves: Curve[];
  format: (value: number) => string;
  top?: number;        // of the axis, where it is fixed
  least_top?: number;  // else the least it may be
}

/// Curves over the last minutes, from 0; the values are those of now or under the pointer.
export function Chart({ title, points, curves, format, top, least_top = 0 }: ChartProps) {
  const [pointed, set_pointed] = useState<number | null>(null);  // x
  const end = points.at(-1)?.time ?? 0;
  const highest = Math.max(least_top, ...curves.flatMap((curve) => points.map(curve.of)).filter(Number.isFinite));
  const max = top ?? round_up(highest);
  const past = (end - (points[0]?.time ?? end)) / 60_000;
  const span = kMinutes.find((minutes) => minutes >= past) ?? kMinutes.at(-1)!;
  const x = (point: Point) => kWidth - ((end - point.time) / 60_000 / span) * kWidth;
  const y = (value: number) => kHeight - (Math.min(value, max) / max) * (kHeight - 2) - 1;
  const shown = pointed === null ? points.at(-1) : nearest(points, x, pointed);
  const on_move = (event: PointerEvent) => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    set_pointed(((event.clientX - box.left) / box.width) * kWidth);
  };

  return (
    <figure class="card">
      <figcaption>
        <h2>{title}</h2>
        <span class="values">
          {curves.map((curve, i) => (
            <span key={curve.name} class={`value c${i + 1}`}>{curves.length > 1 && <i />}{curve.name} <b>{shown ? format(curve.of(shown)) : "–"}</b></span>
          ))}
        </span>
      </figcaption>
      <div class="plot">
        <svg viewBox={`0 0 ${kWidth} ${kHeight}`} preserveAspectRatio="none" role="img" aria-label={`${title}, last ${span} min`}
          onPointerMove={on_move} onPointerLeave={() => set_pointed(null)}>
          <path class="grid" d={[0, 0.5, 1].map((part) => `M0 ${y(part * max)}H${kWidth}`).join("")} />
          {curves.map((curve, i) => <path key={curve.name} class={`curve c${i + 1}`} d={path(points, x, (p) => y(curve.of(p)))} />)}
          {pointed !== null && shown && <path class="pointer" d={`M${x(shown).toFixed(1)} 0V${kHeight}`} />}
        </svg>
        <span class="tick high">{format(max)}</span>
        <span class="tick mid">{format(max / 2)}</span>
      </div>
      <div class="times"><span>{span} min ago</span><span>{shown && pointed !== null ? `${Math.round((end - shown.time) / 1000)} s ago` : "now"}</span></div>
    </figure>
  );
}

/// A gap in the readings is a gap in the line.
function path(points: Point[], x: (point: Point) => number, y: (point: Point) => number): string {
  let d = "";
  let is_down = false;
  let last = 0;
  for (const point of points) {
    const height = y(point);
    if (!Number.isFinite(height)) {
      is_down = false;
      continue;
    }
    d += `${is_down && point.time - last < 5000 ? "L" : "M"}${x(point).toFixed(1)} ${height.toFixed(1)}`;
    if (!is_down) d += "h0";  // a lone point is a dot
    is_down = true;
    last = point.time;
  }
  return d;
}

function nearest(points: Point[], x: (point: Point) => number, to: number): Point | undefined {
  let best: Point | undefined;
  for (const point of points) if (!best || Math.abs(x(point) - to) < Math.abs(x(best) - to)) best = point;
  return best;
}

/// 1, 2 or 5 times a power of ten.
function round_up(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((digit) => digit * power).find((candidate) => candidate >= value * 0.999)!;
}
