/** One robot: what it is, how it is, its metrics over time and its events as they come. */

import { AlertHistory } from "./alert-history";
import * as api from "./api";
import { Chart } from "./chart";
import type { Context, View } from "./context";
import { h, setAttribute, setText } from "./dom";
import { showHealth } from "./fleet";
import * as format from "./format";
import { battery, complaints, condition, configuration, serviceWord, standing } from "./model";
import type { RobotView as Robot } from "./api";

const RANGES: readonly [label: string, ms: number][] = [
  ["15 min", 15 * 60_000],
  ["1 h", 3_600_000],
  ["6 h", 6 * 3_600_000],
  ["24 h", 24 * 3_600_000],
  ["7 d", 7 * 24 * 3_600_000],
  ["90 d", 90 * 24 * 3_600_000],
];
const METRICS = ["cpu_percent", "memory_percent", "disk_percent", "temperature_c", "net_rx_bytes_per_s", "net_tx_bytes_per_s"];
/** More than a chart has pixels. */
const MOST_POINTS = 1_000;
const MOST_EVENTS = 200;

export class RobotPage implements View {
  readonly title: string;
  readonly element: HTMLElement;
  private readonly badge = h("span", { class: "badge" });
  private readonly health = h("span", { class: "health" });
  private readonly seen = h("span", { class: "soft" });
  private readonly asOf = h("p", { class: "soft", hidden: true });
  private readonly alerts: AlertHistory;
  private readonly facts = h("dl", { class: "facts" });
  private readonly sheet = h("dl", { class: "facts" });
  private readonly services = h("ul", { class: "services", "aria-label": "Services" });
  private readonly servicesCard = h("section", { class: "card", hidden: true }, h("h2", {}, "Services"), this.services);
  private readonly events = h("ol", { class: "events", "aria-label": "Events, newest first" });
  private readonly trouble = h("p", { class: "trouble", role: "alert", hidden: true });
  private readonly charts = METRICS.map((metric) => ({ chart: new Chart(metric), points: [] as api.Point[], spans: [] as api.Span[] }));
  private readonly ranges: HTMLButtonElement[];
  private range = RANGES[0]?.[1] ?? 900_000;
  private abort = new AbortController();
  private log: api.EventRecord[] = [];
  private readonly reason = h("p", { class: "reason" });
  private readonly profile = h("input", { type: "text", name: "profile", "aria-label": "Profile to take it as", autocomplete: "off", spellcheck: "false" });
  private readonly approve = h("button", { type: "submit", class: "quiet", "data-action": "approve" }, "Approve");
  private readonly reject = h("button", { type: "button", class: "quiet", "data-action": "reject" }, "Reject");
  private readonly decision = h("span", { class: "decision" }, h("label", {}, "as profile ", this.profile), this.approve, this.reject);
  private readonly quarantine = h("form", { class: "card quarantine", "aria-label": "Registration", hidden: true }, this.reason, this.decision);
  private version = -1;

  constructor(
    private readonly context: Context,
    private readonly id: string,
  ) {
    this.title = id;
    this.alerts = new AlertHistory(context, id);
    this.quarantine.addEventListener("submit", (event) => {
      event.preventDefault();
      this.decide(api.approve(id, this.profile.value.trim() || undefined));
    });
    this.reject.addEventListener("click", () => {
      if (confirm(`Reject ${id}? Its certificate is revoked, and it comes back only by a token of its own.`)) this.decide(api.reject(id));
    });
    this.ranges = RANGES.map(([label, ms]) => {
      const button = h("button", { type: "button", "aria-pressed": ms === this.range }, label);
      button.setAttribute("aria-pressed", String(ms === this.range));
      button.addEventListener("click", () => {
        this.range = ms;
        this.ranges.forEach((other) => setAttribute(other, "aria-pressed", String(other === button)));
        this.refetch();
      });
      return button;
    });
    this.element = h(
      "article",
      { class: "robot", "data-robot": id },
      h("p", { class: "back" }, h("a", { href: context.href({ page: "fleet" }) }, "← Fleet")),
      h("header", { class: "robot-head" }, h("h1", {}, id), this.badge, this.health, this.seen),
      this.asOf,
      this.trouble,
      this.quarantine,
      h(
        "div",
        { class: "columns" },
        h("section", { class: "card" }, h("h2", {}, "State"), this.facts),
        h("section", { class: "card" }, h("h2", {}, "Factsheet"), this.sheet),
        this.servicesCard,
      ),
      h("div", { class: "section-head" }, h("h2", {}, "Metrics"), h("div", { class: "segments", role: "group", "aria-label": "Range" }, ...this.ranges)),
      h("div", { class: "charts" }, ...this.charts.map(({ chart }) => chart.element)),
      h("div", { class: "section-head" }, h("h2", {}, "Alerts")),
      this.alerts.element,
      h("div", { class: "section-head" }, h("h2", {}, "Events")),
      h("section", { class: "card" }, this.events),
    );
    this.refetch();
  }

  refetch(): void {
    this.abort.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    void this.alerts.newest();
    void this.load(signal).catch((cause: unknown) => {
      if (signal.aborted) return;
      setText(this.trouble, cause instanceof Error ? cause.message : String(cause));
      this.trouble.hidden = false;
    });
  }

  welcome(): void {
    this.version = -1;
  }

  close(): void {
    this.abort.abort();
    this.alerts.close();
  }

  message(live: api.Live): void {
    if (live.robot_id !== this.id) return;
    if (live.type.startsWith("alert.")) this.alerts.refresh();
    else if (live.type.includes(".")) this.take(live.payload as api.EventRecord);
    if (live.type !== "telemetry") return;
    const metrics = (live.payload as { metrics?: api.Metrics } | null)?.metrics ?? {};
    const at = Date.parse(live.timestamp);
    for (const { chart, points } of this.charts) {
      const value = metrics[chart.metric];
      if (typeof value !== "number" || (points.at(-1)?.[0] ?? -Infinity) >= at) continue;
      points.push([at, value]);
      while ((points[1]?.[0] ?? at) < at - this.range) points.shift();
    }
  }

  draw(): void {
    const now = this.context.now();
    const robot = this.context.fleet.get(this.id);
    for (const { chart, points, spans } of this.charts) {
      const seen = robot?.view.status.last_seen;
      // A value holds only as long as the robot is heard.
      const heard = robot?.view.status.online ? now : seen === undefined ? 0 : Date.parse(seen);
      chart.draw({ points, spans }, now - this.range, now, heard);
    }
    const isPast = this.context.position !== undefined;
    if (robot === undefined) {
      if (isPast) {
        setText(this.asOf, "The relay did not know this robot then.");
        this.asOf.hidden = false;
      }
      return;
    }
    const { view } = robot;
    const state = standing(view);
    setAttribute(this.element, "data-status", state);
    setAttribute(this.badge, "data-status", state);
    setText(this.badge, state === "never" ? "never seen" : state);
    setText(this.seen, view.status.last_seen === undefined ? "" : `last seen ${format.ago(view.status.last_seen, now)}`);
    if (robot.version === this.version) return;
    this.version = robot.version;
    showHealth(this.health, view);
    if (isPast) {
      const at = view.as_of?.picture_at;
      setText(this.asOf, at === undefined ? "Of that time the relay has what is in its log, and no picture of the rest." : `What is not in the log is as of ${format.moment(at)}.`);
      this.asOf.hidden = false;
    }
    this.quarantine.hidden = isPast || view.registration?.status !== "quarantined";
    this.decision.hidden = !this.context.may("enrol", this.id);
    setText(this.reason, `Nobody hears it: ${view.registration?.reason ?? ""}.`);
    setAttribute(this.profile, "placeholder", view.registration?.profile ?? view.type);
    list(this.facts, stateFacts(view));
    list(this.sheet, sheetFacts(view));
    const services = view.services ?? [];
    this.servicesCard.hidden = services.length === 0;
    this.services.replaceChildren(...services.map(serviceItem));
  }

  private decide(decision: Promise<Robot>): void {
    this.approve.disabled = this.reject.disabled = true;
    decision
      .then((view) => {
        this.context.fleet.put(view);
        this.trouble.hidden = true;
        this.context.schedule();
      })
      .catch((cause: unknown) => {
        setText(this.trouble, cause instanceof Error ? cause.message : String(cause));
        this.trouble.hidden = false;
      })
      .finally(() => {
        this.approve.disabled = this.reject.disabled = false;
      });
  }

  private async load(signal: AbortSignal): Promise<void> {
    const { position } = this.context;
    const now = this.context.now();
    const telemetry = api.telemetry(this.id, METRICS, now - this.range, position === undefined ? undefined : now, MOST_POINTS, signal).then((loaded) => {
      for (const { chart, points, spans } of this.charts) {
        const history = loaded.get(chart.metric);
        const last = history?.points.at(-1)?.[0] ?? -Infinity;
        points.splice(0, points.length, ...(history?.points ?? []), ...points.filter(([at]) => at > last));
        spans.splice(0, spans.length, ...(history?.spans ?? []));
      }
      this.context.schedule();
    });
    const events = api.events(this.id, MOST_EVENTS, position, signal).then((page) => this.merge(page));
    await Promise.all([telemetry, events]);
    this.trouble.hidden = true;
  }

  /** Mostly the newest; one that an urgent event overtook goes to its place. */
  private take(event: api.EventRecord): void {
    const after = this.log.findLastIndex((known) => known.position <= event.position);
    if (this.log[after]?.position === event.position) return;
    this.log.splice(after + 1, 0, event);
    const newer = this.log.length - 2 - after;
    this.events.insertBefore(eventItem(event), this.events.children[newer] ?? null);
    while (this.log.length > MOST_EVENTS) {
      this.log.shift();
      this.events.lastElementChild?.remove();
    }
  }

  /** A page of the log joins what has come live meanwhile. */
  private merge(page: readonly api.EventRecord[]): void {
    const newest = page.at(-1)?.position ?? 0;
    this.log = [...page, ...this.log.filter((event) => event.position > newest)].slice(-MOST_EVENTS);
    this.events.replaceChildren(...this.log.toReversed().map(eventItem));
  }
}

function eventItem(event: api.EventRecord): HTMLElement {
  const data = event.data === undefined || event.data === null || JSON.stringify(event.data) === "{}" ? "" : JSON.stringify(event.data);
  return h(
    "li",
    { "data-event": event.type },
    h("time", { datetime: event.timestamp, class: "mono soft" }, format.moment(event.timestamp)),
    h("span", { class: "event-type", "data-family": event.type.split(".")[0] }, event.type),
    h("span", { class: "mono soft event-data" }, data),
  );
}

function serviceItem(service: api.Service): HTMLElement {
  const level = service.state === "active" ? "good" : service.state === "inactive" ? "bad" : "busy";
  const more = [
    service.flapping ? "flapping" : "",
    service.restarts ? `${service.restarts} ${service.restarts === 1 ? "restart" : "restarts"}` : "",
    service.memory_bytes === undefined ? "" : format.bytes(service.memory_bytes),
  ];
  return h(
    "li",
    { "data-service": service.name },
    h("span", { class: "health", "data-health": service.flapping ? "busy" : level }, serviceWord(service)),
    h("span", { class: "service-name" }, service.name),
    h("span", { class: "soft" }, more.filter(Boolean).join(", ")),
  );
}

type Fact = readonly [name: string, value: string];

function list(target: HTMLElement, facts: readonly Fact[]): void {
  target.replaceChildren(...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value || "–")]));
}

function stateFacts(view: Robot): Fact[] {
  const { status, network, deployment, teleoperation } = view;
  return [
    ["Connection", status.connection.toLowerCase().replace("_", " ")],
    ["Activity", view.activity ?? ""],
    ["Health", condition(view)?.word ?? ""],
    ...(view.health?.failing ?? []).map(({ name, reason }): Fact => [name, reason]),
    ["Operating mode", view.operating_mode?.toLowerCase() ?? ""],
    ["Driven by", teleoperation?.active ? (teleoperation.operator_id ?? "somebody") : "nobody"],
    ["Battery", battery(view)],
    ["Board", complaints(view)],
    ["Up for", status.uptime_s === undefined ? "" : format.duration(status.uptime_s)],
    ["Host name", network?.hostname ?? ""],
    ["Addresses", network?.ip_addresses?.join(", ") ?? ""],
    ["MAC address", network?.mac_address ?? ""],
    ["System", deployment?.os_version ?? ""],
    ["Packages", deployment?.installed_packages ? `${deployment.installed_packages.count} (${deployment.installed_packages.digest.slice(0, 19)}…)` : ""],
    ["Clock", view.clock === undefined ? "" : view.clock.synchronized ? "set from the network" : "not set from the network"],
    ["Configuration", configuration(view)],
    ["Registration", view.registration?.reason ?? (view.registration?.approved_by ? `approved by ${view.registration.approved_by}` : "")],
    ["Registered", status.registered_at === undefined ? "" : format.moment(status.registered_at)],
    ["Certificate", view.certificate === undefined ? "" : `until ${format.moment(view.certificate.not_after)}`],
  ];
}

function sheetFacts(view: Robot): Fact[] {
  const { factsheet } = view;
  const hardware = factsheet?.hardware;
  return [
    ["Type", view.type],
    ["Model", hardware?.model ?? ""],
    ["Serial number", hardware?.serial ?? ""],
    ["Revision", hardware?.revision ?? ""],
    ["Architecture", hardware?.architecture ?? ""],
    ["Cores", hardware?.cores ? String(hardware.cores) : ""],
    ["Memory", hardware?.memory_bytes ? format.bytes(hardware.memory_bytes) : ""],
    ["Agent", factsheet ? `${factsheet.agent_version} (${factsheet.agent_target})` : (view.deployment?.agent_version ?? "")],
    ["Capabilities", factsheet?.capabilities?.join(", ") ?? ""],
    ["UUID", factsheet?.uuid ?? ""],
  ];
}
