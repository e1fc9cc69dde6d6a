import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { format_count } from "./format";
import type { ExpertLoad } from "./history";

/// The load of every expert in the last minute relative to its layer's fair share: a row for each layer.
export function HeatMap({ load }: { load: ExpertLoad }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [pointed, set_pointed] = useState<[row: number, expert: number] | null>(null);
  const layers = [...load.keys()];
  const width = Math.max(0, ...[...load.values()].map((counts) => counts.length));
  const all = [...load.values()].reduce((sum, counts) => sum + counts.reduce((a, b) => a + b, 0), 0);

  useLayoutEffect(() => {
    if (canvas.current && width > 0) draw(canvas.current, load, width);
  });
  const on_move = (event: PointerEvent) => {
    const box = canvas.current!.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * layers.length);
    const expert = Math.floor(((event.clientX - box.left) / box.width) * width);
    set_pointed(row >= 0 && row < layers.length && expert >= 0 && expert < width ? [row, expert] : null);
  };

  return (
    <figure class="card wide">
      <figcaption>
        <h2>Expert load</h2>
        <span class="values">{pointed ? describe(load, layers[pointed[0]], pointed[1]) : summary(load, all)}</span>
      </figcaption>
      {width === 0
        ? <p class="nothing">The server counts no experts: its model has none, or none has worked yet.</p>
        : <div class="heat">
            <div class="layers" aria-hidden="true"><span>layer {layers[0]}</span>{layers.length > 1 && <span>{layers.at(-1)}</span>}</div>
            <canvas ref={canvas} style={{ height: `${Math.min(420, Math.max(72, layers.length * 18))}px` }} role="img"
              aria-label={`Load of ${width} experts in ${layers.length} layers. ${summary(load, all)}`}
              onPointerMove={on_move} onPointerLeave={() => set_pointed(null)} />
            <div class="experts" aria-hidden="true"><span>expert 0</span><span>{width - 1}</span></div>
          </div>}
      <div class="scale" aria-hidden="true"><span>idle</span><i /><span>fair share</span><i class="upper" /><span>4 times</span></div>
    </figure>
  );
}

function describe(load: ExpertLoad, layer: number | undefined, expert: number): string {
  const counts = load.get(layer ?? -1) ?? [];
  const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
  const count = counts[expert] ?? 0;
  return `layer ${layer}, expert ${expert}: ${format_count(count)} tokens, ${mean > 0 ? (count / mean).toFixed(2) : "–"} of its fair share`;
}

/// The layer that is furthest from balance.
function summary(load: ExpertLoad, all: number): string {
  if (all === 0) return "idle in the last minute";
  let worst = 0;
  let where = 0;
  for (const [layer, counts] of load) {
    const sum = counts.reduce((a, b) => a + b, 0);
    const ratio = sum > 0 ? (Math.max(...counts) * counts.length) / sum : 0;
    if (ratio > worst) [worst, where] = [ratio, layer];
  }
  return `last minute; busiest expert ${worst.toFixed(2)} of its fair share, in layer ${where}`;
}

/// One pixel an expert, enlarged by the style.
function draw(canvas: HTMLCanvasElement, load: ExpertLoad, width: number): void {
  canvas.width = width;
  canvas.height = load.size;
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(width, load.size);
  const [cold, none, hot] = ["--cold", "--none", "--hot"].map((name) => color_of(canvas, name)) as [number[], number[], number[]];
  let at = 0;
  for (const counts of load.values()) {
    const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
    for (let expert = 0; expert < width; ++expert) {
      const ratio = mean > 0 ? (counts[expert] ?? 0) / mean : 1;
      // Down to nothing in a straight line, up to four times by octaves.
      const heat = ratio <= 1 ? 1 - ratio : Math.min(1, Math.log2(ratio) / 2);
      const end = ratio <= 1 ? cold : hot;
      for (let c = 0; c < 3; ++c) image.data[at + c] = none[c]! + heat * (end[c]! - none[c]!);
      image.data[at + 3] = 255;
      at += 4;
    }
  }
  context.putImageData(image, 0, 0);
}

/// Red, green and blue of a colour of the style, as the theme of now has it.
function color_of(element: HTMLElement, name: string): number[] {
  element.style.color = `var(${name})`;
  return getComputedStyle(element).color.match(/[\d.]+/g)!.slice(0, 3).map(Number);
}
