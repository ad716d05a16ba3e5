/**
 * Joins snapshot and stream so that nothing falls between them: messages that come before the snapshot
 * wait for it, and after a gap everything is asked for again. Pure; `live.ts` drives it.
 */

import type { Live, RobotList } from "./api";
import type { Fleet } from "./model";

/** Messages that may wait; beyond it the snapshot is asked for again instead. */
const MAX_WAITING = 20_000;

export class Sync {
  private waiting: Live[] = [];
  private complete = false;
  private overflowed = false;

  constructor(
    private readonly fleet: Fleet,
    /** Asked for robots that the snapshot did not have. */
    private readonly onUnknown: (id: string) => void,
  ) {}

  get isComplete(): boolean {
    return this.complete;
  }

  /** The stream begins, or has a gap: what comes now waits for the next snapshot. */
  gap(): void {
    this.complete = false;
    this.overflowed = false;
    this.waiting = [];
  }

  message(live: Live): void {
    if (this.complete) this.take(live);
    else if (this.waiting.length < MAX_WAITING) this.waiting.push(live);
    else this.overflowed = true;
  }

  /** Answers whether the picture is whole now; if not, another snapshot is needed. */
  snapshot(list: RobotList): boolean {
    this.fleet.snapshot(list);
    const waiting = this.waiting;
    this.waiting = [];
    this.complete = !this.overflowed;
    this.overflowed = false;
    for (const live of waiting) this.take(live);
    return this.complete;
  }

  private take(live: Live): void {
    if (!this.fleet.apply(live)) this.onUnknown(live.robot_id);
  }
}
