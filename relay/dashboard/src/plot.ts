/** Geometry of sparklines and charts. Pure: points in, path text out. */

import type { Point, Span } from "./api";

export interface Scale {
  readonly fromMs: number;
  readonly toMs: number;
  readonly low: number;
  readonly high: number;
  readonly width: number;
  readonly height: number;
}

export const x = (scale: Scale, at: number): number =>
  ((at - scale.fromMs) / Math.max(1, scale.toMs - scale.fromMs)) * scale.width;

export const y = (scale: Scale, value: number): number =>
  scale.height - ((value - scale.low) / (scale.high - scale.low || 1)) * scale.height;

const round = (n: number): string => (Math.round(n * 10) / 10).toString();

/**
 * The line through the points. Robots send only what changed, so a value holds until the next one:
 * the line is drawn as steps, and goes on to `holdUntil`.
 */
export function line(points: readonly Point[], scale: Scale, holdUntil: number): string {
  let path = "";
  let last: Point | undefined;
  for (const point of points) {
    const px = round(Math.max(0, x(scale, point[0])));
    path += last === undefined ? `M${px} ${round(y(scale, point[1]))}` : `H${px}V${round(y(scale, point[1]))}`;
    last = point;
  }
  if (last !== undefined && holdUntil > last[0]) path += `H${round(x(scale, Math.min(holdUntil, scale.toMs)))}`;
  return path;
}

/** What lies between the lowest and the highest value of each time. */
export function band(spans: readonly Span[], scale: Scale): string {
  return spans
    .filter(([, toMs]) => toMs > scale.fromMs)
    .map(([fromMs, toMs, low, high]) => {
      const left = round(Math.max(0, x(scale, fromMs)));
      return `M${left} ${round(y(scale, high))}H${round(Math.min(scale.width, x(scale, toMs)))}V${round(y(scale, low))}H${left}Z`;
    })
    .join("");
}

/** A range that holds all values: 0 to 100 for shares, else from the values, by round steps. */
export function range(metric: string, points: readonly Point[]): { low: number; high: number; step: number } {
  if (metric.endsWith("_percent")) return { low: 0, high: 100, step: 25 };
  const values = points.map(([, value]) => value);
  const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const least = values.reduce((a, b) => Math.min(a, b), Infinity);
  if (!Number.isFinite(most)) return { low: 0, high: 1, step: 0.5 };
  const low = metric.endsWith("_c") ? Math.min(20, Math.floor(least / 10) * 10) : Math.min(0, least);
  const raw = Math.max(most - low, 1e-9) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 2.5, 5, 10].find((n) => n * power >= raw) ?? 10) * power;
  return { low, high: low + step * Math.max(1, Math.ceil((most - low) / step)), step };
}

/** Sparklines show the shape: the values' own range, but no less than ten, lest noise look like news. */
export function sparkRange(points: readonly Point[]): { low: number; high: number } {
  let low = Infinity;
  let high = -Infinity;
  for (const [, value] of points) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return { low: 0, high: 10 };
  const margin = Math.max(0, 10 - (high - low)) / 2;
  return { low: low - margin, high: high + margin };
}

/** The newest point at or before `at`. */
export function pointAt(points: readonly Point[], at: number): Point | undefined {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((points[middle]?.[0] ?? Infinity) <= at) low = middle + 1;
    else high = middle;
  }
  return points[low - 1];
}
