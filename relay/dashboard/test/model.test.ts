import { describe, expect, it } from "vitest";
import type { Live, RobotList, RobotView } from "../src/api";
import { Fleet, SPARK_POINTS, battery, complaints, condition, configuration, presence, serviceWord, standing } from "../src/model";
import { Sync } from "../src/sync";

const at = (s: number): string => new Date(Date.UTC(2026, 10, 21, 4, 0, 0) + s * 1000).toISOString();

const view = (id: string, change: Partial<RobotView> = {}): RobotView => ({
  id,
  type: "lekiwi",
  status: { online: true, stale: false, connection: "ONLINE", last_seen: at(0) },
  resources: { cpu_percent: 10, memory_percent: 40 },
  resources_at: at(0),
  ...change,
});
const list = (robots: RobotView[], position = 5): RobotList => ({ robots, position, now: at(0) });
const live = (type: string, s: number, payload: unknown, change: Partial<Live> = {}): Live => ({ type, robot_id: "kiwi-01", timestamp: at(s), sequence: 0, payload, ...change });

function fleet(...robots: RobotView[]): Fleet {
  const fleet = new Fleet();
  fleet.snapshot(list(robots));
  return fleet;
}
const status = (fleet: Fleet): string => presence(fleet.get("kiwi-01")?.view ?? view("none"));

describe("health", () => {
  it("is one word", () => {
    const failing = [{ name: "host.service", reason: "gone" }];
    const words = ([
      undefined,
      { healthy: true, setup: "done" },
      { healthy: false, setup: "done" },
      { healthy: false, setup: "done", failing },
      { healthy: false, setup: "running" },
      { healthy: false, setup: "failed" },
    ] as const).map((health) => condition(health === undefined ? view("kiwi-01") : view("kiwi-01", { health })));
    expect(words.map((word) => word && `${word.level} ${word.word}`)).toEqual([
      undefined,
      "good healthy",
      "busy starting",
      "bad unhealthy",
      "busy setup running",
      "bad setup failed",
    ]);
  });

  it("follows the state, also when it ends", () => {
    const f = fleet(view("kiwi-01"));
    const state = { activity: "idle", resources: {}, uptime_s: 1 };
    f.apply(live("state", 3, { ...state, health: { healthy: true, setup: "done" } }));
    expect(f.get("kiwi-01")?.view.health).toEqual({ healthy: true, setup: "done" });
    f.apply(live("state", 4, state));
    expect(f.get("kiwi-01")?.view.health).toBeUndefined();
  });
});

describe("live messages", () => {
  it("telemetry changes only what it carries, and is a sign of life", () => {
    const f = fleet(view("kiwi-01"));
    f.apply(live("telemetry", 3, { metrics: { cpu_percent: 55.5 } }));
    expect(f.get("kiwi-01")?.view.resources).toEqual({ cpu_percent: 55.5, memory_percent: 40 });
    expect(f.get("kiwi-01")?.view.status.last_seen).toBe(at(3));
    expect(f.spark("kiwi-01", "cpu_percent").map(([, v]) => v)).toEqual([10, 55.5]);
  });

  it("configurations follow the log", () => {
    const f = fleet(view("kiwi-01"));
    const seen: string[] = [];
    const log = (sequence: number, type: string, data: unknown): void => {
      f.apply(live(type, sequence, { type, data }, { sequence }));
      const { view: now } = f.get("kiwi-01") ?? { view: view("none") };
      seen.push(`${configuration(now)}${now.configuration?.drift ? " (drift)" : ""}`);
    };
    log(6, "configuration.desired", { version: 1, settings: {} });
    log(7, "configuration.applied", { version: 1 });
    log(8, "configuration.desired", { version: 2, settings: {} });
    log(9, "configuration.rolled_back", { version: 2, reason: "the relay did not confirm it within 60 s" });
    log(10, "configuration.applied", { version: 1 });
    expect(seen).toEqual([
      "version 1 is wanted (drift)",
      "version 1 is applied",
      "version 2 is wanted (drift)",
      "version 2 is rolled back: the relay did not confirm it within 60 s (drift)",
      "version 2 is rolled back: the relay did not confirm it within 60 s (drift)",
    ]);
  });

  it("quarantine, approval and rejection follow the log, and an approved profile stands", () => {
    const f = fleet(view("kiwi-01", { type: "unknown" }));
    const seen: unknown[] = [];
    const log = (sequence: number, type: string, data: unknown): void => {
      f.apply(live(type, sequence, { type, data }, { sequence }));
      const { view: now } = f.get("kiwi-01") ?? { view: view("none") };
      seen.push([standing(now), now.type, now.registration?.reason, now.registration?.approved_by]);
    };
    log(6, "robot.quarantined", { reason: "its hardware matches no profile" });
    log(7, "robot.approved", { by: "admin", profile: "lekiwi" });
    f.apply(live("factsheet", 8, { profile: "unknown" }));
    log(9, "robot.rejected", { by: "admin" });
    log(8, "robot.approved", { by: "late" });
    expect(seen).toEqual([
      ["quarantined", "unknown", "its hardware matches no profile", undefined],
      ["online", "lekiwi", undefined, "admin"],
      ["rejected", "lekiwi", "rejected by admin", undefined],
      ["rejected", "lekiwi", "rejected by admin", undefined],
    ]);
  });

  it("the certificate is the one that was given last, until it is taken back", () => {
    const f = fleet(view("kiwi-01"));
    const seen: unknown[] = [];
    const log = (sequence: number, type: string, data: unknown): void => {
      f.apply(live(type, sequence, { type, data }, { sequence }));
      seen.push(f.get("kiwi-01")?.view.certificate?.serial);
    };
    log(6, "robot.registered", { certificate_serial: "a1", not_after: at(90) });
    log(8, "robot.renewed", { old_serial: "a1", certificate_serial: "b2", not_after: at(99) });
    log(7, "robot.renewed", { old_serial: "a0", certificate_serial: "a1", not_after: at(90) });
    log(9, "robot.revoked", { serials: ["a1"], by: "admin" });
    log(10, "robot.revoked", { serials: ["b2", "c3"], by: "admin" });
    expect(seen).toEqual(["a1", "b2", "b2", "b2", undefined]);
  });

  it("telemetry older than the snapshot does not go back in time", () => {
    const f = fleet(view("kiwi-01"));
    f.apply(live("telemetry", -3, { metrics: { cpu_percent: 99, disk_percent: 7 } }));
    expect(f.get("kiwi-01")?.view.resources).toEqual({ cpu_percent: 10, memory_percent: 40, disk_percent: 7 });
    expect(f.get("kiwi-01")?.view.status.last_seen).toBe(at(0));
  });

  it("presence follows births, deaths and silence", () => {
    const f = fleet(view("kiwi-01"));
    const seen: string[] = [];
    for (const message of [
      live("robot.stale", 76, { type: "robot.stale" }, { sequence: 6 }),
      live("heartbeat", 80, { uptime_s: 12 }),
      live("connection", 90, { state: "CONNECTION_BROKEN" }),
      live("connection", 85, { state: "ONLINE" }),
      live("heartbeat", 91, { uptime_s: 13 }),
      live("connection", 95, { state: "ONLINE" }),
      live("connection", 99, { state: "OFFLINE" }),
      live("robot.connected", 95, { type: "robot.connected" }, { sequence: 7 }),
    ]) {
      f.apply(message);
      seen.push(status(f));
    }
    expect(seen).toEqual(["stale", "online", "offline", "offline", "offline", "online", "offline", "offline"]);
  });

  it("an event that the snapshot includes changes nothing", () => {
    const f = fleet(view("kiwi-01"));
    f.apply(live("robot.disconnected", 9, { type: "robot.disconnected" }, { sequence: 5 }));
    expect(status(f)).toBe("online");
    f.apply(live("robot.disconnected", 9, { type: "robot.disconnected" }, { sequence: 6 }));
    expect(status(f)).toBe("offline");
  });

  it("an event that an urgent one overtook counts, and one that a newer of its kind overtook does not", () => {
    const f = fleet(view("kiwi-01"));
    f.apply(live("teleoperation.started", 9, { type: "teleoperation.started" }, { sequence: 8 }));
    f.apply(live("robot.rejected", 9, { type: "robot.rejected", data: { by: "ana" } }, { sequence: 7 }));
    f.apply(live("robot.approved", 8, { type: "robot.approved", data: { by: "ben" } }, { sequence: 6 }));
    expect(f.get("kiwi-01")?.view.registration?.status).toBe("rejected");
  });

  it("state and factsheet fill the view; odd payloads change nothing", () => {
    const f = fleet(view("kiwi-01"));
    f.apply(live("state", 1, { activity: "deploying", resources: { disk_percent: 3, bad: "x" }, network: { hostname: "k" } }));
    f.apply(live("factsheet", 2, { profile: "xle" }));
    for (const payload of [null, 7, "x", [], { metrics: [] }, { metrics: { cpu_percent: "9" } }]) f.apply(live("telemetry", 3, payload));
    f.apply(live("connection", 4, { state: "EXPLODED" }));
    f.apply(live("something.new", 4, {}, { sequence: 9 }));
    const after = f.get("kiwi-01")?.view;
    expect([after?.activity, after?.type, after?.network?.hostname]).toEqual(["deploying", "xle", "k"]);
    expect(after?.resources).toEqual({ disk_percent: 3 });
    expect(status(f)).toBe("online");
  });

  it("services, battery and complaints are what the last state says", () => {
    const f = fleet(view("kiwi-01"));
    const services = [
      { name: "host.service", kind: "unit", state: "restarting", restarts: 2 },
      { name: "port", kind: "check", state: "inactive", restarts: 0 },
    ];
    const flags = { under_voltage: { now: false, since_boot: true }, throttled: { now: true, since_boot: true }, frequency_capped: { now: false, since_boot: false } };
    f.apply(live("state", 1, { services, battery: "not_charging", throttling: flags, resources: { battery_percent: 80.6 } }));
    const said = f.get("kiwi-01")?.view ?? view("none");
    expect(said.services?.map(serviceWord)).toEqual(["restarting", "silent"]);
    expect([battery(said), complaints(said)]).toEqual(["81 %, not charging", "under voltage (earlier), throttled"]);
    f.apply(live("state", 2, { throttling: {}, resources: {} }));
    const after = f.get("kiwi-01")?.view ?? view("none");
    expect([after.services, after.battery, complaints(after)]).toEqual([undefined, undefined, "no complaints"]);
    expect([battery(view("none")), complaints(view("none"))]).toEqual(["", ""]);
  });

  it("a robot that never spoke is never seen, and counts as offline", () => {
    const never = view("kiwi-01", { status: { online: false, stale: false, connection: "OFFLINE" }, resources: {} });
    const f = fleet(never, view("kiwi-02"));
    expect(status(f)).toBe("never");
    expect(f.totals()).toEqual({ all: 2, online: 1, stale: 0, offline: 1 });
  });
});

describe("the past", () => {
  it("shows what was measured then, and the picture's values of what was not", () => {
    const f = fleet(view("kiwi-01"));
    f.measured("kiwi-01", new Map([["cpu_percent", 55], ["disk_percent", undefined]]));
    f.measured("kiwi-02", new Map([["cpu_percent", 55]]));
    expect(f.get("kiwi-01")?.view.resources).toEqual({ cpu_percent: 55, memory_percent: 40 });
    expect(f.get("kiwi-02")).toBeUndefined();
  });
});

describe("sparklines", () => {
  it("are bounded, keep order, and take history before what came live", () => {
    const f = fleet(view("kiwi-01"));
    for (let i = 1; i < 1_000; i += 1) f.apply(live("telemetry", i * 0.2, { metrics: { cpu_percent: i } }));
    expect(f.spark("kiwi-01", "cpu_percent").length).toBe(SPARK_POINTS);
    const g = fleet(view("kiwi-01"));
    const zero = Date.parse(at(0));
    g.fill("kiwi-01", "cpu_percent", [[zero - 2_000, 1], [zero - 1_000, 2], [zero, 3]]);
    expect(g.spark("kiwi-01", "cpu_percent")).toEqual([[zero - 2_000, 1], [zero - 1_000, 2], [zero, 10]]);
  });

  it("forget what is older than five minutes, but for the value that still holds", () => {
    const f = fleet(view("kiwi-01"));
    f.apply(live("telemetry", 200, { metrics: { cpu_percent: 20 } }));
    f.apply(live("telemetry", 700, { metrics: { cpu_percent: 30 } }));
    expect(f.spark("kiwi-01", "cpu_percent").map(([, v]) => v)).toEqual([20, 30]);
  });
});

describe("snapshot and stream", () => {
  it("messages wait for the snapshot and are applied after it", () => {
    const f = new Fleet();
    const unknown: string[] = [];
    const sync = new Sync(f, (id) => unknown.push(id));
    sync.gap();
    sync.message(live("telemetry", 2, { metrics: { cpu_percent: 77 } }));
    sync.message(live("heartbeat", 2, {}, { robot_id: "kiwi-09" }));
    expect(f.all()).toEqual([]);
    expect(sync.snapshot(list([view("kiwi-01")]))).toBe(true);
    expect(f.get("kiwi-01")?.view.resources["cpu_percent"]).toBe(77);
    expect(unknown).toEqual(["kiwi-09"]);
  });

  it("a gap drops what waited, and too much waiting asks for another snapshot", () => {
    const f = new Fleet();
    const sync = new Sync(f, () => undefined);
    sync.gap();
    sync.message(live("telemetry", 2, { metrics: { cpu_percent: 77 } }));
    sync.gap();
    sync.snapshot(list([view("kiwi-01")]));
    expect(f.get("kiwi-01")?.view.resources["cpu_percent"]).toBe(10);
    sync.gap();
    for (let i = 0; i <= 20_000; i += 1) sync.message(live("heartbeat", 1, {}));
    expect(sync.snapshot(list([view("kiwi-01")]))).toBe(false);
    expect(sync.snapshot(list([view("kiwi-01")]))).toBe(true);
  });
});
