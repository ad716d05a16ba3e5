/** What a view gets from `main.ts`, and what `main.ts` asks of a view. */

import type { Live } from "./api";
import type { History } from "./history";
import type { Fleet } from "./model";
import type { Place } from "./place";

export interface Context {
  readonly fleet: Fleet;
  readonly history: History;
  /** While somebody looks back: where the log stood then. Nothing changes any more, and nothing can be decided. */
  readonly position?: number;
  /** The relay's time in ms: last seen is told by its clock, not by the browser's. Of the past, the time looked back at. */
  now(): number;
  /** Asks for `draw` in the next animation frame. */
  schedule(): void;
  /** Whether who is logged in may do this to the robot; no while that is not known. */
  may(permission: string, robot: string): boolean;
  /** The address of another page of the same time. */
  href(place: Place): string;
}

export interface View {
  readonly element: HTMLElement;
  readonly title: string;
  /** Called at most once a frame, and once a second for the ticking times. */
  draw(): void;
  message?(live: Live): void;
  /** It is known, perhaps anew, what who is logged in may do. */
  welcome?(): void;
  /** After a reconnect: whatever the view keeps beside the fleet may have a gap. */
  refetch?(): void;
  close?(): void;
}
