/** A sparkline of the last five minutes, kept in place and redrawn when its robot changed. */

import { svg } from "./dom";
import { SPARK_MS } from "./model";
import { line, sparkRange } from "./plot";
import type { Point } from "./api";

const WIDTH = 96;
const HEIGHT = 22;

export class Spark {
  private readonly path = svg("path", { class: "spark-line", "vector-effect": "non-scaling-stroke" });
  readonly element = svg("svg", { class: "spark", viewBox: `0 -1 ${WIDTH} ${HEIGHT + 2}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.path);

  draw(points: readonly Point[], nowMs: number): void {
    const { low, high } = sparkRange(points);
    const scale = { fromMs: nowMs - SPARK_MS, toMs: nowMs, low, high, width: WIDTH, height: HEIGHT };
    this.path.setAttribute("d", line(points, scale, nowMs));
  }
}
