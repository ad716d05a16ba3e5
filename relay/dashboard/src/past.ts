/** The fleet as it was: asked for once, and never changed. */

import * as api from "./api";
import { Fleet } from "./model";

export class Past {
  readonly fleet = new Fleet();
  /** Where the log stood then; undefined until the relay has answered. */
  position: number | undefined;
  /** Why there is nothing to show. */
  trouble = "";

  constructor(
    /** Which time, ms since 1970. */
    readonly at: number,
  ) {}

  async load(): Promise<void> {
    try {
      const list = await api.robotsAt(this.at);
      // What was measured then is in the history; a picture's own values may be an hour older, and are no point of it.
      const robots = list.robots.map(({ resources_at: _, ...view }) => view);
      this.fleet.snapshot({ ...list, robots });
      this.position = list.position;
    } catch (cause) {
      this.trouble = cause instanceof Error ? cause.message : String(cause);
    }
  }
}
