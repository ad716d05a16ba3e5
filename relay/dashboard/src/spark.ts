/** A sparkline of the last five minutes, kept in place and redrawn when its robot changed. */

import { svg } from "./dom";
import { SPARK_MS } from "./model";
import { line, range } from "./plot";
import type { Point } from "./api";

const WIDTH = 96;
const HEIGHT = 22;

export class Spark {
  private readonly path = svg("path", { class: "spark-line", "vector-effect": "non-scaling-stroke" });
  readonly element = svg("svg", { class: "spark", viewBox: `0 -1 ${WIDTH} ${HEIGHT + 2}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.path);

  draw(metric: string, points: readonly Point[], nowMs: number): void {
    const fitted = range(metric, points);
    // A share's line would lie flat on the floor of 0 to 100: small sparklines show the shape instead.
    const values = points.map(([, value]) => value);
    const most = Math.max(...values, fitted.low + (metric.endsWith("_percent") ? 10 : fitted.step));
    const scale = { fromMs: nowMs - SPARK_MS, toMs: nowMs, low: fitted.low, high: most, width: WIDTH, height: HEIGHT };
    this.path.setAttribute("d", line(points, scale, nowMs));
  }
}
