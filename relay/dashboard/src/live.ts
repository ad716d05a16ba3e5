/**
 * Drives `Sync` from the browser: one EventSource, a snapshot after each connect and each `lagged`.
 */

import * as api from "./api";
import { Sync } from "./sync";
import type { Fleet } from "./model";

export type LinkState = "connecting" | "live" | "reconnecting";

export interface LiveHandlers {
  /** The picture changed. */
  changed(): void;
  /** The state of the link changed. */
  link(state: LinkState): void;
  /** A message came, after it was applied. */
  message(live: api.Live): void;
  /** A snapshot was applied; `now` is the relay's time. */
  snapshot(now: string): void;
}

const RETRY_MS = 2_000;

export class LiveLink {
  private readonly sync: Sync;
  private readonly asked = new Set<string>();
  private source: EventSource | undefined;
  private round = 0;

  constructor(
    private readonly fleet: Fleet,
    private readonly on: LiveHandlers,
  ) {
    this.sync = new Sync(fleet, (id) => void this.ask(id));
  }

  start(): void {
    // A snapshot follows each connect, so that events that were missed need not be told again.
    const source = new EventSource("/api/v1/stream?from=now");
    this.source = source;
    source.onopen = () => void this.resync();
    const take = (message: MessageEvent<string>): void => {
      const live = JSON.parse(message.data) as api.Live;
      this.sync.message(live);
      if (!this.sync.isComplete) return;
      this.on.message(live);
      this.on.changed();
    };
    for (const type of api.LIVE_TYPES) source.addEventListener(type, take);
    source.addEventListener("lagged", () => void this.resync());
    source.onerror = () => {
      this.on.link("reconnecting");
      this.round += 1;
      this.sync.gap();
      // The browser retries by itself unless the answer was no stream at all: a session that has
      // ended (the next request leads to the login page) or a relay that is starting.
      if (source.readyState !== EventSource.CLOSED) return;
      source.close();
      setTimeout(() => {
        void api.robots().catch(() => undefined).finally(() => this.start());
      }, RETRY_MS);
    };
  }

  stop(): void {
    this.source?.close();
  }

  private async resync(): Promise<void> {
    this.round += 1;
    const round = this.round;
    this.sync.gap();
    try {
      const list = await api.robots();
      if (round !== this.round) return;
      const whole = this.sync.snapshot(list);
      this.asked.clear();
      this.on.snapshot(list.now);
      this.on.changed();
      if (whole) this.on.link("live");
      else void this.resync();
    } catch {
      if (round !== this.round) return;
      this.on.link("reconnecting");
      setTimeout(() => {
        if (round === this.round) void this.resync();
      }, RETRY_MS);
    }
  }

  private async ask(id: string): Promise<void> {
    if (this.asked.has(id)) return;
    this.asked.add(id);
    try {
      this.fleet.put(await api.robot(id));
      this.on.changed();
    } catch {
      this.asked.delete(id);
    }
  }
}
