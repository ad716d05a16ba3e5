/**
 * What the page knows of the fleet: snapshots and live messages in, robots out. Pure: no DOM, no
 * network, no clock. Applying a message twice, or one that is older than the snapshot, changes nothing.
 */

import type { ConfigurationState, ConnectionState, EventRecord, Live, Metrics, Point, RobotList, RobotView, Service } from "./api";

/** How far sparklines reach back. */
export const SPARK_MS = 5 * 60_000;
/** Most points that one sparkline keeps. */
export const SPARK_POINTS = 200;

export type Presence = "online" | "stale" | "offline" | "never";

/** The four metrics that every robot has, in the order in which they are shown. */
export const CORE_METRICS = ["cpu_percent", "memory_percent", "disk_percent", "temperature_c"] as const;

export interface Robot {
  readonly view: RobotView;
  /** Counts changes, so that a renderer can tell what is new. */
  readonly version: number;
}

export interface Totals {
  readonly all: number;
  readonly online: number;
  readonly stale: number;
  readonly offline: number;
}

export function presence(view: RobotView): Presence {
  if (view.status.last_seen === undefined) return "never";
  if (view.status.stale) return "stale";
  return view.status.online ? "online" : "offline";
}

/** A robot's health in a word, and how alarming it is; undefined for a robot that says nothing of it. */
export function condition(view: RobotView): { readonly word: string; readonly level: "good" | "busy" | "bad" } | undefined {
  const { health } = view;
  if (health === undefined) return undefined;
  if (health.healthy) return { word: "healthy", level: "good" };
  if (health.setup === "failed") return { word: "setup failed", level: "bad" };
  if (health.setup !== "done") return { word: `setup ${health.setup}`, level: "busy" };
  return (health.failing ?? []).length === 0 ? { word: "starting", level: "busy" } : { word: "unhealthy", level: "bad" };
}

/** A service's state in a word; a check answers or does not, a node is there or not. */
export function serviceWord({ kind, state }: Service): string {
  if (kind === "ros_node") return state === "active" ? "present" : state === "inactive" ? "absent" : state;
  if (kind !== "check") return state;
  return state === "active" ? "answers" : state === "inactive" ? "silent" : state;
}

/** Charge and what happens to it, such as `81 %, charging`; empty for a robot without a battery. */
export function battery(view: RobotView): string {
  const percent = view.resources["battery_percent"];
  const status = view.battery === undefined || view.battery === "unknown" ? "" : view.battery.replace("_", " ");
  return [percent === undefined ? "" : `${Math.round(percent)} %`, status].filter(Boolean).join(", ");
}

/** What the board complains of, such as `under voltage (earlier)`; empty where it says nothing. */
export function complaints(view: RobotView): string {
  if (view.throttling === undefined) return "";
  const said = Object.entries(view.throttling).flatMap(([name, flag]) => {
    const words = name.replaceAll("_", " ");
    return flag.now ? [words] : flag.since_boot ? [`${words} (earlier)`] : [];
  });
  return said.join(", ") || "no complaints";
}

export type Standing = Presence | "quarantined" | "rejected";

/** What to show first: whether the robot takes part at all, then whether it is there. */
export function standing(view: RobotView): Standing {
  const status = view.registration?.status ?? "registered";
  return status === "registered" ? presence(view) : status;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function numbers(value: unknown): Record<string, number> {
  if (!isRecord(value)) return {};
  return Object.fromEntries(Object.entries(value).filter((entry): entry is [string, number] => Number.isFinite(entry[1])));
}

const later = (a: string | undefined, b: string): string => (a === undefined || Date.parse(a) < Date.parse(b) ? b : a);
const isOlder = (a: string, b: string | undefined): boolean => b !== undefined && Date.parse(a) < Date.parse(b);

export class Fleet {
  private readonly robots = new Map<string, Robot>();
  private readonly series = new Map<string, Point[]>();
  /** What the snapshot has. */
  private position = 0;
  /** By robot and what changed: the newest event that was applied since. */
  private readonly applied = new Map<string, number>();
  private versions = 0;

  get(id: string): Robot | undefined {
    return this.robots.get(id);
  }

  all(): Robot[] {
    return [...this.robots.values()];
  }

  totals(): Totals {
    const totals = { all: 0, online: 0, stale: 0, offline: 0 };
    for (const { view } of this.robots.values()) {
      const state = presence(view);
      totals.all += 1;
      totals[state === "never" ? "offline" : state] += 1;
    }
    return totals;
  }

  /** Replaces everything but the sparklines, which a reconnect must not empty. */
  snapshot(list: RobotList): void {
    this.robots.clear();
    for (const view of list.robots) this.put(view);
    // Also backwards: the relay may have been restored from a backup.
    this.position = list.position;
    this.applied.clear();
  }

  /** Takes one robot's whole view. */
  put(view: RobotView): void {
    this.versions += 1;
    this.robots.set(view.id, { view, version: this.versions });
    const at = view.resources_at === undefined ? NaN : Date.parse(view.resources_at);
    if (Number.isFinite(at)) this.record(view.id, view.resources, at);
  }

  /** Takes one live message. Answers false when the robot is not known yet and must be asked for. */
  apply(live: Live): boolean {
    const robot = this.robots.get(live.robot_id);
    if (robot === undefined) return false;
    const payload = isRecord(live.payload) ? live.payload : {};
    const view = live.type.includes(".")
      ? this.event(robot.view, live, payload)
      : message(robot.view, live, payload);
    if (live.type === "telemetry") this.record(live.robot_id, numbers(payload["metrics"]), Date.parse(live.timestamp));
    if (view !== robot.view) {
      this.versions += 1;
      this.robots.set(live.robot_id, { view, version: this.versions });
    }
    return true;
  }

  /** Points of the last five minutes, ascending. */
  spark(id: string, metric: string): readonly Point[] {
    return this.series.get(`${id} ${metric}`) ?? [];
  }

  /** Puts history before the points that have come live. */
  fill(id: string, metric: string, history: readonly Point[]): void {
    const live = this.spark(id, metric);
    const first = live[0]?.[0] ?? Infinity;
    this.series.set(`${id} ${metric}`, [...history.filter(([at]) => at < first), ...live].slice(-SPARK_POINTS));
    const robot = this.robots.get(id);
    if (robot !== undefined) {
      this.versions += 1;
      this.robots.set(id, { ...robot, version: this.versions });
    }
  }

  /** Of the past: what history has of a metric counts more than an earlier picture. */
  measured(id: string, values: ReadonlyMap<string, number | undefined>): void {
    const view = this.robots.get(id)?.view;
    if (view === undefined) return;
    const found = [...values].filter((entry): entry is [string, number] => entry[1] !== undefined);
    this.put({ ...view, resources: { ...view.resources, ...Object.fromEntries(found) } });
  }

  private record(id: string, metrics: Metrics, at: number): void {
    for (const metric of CORE_METRICS) {
      const value = metrics[metric];
      if (value === undefined) continue;
      const key = `${id} ${metric}`;
      const points = this.series.get(key) ?? [];
      if ((points.at(-1)?.[0] ?? -Infinity) >= at) continue;
      points.push([at, value]);
      while (points.length > SPARK_POINTS || (points.length > 2 && (points[1]?.[0] ?? at) < at - SPARK_MS)) points.shift();
      this.series.set(key, points);
    }
  }

  private event(view: RobotView, live: Live, payload: Record<string, unknown>): RobotView {
    const event = payload as unknown as EventRecord;
    // An urgent event overtakes others: only a newer one that changes the same makes one old.
    const changes = subject(event.type ?? live.type);
    if (changes === undefined) return view;
    const about = `${live.robot_id} ${changes}`;
    if (live.sequence <= Math.max(this.position, this.applied.get(about) ?? 0)) return view;
    this.applied.set(about, live.sequence);
    switch (event.type ?? live.type) {
      case "robot.connected":
        // Events come after their commit: what the robot has said since counts more.
        return isOlder(live.timestamp, view.status.last_seen) ? view : connection(view, "ONLINE", live.timestamp);
      case "robot.disconnected":
        if (isOlder(live.timestamp, view.status.last_seen)) return view;
        return connection(view, view.status.connection === "ONLINE" ? "OFFLINE" : view.status.connection, live.timestamp);
      case "robot.stale":
        return { ...view, status: { ...view.status, online: false, stale: true } };
      case "robot.registered":
        return { ...certified(view, event.data), status: { ...view.status, registered_at: live.timestamp } };
      case "robot.renewed":
      case "robot.revoked":
        return certified(view, event.data);
      case "robot.quarantined":
      case "robot.approved":
      case "robot.rejected":
        return registration(view, event.type ?? live.type, live.timestamp, isRecord(event.data) ? event.data : {});
      case "configuration.desired":
      case "configuration.applied":
      case "configuration.rejected":
      case "configuration.rolled_back":
        return configured(view, (event.type ?? live.type).slice("configuration.".length), isRecord(event.data) ? event.data : {});
      default:
        return view;
    }
  }
}

/** What an event of this type changes; a later one that changes the same replaces it. */
function subject(type: string): string | undefined {
  switch (type) {
    case "robot.connected":
    case "robot.disconnected":
    case "robot.stale":
      return "presence";
    case "robot.quarantined":
    case "robot.approved":
    case "robot.rejected":
      return "standing";
    case "robot.renewed":
    case "robot.revoked":
      return "certificate";
    case "robot.registered":
      return type;
    default:
      return type.startsWith("configuration.") ? "configuration" : undefined;
  }
}

/** The certificate that it has in use after it got one, or after some were taken back. */
function certified(view: RobotView, data: unknown): RobotView {
  const said = isRecord(data) ? data : {};
  const serial = text(said["certificate_serial"]);
  const end = text(said["not_after"]);
  if (serial !== undefined && end !== undefined) return { ...view, certificate: { serial, not_after: end } };
  const { certificate, ...rest } = view;
  const gone = said["serials"];
  return Array.isArray(gone) && gone.includes(certificate?.serial) ? rest : view;
}

function configured(view: RobotView, what: string, data: Record<string, unknown>): RobotView {
  const version = typeof data["version"] === "number" ? data["version"] : 0;
  const known = view.configuration;
  // Events come after their commit: what was heard of a later version since counts more.
  if (version < (known?.desired ?? 0)) return view;
  if (what === "desired") return { ...view, configuration: { ...known, desired: version, drift: known?.reported?.version !== version } };
  const reason = text(data["reason"]);
  const reported = { version, state: what as ConfigurationState, ...(reason === undefined ? {} : { reason }) };
  return { ...view, configuration: { desired: version, reported, drift: what !== "applied" } };
}

/** Which configuration the robot has, in words; nothing while nobody wanted one. */
export function configuration(view: RobotView): string {
  const known = view.configuration;
  if (known === undefined || known.desired === 0) return "";
  const said = known.reported;
  if (said?.version !== known.desired) return `version ${known.desired} is wanted`;
  const reason = said.reason === undefined ? "" : `: ${said.reason}`;
  return `version ${known.desired} is ${said.state.replace("_", " ")}${reason}`;
}

const text = (value: unknown): string | undefined => (typeof value === "string" && value !== "" ? value : undefined);

function registration(view: RobotView, type: string, since: string, data: Record<string, unknown>): RobotView {
  const by = text(data["by"]);
  if (type === "robot.approved") {
    const profile = text(data["profile"]) ?? view.registration?.profile;
    const registered = { status: "registered" as const, since, ...(by === undefined ? {} : { approved_by: by }), ...(profile === undefined ? {} : { profile }) };
    return { ...view, type: profile ?? view.type, registration: registered };
  }
  const status = type === "robot.rejected" ? ("rejected" as const) : ("quarantined" as const);
  const reason = status === "rejected" ? `rejected by ${by ?? "somebody"}` : (text(data["reason"]) ?? "");
  const profile = view.registration?.profile;
  return { ...view, registration: { status, since, reason, ...(profile === undefined ? {} : { profile }) } };
}

function connection(view: RobotView, state: ConnectionState, at: string): RobotView {
  const status = { ...view.status, connection: state, online: state === "ONLINE", stale: false };
  return { ...view, status: { ...status, last_seen: later(view.status.last_seen, at) } };
}

/** The robot was heard: silent no longer. */
function heard(view: RobotView, at: string, uptime: unknown): RobotView {
  const connected = view.status.connection === "ONLINE";
  return {
    ...view,
    status: {
      ...view.status,
      online: connected,
      stale: false,
      last_seen: later(view.status.last_seen, at),
      ...(typeof uptime === "number" ? { uptime_s: uptime } : {}),
    },
  };
}

function message(view: RobotView, live: Live, payload: Record<string, unknown>): RobotView {
  const at = live.timestamp;
  if (isOlder(at, view.status.last_seen) && live.type !== "telemetry") return view;
  switch (live.type) {
    case "connection": {
      const state = payload["state"];
      return state === "ONLINE" || state === "OFFLINE" || state === "CONNECTION_BROKEN" ? connection(view, state, at) : view;
    }
    case "heartbeat":
      return heard(view, at, payload["uptime_s"]);
    case "telemetry": {
      const metrics = numbers(payload["metrics"]);
      const resources = isOlder(at, view.resources_at)
        ? { ...metrics, ...view.resources }
        : { ...view.resources, ...metrics };
      const next = { ...view, resources, resources_at: later(view.resources_at, at) };
      return isOlder(at, view.status.last_seen) ? next : heard(next, at, metrics["uptime_s"]);
    }
    case "state": {
      const picked: Partial<Record<string, unknown>> = {};
      for (const key of ["activity", "operating_mode", "teleoperation", "network", "deployment"]) {
        if (payload[key] !== undefined) picked[key] = payload[key];
      }
      // A state without it says that there is nothing to say any more.
      for (const key of ["health", "services", "battery", "throttling", "clock"]) picked[key] = payload[key];
      // As does a metric that it lacks.
      const resources = isRecord(payload["resources"]) ? numbers(payload["resources"]) : view.resources;
      const next = { ...view, ...picked, resources, resources_at: at };
      return heard(next as RobotView, at, payload["uptime_s"]);
    }
    case "factsheet": {
      const factsheet = payload as unknown as NonNullable<RobotView["factsheet"]>;
      const approved = view.registration?.approved_by === undefined ? undefined : view.registration.profile;
      const type = approved ?? (typeof factsheet.profile === "string" ? factsheet.profile : view.type);
      return heard({ ...view, type, factsheet }, at, undefined);
    }
    default:
      return view;
  }
}
