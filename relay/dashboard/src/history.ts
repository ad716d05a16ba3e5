/**
 * Fills sparklines from the relay's history: only for robots that are on the screen, a few requests at a
 * time, each robot once a snapshot.
 */

import * as api from "./api";
import { CORE_METRICS, SPARK_MS, SPARK_POINTS } from "./model";
import type { Fleet } from "./model";

const AT_ONCE = 4;
const PAUSE_MS = 5_000;

export class History {
  private readonly asked = new Set<string>();
  private readonly queue: string[] = [];
  private running = 0;

  constructor(
    private readonly fleet: Fleet,
    private readonly now: () => number,
    private readonly changed: () => void,
    /** Of the past, nothing after it is wanted. */
    private readonly isPast = false,
  ) {}

  /** Forget what was asked: after a gap the history has more than the page. */
  reset(): void {
    this.asked.clear();
    this.queue.length = 0;
  }

  want(id: string): void {
    if (this.asked.has(id)) return;
    this.asked.add(id);
    this.queue.push(id);
    this.next();
  }

  private next(): void {
    if (this.running >= AT_ONCE) return;
    const id = this.queue.shift();
    if (id === undefined) return;
    this.running += 1;
    void this.load(id).finally(() => {
      this.running -= 1;
      this.next();
    });
  }

  private async load(id: string): Promise<void> {
    try {
      const now = this.now();
      const loaded = await api.telemetry(id, CORE_METRICS, now - SPARK_MS, this.isPast ? now : undefined, SPARK_POINTS);
      for (const [metric, { points }] of loaded) this.fleet.fill(id, metric, points);
      if (this.isPast) this.fleet.measured(id, new Map([...loaded].map(([metric, { points }]) => [metric, points.at(-1)?.[1]])));
      this.changed();
    } catch {
      // The row shows live values meanwhile; ask again when it is next drawn.
      setTimeout(() => this.asked.delete(id), PAUSE_MS);
    }
  }
}
