/**
 * The relay's interface as the dashboard uses it. The types follow `protocol/src/api.rs`; fields that
 * the page does not show are left out. A 401 leads to the login page.
 */

export type Metrics = Readonly<Record<string, number>>;
export type ConnectionState = "ONLINE" | "OFFLINE" | "CONNECTION_BROKEN";

export interface Status {
  readonly online: boolean;
  readonly stale: boolean;
  readonly connection: ConnectionState;
  readonly last_seen?: string;
  readonly registered_at?: string;
  readonly uptime_s?: number;
}

/** Whether a robot takes part. Relays of before there was quarantine say nothing. */
export interface Registration {
  readonly status: "registered" | "quarantined" | "rejected";
  readonly reason?: string;
  readonly since: string;
  readonly approved_by?: string;
  readonly profile?: string;
}

export interface Factsheet {
  readonly uuid: string;
  readonly profile: string;
  readonly hardware: {
    readonly serial: string;
    readonly model: string;
    readonly revision: string;
    readonly architecture?: string;
    readonly cores?: number;
    readonly memory_bytes?: number;
  };
  readonly agent_version: string;
  readonly agent_target: string;
  readonly capabilities?: readonly string[];
  readonly boot_id: string;
}

export interface Health {
  readonly healthy: boolean;
  readonly setup: "pending" | "running" | "done" | "failed";
  readonly failing?: readonly { readonly name: string; readonly reason: string }[];
}

export interface Service {
  readonly name: string;
  readonly kind: "unit" | "process" | "check" | "ros_node";
  readonly state: "unknown" | "active" | "restarting" | "inactive";
  readonly restarts?: number;
  readonly flapping?: boolean;
  readonly memory_bytes?: number;
}

export interface Flag {
  readonly now: boolean;
  readonly since_boot: boolean;
}

export type ConfigurationState = "trying" | "applied" | "rejected" | "rolled_back";

/** What the relay wants a robot's configuration to be, and what the robot says of it. Version 0 is the robot's own file. */
export interface ConfigurationStatus {
  readonly desired: number;
  readonly reported?: { readonly version: number; readonly state: ConfigurationState; readonly reason?: string };
  readonly drift: boolean;
}

export interface RobotView {
  readonly id: string;
  readonly type: string;
  readonly status: Status;
  readonly registration?: Registration;
  readonly certificate?: { readonly serial: string; readonly not_after: string };
  readonly factsheet?: Factsheet;
  readonly network?: { readonly hostname: string; readonly mac_address?: string; readonly ip_addresses?: readonly string[] };
  readonly deployment?: {
    readonly os_version: string;
    readonly agent_version: string;
    readonly installed_packages?: { readonly count: number; readonly digest: string };
  };
  readonly activity?: string;
  readonly operating_mode?: string;
  readonly teleoperation?: { readonly active: boolean; readonly operator_id?: string };
  readonly health?: Health;
  readonly services?: readonly Service[];
  readonly battery?: "unknown" | "charging" | "discharging" | "not_charging" | "full";
  readonly throttling?: Readonly<Record<string, Flag>>;
  readonly configuration?: ConfigurationStatus;
  readonly clock?: { readonly synchronized: boolean; readonly synchronized_at?: string };
  readonly resources: Metrics;
  readonly resources_at?: string;
  /** Of the past only: when what is not in the log was as it is said here. */
  readonly as_of?: { readonly position: number; readonly picture_at?: string };
}

export interface RobotList {
  readonly robots: readonly RobotView[];
  readonly position: number;
  readonly now: string;
}

export interface EventRecord {
  readonly position: number;
  readonly aggregate_id: string;
  readonly source: string;
  readonly type: string;
  readonly timestamp: string;
  readonly data?: unknown;
}

/** A message of the live stream; `payload` is the robot's own, or an `EventRecord`. */
export interface Live {
  readonly type: string;
  readonly robot_id: string;
  readonly timestamp: string;
  readonly sequence: number;
  readonly payload: unknown;
}

/**
 * Names of the stream's events: the browser hands over only those that are asked for by name. Messages
 * without a name come as `message`.
 */
export const LIVE_TYPES = [
  "message",
  "heartbeat",
  "telemetry",
  "state",
  "factsheet",
  "connection",
  "robot.registered",
  "robot.quarantined",
  "robot.approved",
  "robot.rejected",
  "robot.reflashed",
  "robot.renewed",
  "robot.revoked",
  "robot.hardware_changed",
  "robot.connected",
  "robot.disconnected",
  "robot.stale",
  "robot.rebooted",
  "agent.started",
  "agent.stopped",
  "health.resource_alert",
  "health.resource_recovered",
  "health.temperature_warning",
  "health.healthy",
  "health.unhealthy",
  "setup.started",
  "setup.progress",
  "setup.completed",
  "setup.failed",
  "events.dropped",
  "alert.firing",
  "alert.resolved",
  "alert.acknowledged",
] as const;

/** What a rule found out about a robot. */
export interface Alert {
  readonly id: string;
  readonly rule: string;
  readonly robot_id: string;
  readonly severity: "info" | "warning" | "critical";
  readonly summary: string;
  readonly reason: string;
  readonly since: string;
  readonly acknowledged?: { readonly by: string; readonly comment?: string };
  readonly silenced_by?: string;
}

export interface Silence {
  readonly matchers: { readonly rules?: readonly string[]; readonly robots?: readonly string[]; readonly severity?: Alert["severity"] };
  readonly until: string;
  readonly comment: string;
}

/** Something that happened to alerts, as the log has it. */
export interface AlertEntry {
  readonly position: number;
  readonly at: string;
  readonly type: string;
  readonly alert?: string;
  readonly robot_id?: string;
  readonly severity?: Alert["severity"];
  readonly summary?: string;
  readonly reason?: string;
  readonly by?: string;
  readonly comment?: string;
  readonly silence?: Silence;
  readonly receiver?: string;
  readonly firing?: readonly string[];
  readonly resolved?: readonly string[];
  readonly omitted?: number;
}

export interface AlertPage {
  readonly entries: readonly AlertEntry[];
  readonly next_before?: number;
}

/** Who is logged in, and what they may where: `fleet`, `group:…` or `robot:…`. */
export interface Me {
  readonly name: string;
  readonly rights: readonly { readonly permissions: readonly string[]; readonly on: string }[];
}

export interface AlertList {
  readonly alerts: readonly Alert[];
  readonly firing: number;
  readonly now: string;
}

export type Point = readonly [ms: number, value: number];
/** The lowest and the highest value of a time. */
export type Span = readonly [fromMs: number, toMs: number, low: number, high: number];
/** A metric over time; spans where points stand for more than themselves. */
export interface Series {
  readonly points: readonly Point[];
  readonly spans: readonly Span[];
}
interface TelemetryHistory {
  readonly step_ms?: number;
  readonly series: readonly { metric: string; points: readonly Point[]; ranges?: readonly (readonly [number, number])[] }[];
}

/** The relay answered, but not with what was asked for. */
export class RelayError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const read = <T>(path: string, signal?: AbortSignal): Promise<T> => ask<T>(path, signal ? { signal } : {});

/** The browser says where the request comes from, which the relay insists on. */
const post = <T>(path: string, body: unknown): Promise<T> =>
  ask<T>(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

async function ask<T>(path: string, init: RequestInit): Promise<T> {
  const response = await fetch(path, {
    ...init,
    headers: { ...init.headers, accept: "application/json" },
    credentials: "same-origin",
  });
  if (response.status === 401) {
    location.assign("/login");
    throw new RelayError(401, "the session has ended");
  }
  if (!response.ok) {
    const problem = (await response.json().catch(() => ({}))) as { title?: string; detail?: string };
    throw new RelayError(response.status, problem.detail ?? problem.title ?? `the relay answered ${response.status}`);
  }
  return (await response.json()) as T;
}

export const me = (): Promise<Me> => read("/api/v1/me");

const robotPath = (id: string): string => `/api/v1/robots/${encodeURIComponent(id)}`;

export const robots = (): Promise<RobotList> => read("/api/v1/robots");

/** As they were at this time, ms since 1970. */
export const robotsAt = (at: number): Promise<RobotList> => read(`/api/v1/robots?at=${new Date(at).toISOString()}`);

export const robot = (id: string): Promise<RobotView> => read(robotPath(id));

/** Lets a robot in; without a profile, as what it or its token says. */
export const approve = (id: string, profile: string | undefined): Promise<RobotView> =>
  post(`${robotPath(id)}/approve`, profile === undefined ? {} : { profile });

/** Turns a robot away: its certificate is revoked, its session ends. */
export const reject = (id: string): Promise<RobotView> => post(`${robotPath(id)}/reject`, {});

/** What fires, the newest first. */
export const alerts = (limit: number): Promise<AlertList> => read(`/api/v1/alerts?limit=${limit}`);

/** What became of alerts before a position of the log, of one robot or of all; newest first. */
export function alertHistory(robot: string | undefined, before: number | undefined, limit: number, signal: AbortSignal): Promise<AlertPage> {
  const query = new URLSearchParams({ limit: String(limit) });
  if (robot !== undefined) query.set("robot", robot);
  if (before !== undefined) query.set("before", String(before));
  return read(`/api/v1/alerts/history?${query}`, signal);
}

/** Says that somebody looks after an alert. */
export const acknowledge = (id: string): Promise<Alert> => post(`/api/v1/alerts/${encodeURIComponent(id)}/acknowledge`, {});

/** The newest events of one robot, or those up to a position of the log; ascending. */
export async function events(id: string, limit: number, upTo: number | undefined, signal?: AbortSignal): Promise<readonly EventRecord[]> {
  const before = upTo === undefined ? "" : `&before=${upTo + 1}`;
  const page = await read<{ events: EventRecord[] }>(`${robotPath(id)}/events?limit=${limit}${before}`, signal);
  return page.events;
}

/** At most so many points of each metric from `fromMs` to `toMs`, ascending: of a long time the means of its steps. By metric. */
export async function telemetry(
  id: string,
  metrics: readonly string[],
  fromMs: number,
  toMs: number | undefined,
  points: number,
  signal?: AbortSignal,
): Promise<ReadonlyMap<string, Series>> {
  const query = new URLSearchParams({ metric: metrics.join(","), from: String(Math.round(fromMs)), points: String(points) });
  if (toMs !== undefined) query.set("to", String(Math.round(toMs)));
  return series(await read<TelemetryHistory>(`${robotPath(id)}/telemetry?${query}`, signal));
}

export function series(history: TelemetryHistory): ReadonlyMap<string, Series> {
  const step = history.step_ms ?? 0;
  return new Map(
    history.series.map(({ metric, points, ranges = [] }) => {
      const spans = ranges.map(([low, high], i): Span => [points[i]?.[0] ?? 0, (points[i]?.[0] ?? 0) + step, low, high]);
      return [metric, { points, spans }];
    }),
  );
}
