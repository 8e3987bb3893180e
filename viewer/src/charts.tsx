// Histograms and time lines, drawn as SVG.

import { useMemo } from "preact/hooks";
import type { Line, Marks } from "./data";
import { number, tick } from "./format";
import { rem, useWidth } from "./hooks";

export interface Bin {
  low: number;
  high: number;
  count: number;
  /** Whether the bin stands for one whole number. */
  isSingle: boolean;
}

/** Counts in bins of equal width; whole numbers of a small range have one each. */
export function histogram(values: ArrayLike<number>, most: number): Bin[] {
  let low = Infinity;
  let high = -Infinity;
  let areWhole = true;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
    areWhole &&= Number.isInteger(value);
  }
  if (low > high) return [];
  let width: number;
  if (low === high) {
    width = areWhole ? 1 : Math.max(Math.abs(low) * 1e-3, 1e-9);
  } else if (areWhole) {
    width = Math.max(1, Math.ceil((high - low + 1) / most));
  } else {
    width = round((high - low) / most);
    low = Math.floor(low / width) * width;
  }
  const isSingle = areWhole && width === 1;
  const n = Math.max(1, Math.floor((high - low) / width + 1e-9) + 1);
  const bins = Array.from({ length: n }, (_, i) => ({
    low: low + i * width,
    high: low + (i + 1) * width,
    count: 0,
    isSingle,
  }));
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) continue;
    bins[Math.min(n - 1, Math.max(0, Math.floor((value - low) / width + 1e-9)))]!.count++;
  }
  return bins;
}

/** The next larger of 1, 2, 2.5 and 5 times a power of ten. */
function round(width: number): number {
  const power = 10 ** Math.floor(Math.log10(width));
  return (([1, 2, 2.5, 5, 10].find((factor) => factor * power >= width * (1 - 1e-9)) ?? 10) * power);
}

export function Histogram(props: {
  values: ArrayLike<number>;
  name: string;
  onChoose?: ((bin: Bin) => void) | undefined;
  isSmall?: boolean;
}) {
  const [element, width] = useWidth<HTMLDivElement>();
  const most = props.isSmall ? 24 : 40;
  const bins = useMemo(() => histogram(props.values, most), [props.values, most]);
  const height = (props.isSmall ? 1.6 : 8) * rem();
  const tallest = Math.max(1, ...bins.map((bin) => bin.count));
  const gap = bins.length > width / 4 ? 0 : 1;
  const step = bins.length ? Math.min(width / bins.length, 4 * rem()) : 0;
  const base = props.isSmall ? height : height - 1.3 * rem();
  const label = `Distribution of ${props.name}: ${bins.length ? `from ${number(bins[0]!.low)} to ${number(bins.at(-1)!.isSingle ? bins.at(-1)!.low : bins.at(-1)!.high)}` : "nothing to show"}`;
  return (
    <div ref={element} class={props.isSmall ? "small histogram" : "histogram"} style={{ height: `${height}px` }}>
      {width > 0 && (
        <svg width={width} height={height} role="img" aria-label={label}>
          {bins.map((bin, i) => {
            const tall = bin.count ? Math.max(1, (bin.count / tallest) * (base - 2)) : 0;
            const text = `${range(bin)}: ${bin.count.toLocaleString("en-US")}`;
            return (
              <g key={i}>
                <rect class="bar" x={i * step + gap / 2} y={base - tall} width={Math.max(step - gap, 0.5)} height={tall} />
                {!props.isSmall && (
                  <rect
                    class={props.onChoose && bin.count ? "touch choosable" : "touch"}
                    x={i * step} y={0} width={step} height={base}
                    {...(props.onChoose && bin.count
                      ? { onClick: () => props.onChoose!(bin), "data-testid": "bar" }
                      : {})}
                  >
                    <title>{text}</title>
                  </rect>
                )}
              </g>
            );
          })}
          {!props.isSmall && bins.length > 0 && (
            <>
              <line class="axis" x1={0} x2={width} y1={base + 0.5} y2={base + 0.5} />
              <Ticks bins={bins} step={step} y={height - 2} />
            </>
          )}
        </svg>
      )}
    </div>
  );
}

function range(bin: Bin): string {
  return bin.isSingle ? number(bin.low) : `${number(bin.low)} to ${number(bin.high)}`;
}

function Ticks(props: { bins: Bin[]; step: number; y: number }) {
  const { bins, step } = props;
  const every = Math.max(1, Math.ceil((4.5 * rem()) / step));
  const single = bins[0]!.isSingle;
  const ticks = [];
  for (let i = 0; i < bins.length + (single ? 0 : 1); i += every) {
    const value = i < bins.length ? bins[i]!.low : bins.at(-1)!.high;
    const x = (i + (single ? 0.5 : 0)) * step;
    ticks.push(
      <text key={i} class="tick" x={Math.max(x, 0)} y={props.y} text-anchor={x < rem() ? "start" : "middle"}>
        {tick(value)}
      </text>,
    );
  }
  return <>{ticks}</>;
}

/** Horizontal bars, one for each word. */
export function Shares(props: { counts: Record<string, number>; onChoose?: (word: string) => void }) {
  const total = Object.values(props.counts).reduce((sum, n) => sum + n, 0) || 1;
  return (
    <ul class="shares">
      {Object.entries(props.counts).map(([word, n]) => (
        <li key={word}>
          <button type="button" class="plain" disabled={!n} onClick={() => props.onChoose?.(word)}>
            <span class={`ending ${word}`}>{word}</span>
            <span class="track"><span class={`fill ${word}`} style={{ width: `${(100 * n) / total}%` }} /></span>
            <span class="count">{n.toLocaleString("en-US")}</span>
          </button>
        </li>
      ))}
    </ul>
  );
}

// Time lines.

export interface Window {
  from: number;
  to: number;
}

export const toX = (step: number, window: Window, width: number) =>
  ((step - window.from) / Math.max(window.to - window.from, 1)) * width;

export function toStep(x: number, window: Window, width: number): number {
  const step = Math.round(window.from + (x / Math.max(width, 1)) * (window.to - window.from));
  return Math.min(Math.max(step, window.from), window.to);
}

/** Lowest and highest value of a line. */
export function extent(line: Line): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const values of [line.y, line.low, line.high]) {
    for (const value of values ?? []) {
      if (value === null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low > high ? [0, 0] : [low, high];
}

function path(
  line: Line, [low, high]: [number, number], window: Window, width: number, height: number, isDiscrete: boolean,
): string {
  const span = high - low || 1;
  const middle = high === low ? height / 2 : 0;
  const y = (value: number) =>
    middle || (height - 2 - ((value - low) / span) * (height - 4));
  const x = (i: number) => toX(line.x[i]!, window, width).toFixed(1);
  const parts: string[] = [];
  if (line.y) {
    let isDown = false;
    line.y.forEach((value, i) => {
      if (value === null) {
        isDown = false;
        return;
      }
      if (isDown && isDiscrete) parts.push(`H${x(i)}`);
      parts.push(`${isDown ? "L" : "M"}${x(i)} ${y(value).toFixed(1)}`);
      isDown = true;
    });
    if (isDown && isDiscrete) parts.push(`H${toX(Math.min(line.x.at(-1)! + 1, window.to), window, width).toFixed(1)}`);
    return parts.join("");
  }
  line.x.forEach((_, i) => {
    const [least, most] = [line.low![i], line.high![i]];
    if (least === null || least === undefined || most === null || most === undefined) return;
    parts.push(`M${x(i)} ${(y(least) + 0.5).toFixed(1)}V${(y(most) - 0.5).toFixed(1)}`);
    if (i + 1 < line.x.length) parts.push(`H${x(i + 1)}`);
  });
  return parts.join("");
}

/** The value at a step: the last one until then. */
export function valueAt(line: Line, step: number): number | null {
  let low = 0;
  let high = line.x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (line.x[middle]! <= step) low = middle + 1;
    else high = middle;
  }
  if (low === 0) return null;
  return (line.y ?? line.high)![low - 1] ?? null;
}

export function LineChart(props: {
  /** Several share one scale. */
  lines: Line[];
  window: Window;
  width: number;
  height: number;
  isDiscrete: boolean;
  name: string;
}) {
  const { lines, window, width, height, isDiscrete } = props;
  const { drawn, low, high } = useMemo(() => {
    const extents = lines.map(extent);
    const low = Math.min(...extents.map(([least]) => least));
    const high = Math.max(...extents.map(([, most]) => most));
    return {
      drawn: lines.map((line) => path(line, [low, high], window, width, height, isDiscrete)), low, high,
    };
  }, [...lines, window.from, window.to, width, height, isDiscrete]);
  const zero = height - 2 - (-low / (high - low)) * (height - 4);
  return (
    <svg
      width={width} height={height} role="img"
      aria-label={`${props.name}, from ${number(low)} to ${number(high)}`}
    >
      {low < 0 && high > 0 && <line class="zero" x1={0} x2={width} y1={zero} y2={zero} />}
      {drawn.map((d, i) => <path key={i} class={`line of-${i}`} d={d} />)}
    </svg>
  );
}

export function MarkChart(props: { marks: Marks; window: Window; width: number; height: number; name: string }) {
  const { marks, window, width, height } = props;
  const drawn = useMemo(
    () => marks.marks.map((step) => `M${toX(step, window, width).toFixed(1)} 3V${height - 3}`).join(""),
    [marks, window.from, window.to, width, height],
  );
  const n = marks.counts.reduce((sum, count) => sum + count, 0);
  return (
    <svg width={width} height={height} role="img" aria-label={`${props.name}: ${n} times`}>
      <path class="marks" d={drawn} />
    </svg>
  );
}
