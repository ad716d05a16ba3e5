/** One metric over time, with axes, and a figure under the pointer. */

import { h, setText, svg } from "./dom";
import * as format from "./format";
import { band, line, pointAt, range, x, y } from "./plot";
import type { Scale } from "./plot";
import type { Point, Series } from "./api";

const WIDTH = 600;
const HEIGHT = 150;
const LEFT = 48;
const RIGHT = 4;
const TOP = 8;
const BOTTOM = 20;

export class Chart {
  private readonly value = h("strong", { class: "value" });
  private readonly at = h("span", { class: "soft" });
  private readonly grid = svg("g", { class: "grid" });
  private readonly area = svg("path", { class: "area" });
  private readonly band = svg("path", { class: "band" });
  private readonly path = svg("path", { class: "chart-line" });
  private readonly cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
  private readonly plot = svg(
    "svg",
    { class: "plot", viewBox: `${-LEFT} ${-TOP} ${WIDTH + LEFT + RIGHT} ${TOP + HEIGHT + BOTTOM}`, role: "img" },
    this.grid,
    this.area,
    this.band,
    this.path,
    this.cursor,
  );
  readonly element: HTMLElement;
  private points: readonly Point[] = [];
  private scale: Scale = { fromMs: 0, toMs: 1, low: 0, high: 1, width: WIDTH, height: HEIGHT };
  private pointer: number | undefined;
  private holdUntil = 0;

  constructor(readonly metric: string) {
    this.value.setAttribute("data-metric", metric);
    this.plot.setAttribute("aria-label", `${format.metricTitle(metric)} over time`);
    this.element = h(
      "section",
      { class: "card chart", "data-chart": metric },
      h("header", {}, h("h3", {}, format.metricTitle(metric)), this.at, this.value),
      this.plot,
    );
    this.plot.addEventListener("pointermove", (event) => {
      const box = this.plot.getBoundingClientRect();
      const share = ((event.clientX - box.left) / box.width) * (WIDTH + LEFT + RIGHT) - LEFT;
      this.pointer = Math.min(1, Math.max(0, share / WIDTH));
      this.read();
    });
    this.plot.addEventListener("pointerleave", () => {
      this.pointer = undefined;
      this.read();
    });
  }

  draw({ points, spans }: Series, fromMs: number, toMs: number, holdUntil: number): void {
    this.points = points;
    this.holdUntil = holdUntil;
    const extremes = spans.flatMap(([from, , least, most]): Point[] => [[from, least], [from, most]]);
    const { low, high, step } = range(this.metric, [...points, ...extremes]);
    this.scale = { fromMs, toMs, low, high, width: WIDTH, height: HEIGHT };
    const path = line(points, this.scale, holdUntil);
    this.path.setAttribute("d", path);
    this.band.setAttribute("d", band(spans, this.scale));
    const first = points[0];
    const end = x(this.scale, Math.max(points.at(-1)?.[0] ?? fromMs, Math.min(holdUntil, toMs)));
    this.area.setAttribute("d", first === undefined ? "" : `${path}L${end} ${HEIGHT}H${Math.max(0, x(this.scale, first[0]))}Z`);
    this.axes(low, high, step);
    this.read();
  }

  private axes(low: number, high: number, step: number): void {
    const marks: SVGElement[] = [];
    for (let value = low; value <= high + step / 2; value += step) {
      const at = y(this.scale, value);
      marks.push(
        svg("line", { x1: 0, x2: WIDTH, y1: at, y2: at }),
        svg("text", { x: -6, y: at + 3.5, "text-anchor": "end" }, format.metric(this.metric, value).replace(/\.0(?= )/, "")),
      );
    }
    const span = this.scale.toMs - this.scale.fromMs;
    const count = 4;
    for (let i = 1; i <= count; i += 1) {
      const at = this.scale.fromMs + (span * i) / count;
      const text = span > 86_400_000 ? format.moment(at).slice(5, 16) : format.moment(at).slice(11, span > 3_600_000 ? 16 : 19);
      marks.push(svg("text", { x: (WIDTH * i) / count, y: HEIGHT + 15, "text-anchor": i === count ? "end" : "middle" }, text));
    }
    this.grid.replaceChildren(...marks);
  }

  private read(): void {
    if (this.points.length === 0) {
      setText(this.value, "–");
      setText(this.at, "no values in this range");
      this.cursor.setAttribute("visibility", "hidden");
      return;
    }
    const newest = this.points.at(-1);
    const atMs = this.pointer === undefined ? undefined : this.scale.fromMs + this.pointer * (this.scale.toMs - this.scale.fromMs);
    const point = atMs === undefined ? newest : pointAt(this.points, atMs);
    setText(this.value, format.metric(this.metric, point?.[1]));
    const shown = atMs !== undefined && point !== undefined && atMs <= Math.max(this.holdUntil, newest?.[0] ?? 0);
    setText(this.at, shown ? format.moment(atMs) : "");
    this.cursor.setAttribute("visibility", shown ? "visible" : "hidden");
    if (shown) {
      this.cursor.setAttribute("x1", String(x(this.scale, atMs)));
      this.cursor.setAttribute("x2", String(x(this.scale, atMs)));
    }
  }
}
