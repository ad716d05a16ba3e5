import { describe, expect, it } from "vitest";
import { series } from "../src/api";
import { words } from "../src/alert-history";
import { remark, title } from "../src/alerts";
import type { Alert, AlertEntry, RobotView } from "../src/api";
import * as format from "../src/format";
import { local, words as lookBackWords } from "../src/lookback";
import { href, place } from "../src/place";
import { may } from "../src/rights";
import type { Place } from "../src/place";
import { band, line, pointAt, range, sparkRange } from "../src/plot";
import { select } from "../src/selection";
import type { Selection } from "../src/selection";

describe("figures", () => {
  it.each([
    ["cpu_percent", 12.34, "12.3 %"],
    ["temperature_c", 48, "48.0 °C"],
    ["net_rx_bytes_per_s", 1_234_000, "1.2 MB/s"],
    ["uptime_s", 266_400, "3 d 2 h"],
    ["cpu_percent", undefined, "–"],
    ["cpu_percent", NaN, "–"],
    ["wheel_count", 3, "3"],
    ["cpu_percent.0", 12.34, "12.3 %"],
    ["net_rx_bytes_per_s.eth0.100", 1_234_000, "1.2 MB/s"],
    ["wifi_signal_dbm.wlan0", -56, "-56 dBm"],
    ["battery_v", 11.87, "11.9 V"],
  ])("%s %s is %s", (name, value, text) => {
    expect(format.metric(name, value)).toBe(text);
  });

  it.each([
    ["2026-11-21T04:00:00.000Z", "3 s ago", 3_200],
    ["2026-11-21T04:00:00.000Z", "now", 10],
    ["2026-11-21T04:00:00.000Z", "now", -5_000],
    ["2026-11-21T04:00:00.000Z", "5 h 1 min ago", 18_060_000],
    [undefined, "never", 0],
    ["nonsense", "never", 0],
  ])("%s is %s", (at, text, ms) => {
    expect(format.ago(at, Date.UTC(2026, 10, 21, 4) + ms)).toBe(text);
  });
});

describe("who is logged in", () => {
  it("may what one of their rights allows, on the robots that it is for", () => {
    const rights = (...on: string[]) => ({ name: "ada", rights: on.map((on) => ({ permissions: ["read", "enrol"], on })) });
    expect(may(rights("fleet"), "enrol", "kiwi-01")).toBe(true);
    expect(may(rights("robot:kiwi-02", "robot:kiwi-01"), "enrol", "kiwi-01")).toBe(true);
    expect(may(rights("robot:kiwi-02"), "enrol", "kiwi-01")).toBe(false);
    expect(may(rights("group:warehouse"), "enrol", "kiwi-01")).toBe(true);
    expect(may(rights("fleet"), "manage", "kiwi-01")).toBe(false);
    expect(may(undefined, "read", "kiwi-01")).toBe(false);
  });
});

describe("alerts", () => {
  const alert: Alert = { id: "hot:kiwi-01:1", rule: "hot", robot_id: "kiwi-01", severity: "critical", summary: "Too hot", reason: "", since: "2026-11-21T04:00:00.000Z" };

  it("are counted", () => {
    expect([title(0), title(1), title(12)]).toEqual(["Nothing fires", "1 alert", "12 alerts"]);
  });

  it("say who looks after them", () => {
    const remarks = [
      alert,
      { ...alert, silenced_by: "7" },
      { ...alert, acknowledged: { by: "admin" }, silenced_by: "7" },
      { ...alert, acknowledged: { by: "admin", comment: "on my way" } },
    ].map(remark);
    expect(remarks).toEqual(["", "silenced", "admin looks after it", "admin: on my way"]);
  });
});

describe("the past of alerts", () => {
  const entry = (type: string, more: Partial<AlertEntry>): AlertEntry => ({ position: 1, at: "2026-11-21T04:00:00.000Z", type, ...more });
  const id = "hot:kiwi-01:1";
  const until = "2026-11-21T06:00:00.000Z";

  it.each([
    [entry("alert.firing", { alert: id, reason: "90 is above 80", summary: "Too hot" }), ["fires", id, "90 is above 80"]],
    [entry("alert.acknowledged", { alert: id, by: "ana", comment: "on my way" }), ["is looked after", id, "ana: on my way"]],
    [entry("alert.acknowledged", { alert: id, by: "ana" }), ["is looked after", id, "ana"]],
    [entry("alert.resolved", { alert: id }), ["is over", id, ""]],
    [entry("alert.notified", { receiver: "ops", firing: [id] }), ["told", id, "ops"]],
    [entry("alert.notified", { receiver: "ops", resolved: [id] }), ["told", id, "ops: that it is over"]],
    [entry("alert.undelivered", { receiver: "ops", firing: [id], resolved: ["hot:kiwi-02:1"], omitted: 3, reason: "got 410" }), ["not told", "5 alerts", "ops: got 410"]],
    [
      entry("alert.silenced", { by: "ana", silence: { matchers: { robots: ["kiwi-*", "xle-1"], severity: "warning" }, until, comment: "new wheels" } }),
      ["silenced", "robots kiwi-*, xle-1; warning and below", `ana, until ${format.moment(until)}: new wheels`],
    ],
    [entry("alert.unsilenced", { by: "ana" }), ["silence ended", "", "ana"]],
    [entry("alert.something_new", {}), ["alert.something_new", "", ""]],
  ])("says what happened", (said, expected) => {
    expect(words(said)).toEqual(expected);
  });
});

describe("places", () => {
  const at = Date.UTC(2026, 10, 21, 4);
  it.each([
    ["", { page: "fleet" }],
    ["#/", { page: "fleet" }],
    ["#/nonsense", { page: "fleet" }],
    ["#/alerts", { page: "alerts" }],
    ["#/robots/kiwi-01", { page: "robot", robot: "kiwi-01" }],
    ["#/robots/%ff", { page: "robot", robot: "%ff" }],
    ["#/?at=2026-11-21T04:00:00.000Z", { page: "fleet", at }],
    ["#/robots/kiwi-01?at=2026-11-21T04:00:00Z", { page: "robot", robot: "kiwi-01", at }],
    ["#/alerts?at=yesterday", { page: "alerts" }],
  ] as [string, Place][])("%s", (hash, expected) => {
    expect(place(hash)).toEqual(expected);
    expect(place(href(expected))).toEqual(expected);
  });
});

describe("looking back", () => {
  const at = Date.UTC(2026, 10, 21, 4);
  const then = format.moment(at);
  it("says which time it is, or why it is not shown", () => {
    expect([
      lookBackWords({ at, position: undefined, trouble: "" }),
      lookBackWords({ at, position: 7, trouble: "" }),
      lookBackWords({ at, position: undefined, trouble: "expected a moment from position 9 of the log on" }),
    ]).toEqual([
      `Asking the relay how it was at ${then}…`,
      `This is the past: as of ${then}.`,
      `The relay cannot show ${then}: expected a moment from position 9 of the log on.`,
    ]);
  });
  it("has the time as inputs have it", () => {
    expect(new Date(local(at)).getTime()).toBe(at);
  });
});

describe("selection", () => {
  const robot = (id: string, cpu: number | undefined, online = true, ip = "10.0.0.1") => ({
    version: 1,
    view: {
      id,
      type: id.startsWith("xle") ? "xle" : "lekiwi",
      status: { online, stale: false, connection: "ONLINE", last_seen: "2026-11-21T04:00:00.000Z" },
      resources: cpu === undefined ? {} : { cpu_percent: cpu },
      network: { hostname: id, ip_addresses: [ip] },
    } as RobotView,
  });
  const robots = [robot("kiwi-10", 5), robot("kiwi-2", undefined), robot("xle-1", 50, false, "10.0.9.9")];
  const chosen = (change: Partial<Selection>): string[] =>
    select(robots, { text: "", status: "all", sort: "id", descending: false, ...change }).map((r) => r.view.id);

  it("sorts by number, either way, with missing values last", () => {
    expect(chosen({})).toEqual(["kiwi-2", "kiwi-10", "xle-1"]);
    expect(chosen({ descending: true })).toEqual(["xle-1", "kiwi-10", "kiwi-2"]);
    expect(chosen({ sort: "cpu_percent" })).toEqual(["kiwi-10", "xle-1", "kiwi-2"]);
    expect(chosen({ sort: "cpu_percent", descending: true })).toEqual(["xle-1", "kiwi-10", "kiwi-2"]);
  });

  it("filters by all words and by status", () => {
    expect(chosen({ text: "KIWI" })).toEqual(["kiwi-2", "kiwi-10"]);
    expect(chosen({ text: "xle 10.0.9" })).toEqual(["xle-1"]);
    expect(chosen({ text: "kiwi 10.0.9" })).toEqual([]);
    expect(chosen({ status: "offline" })).toEqual(["xle-1"]);
  });
});

describe("plots", () => {
  const scale = { fromMs: 0, toMs: 100, low: 0, high: 10, width: 100, height: 10 };
  it("draws steps, and holds the last value", () => {
    expect(line([[10, 5], [30, 8]], scale, 50)).toBe("M10 5H30V2H50");
    expect(line([[-10, 5]], scale, 500)).toBe("M0 5H100");
    expect(line([], scale, 50)).toBe("");
  });
  it("draws what lies between the extremes of each time", () => {
    const history = {
      step_ms: 20,
      series: [
        { metric: "cpu_percent", points: [[-10, 5], [50, 6], [90, 1]] as [number, number][], ranges: [[4, 6], [2, 9], [1, 1]] as [number, number][] },
        { metric: "load_1m", points: [[10, 5]] as [number, number][] },
      ],
    };
    const all = series(history);
    expect(band(all.get("cpu_percent")?.spans ?? [], scale)).toBe("M0 4H10V6H0ZM50 1H70V8H50ZM90 9H100V9H90Z");
    expect(band([[-30, -10, 1, 2]], scale)).toBe("");
    expect(all.get("load_1m")).toEqual({ points: [[10, 5]], spans: [] });
  });
  it("finds the value at a time", () => {
    const points = [[10, 5], [30, 8]] as const;
    expect([5, 10, 29, 30, 99].map((at) => pointAt(points, at)?.[1])).toEqual([undefined, 5, 5, 8, 8]);
  });
  it("fits ranges", () => {
    expect(range("cpu_percent", [[0, 3]])).toEqual({ low: 0, high: 100, step: 25 });
    expect(range("temperature_c", [[0, 58], [1, 61]])).toEqual({ low: 20, high: 80, step: 20 });
    expect(range("net_rx_bytes_per_s", [])).toEqual({ low: 0, high: 1, step: 0.5 });
    expect(sparkRange([[0, 40], [1, 42]])).toEqual({ low: 36, high: 46 });
    expect(sparkRange([])).toEqual({ low: 0, high: 10 });
  });
});
