/** Which robots the fleet view shows, and in which order. Pure. */

import { presence } from "./model";
import type { Presence, Robot } from "./model";

export type SortKey = "id" | "status" | "type" | "last_seen" | "cpu_percent" | "memory_percent" | "disk_percent" | "temperature_c";

export interface Selection {
  readonly text: string;
  readonly status: Presence | "all";
  readonly sort: SortKey;
  readonly descending: boolean;
}

const ORDER: Record<Presence, number> = { online: 0, stale: 1, offline: 2, never: 3 };

function key(robot: Robot, sort: SortKey): string | number | undefined {
  const { view } = robot;
  switch (sort) {
    case "id":
      return view.id;
    case "status":
      return ORDER[presence(view)];
    case "type":
      return view.type;
    case "last_seen":
      return view.status.last_seen === undefined ? undefined : -Date.parse(view.status.last_seen);
    default:
      return view.resources[sort];
  }
}

/** Robots without the value come last, whichever way it is sorted; equal ones are sorted by id. */
export function select(robots: readonly Robot[], selection: Selection): Robot[] {
  const words = selection.text.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = ({ view }: Robot): boolean => {
    const state = presence(view);
    if (selection.status !== "all" && state !== selection.status && !(selection.status === "offline" && state === "never")) return false;
    if (words.length === 0) return true;
    const text = [view.id, view.type, view.network?.hostname, ...(view.network?.ip_addresses ?? []), view.deployment?.agent_version, view.factsheet?.hardware.model]
      .join(" ")
      .toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const sign = selection.descending ? -1 : 1;
  const byId = new Intl.Collator("en", { numeric: true });
  const keyed = robots.filter(matches).map((robot) => ({ robot, key: key(robot, selection.sort) }));
  keyed.sort((a, b) => {
    if (a.key === undefined || b.key === undefined) {
      if (a.key !== b.key) return a.key === undefined ? 1 : -1;
    } else if (a.key !== b.key) {
      const order = typeof a.key === "string" ? byId.compare(a.key, String(b.key)) : a.key - Number(b.key);
      if (order !== 0) return sign * order;
    }
    return byId.compare(a.robot.view.id, b.robot.view.id);
  });
  return keyed.map(({ robot }) => robot);
}
