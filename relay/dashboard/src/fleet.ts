/**
 * The fleet: totals, filter, and a table that has rows only for what is on the screen, so that it stays
 * smooth with thousands of robots.
 */

import { AlertsPanel } from "./alerts";
import type { Context, View } from "./context";
import { h, setAttribute, setText } from "./dom";
import * as format from "./format";
import { CORE_METRICS, condition, standing } from "./model";
import type { Live, RobotView } from "./api";
import type { Robot, Standing } from "./model";
import { select } from "./selection";
import type { Selection, SortKey } from "./selection";
import { Spark } from "./spark";

/** Must equal `--row` in `style.css`. */
const ROW_PX = { wide: 46, narrow: 152 };
const NARROW = "(max-width: 760px)";
const OVERSCAN = 6;

const COLUMNS: readonly { key: SortKey | undefined; title: string; class: string }[] = [
  { key: "status", title: "Status", class: "c-status" },
  { key: "id", title: "Robot", class: "c-id" },
  { key: "cpu_percent", title: "CPU", class: "c-metric" },
  { key: "memory_percent", title: "Memory", class: "c-metric" },
  { key: "disk_percent", title: "Disk", class: "c-metric" },
  { key: "temperature_c", title: "Temp.", class: "c-metric" },
  { key: undefined, title: "Address", class: "c-address" },
  { key: undefined, title: "Agent", class: "c-agent" },
  { key: "last_seen", title: "Last seen", class: "c-seen" },
];

const WORDS: Record<Standing, string> = {
  online: "online",
  stale: "stale",
  offline: "offline",
  never: "never seen",
  quarantined: "quarantined",
  rejected: "rejected",
};

class Row {
  private readonly badge = h("span", { class: "badge" });
  private readonly name = h("a", { class: "name" });
  private readonly kind = h("span", { class: "soft" });
  private readonly health = h("span", { class: "health" });
  private readonly address = h("div", { role: "cell", class: "c-address mono" });
  private readonly agent = h("div", { role: "cell", class: "c-agent mono" });
  private readonly seen = h("div", { role: "cell", class: "c-seen" });
  private readonly cells = CORE_METRICS.map((metric) => {
    const value = h("span", { class: "value", "data-metric": metric });
    const spark = new Spark();
    const element = h("div", { role: "cell", class: "c-metric", title: format.metricTitle(metric) }, value, spark.element);
    return { metric, value, spark, element };
  });
  readonly element = h(
    "div",
    { role: "row", class: "row" },
    h("div", { role: "cell", class: "c-status" }, this.badge),
    h("div", { role: "cell", class: "c-id" }, this.name, h("span", { class: "under" }, this.kind, this.health)),
    ...this.cells.map((cell) => cell.element),
    this.address,
    this.agent,
    this.seen,
  );
  private version = -1;
  private id = "";
  private sparkAt = 0;

  draw(context: Context, robot: Robot, index: number, top: number): void {
    const { view } = robot;
    const now = context.now();
    setAttribute(this.element, "aria-rowindex", String(index + 2));
    this.element.style.transform = `translateY(${top}px)`;
    setText(this.seen, format.ago(view.status.last_seen, now));
    // Lines move left as time goes, slowly enough for one redraw every two seconds.
    const moved = now - this.sparkAt > 2_000;
    if (this.id === view.id && this.version === robot.version && !moved) return;
    this.sparkAt = now;
    for (const { metric, spark } of this.cells) spark.draw(context.fleet.spark(view.id, metric), now);
    if (this.id === view.id && this.version === robot.version) return;
    this.id = view.id;
    this.version = robot.version;
    const state = standing(view);
    setAttribute(this.element, "data-robot", view.id);
    setAttribute(this.element, "data-status", state);
    setText(this.badge, WORDS[state]);
    setAttribute(this.badge, "title", view.registration?.reason ?? "");
    setText(this.name, view.id);
    setAttribute(this.name, "href", context.href({ page: "robot", robot: view.id }));
    setText(this.kind, view.teleoperation?.active ? `${view.type} · driven` : view.type);
    showHealth(this.health, view);
    for (const { metric, value } of this.cells) {
      const figure = view.resources[metric];
      setText(value, format.metric(metric, figure));
      setAttribute(value, "data-level", level(metric, figure));
    }
    const addresses = view.network?.ip_addresses ?? [];
    setText(this.address, addresses[0] ?? "–");
    setAttribute(this.address, "title", addresses.join(", "));
    setText(this.agent, view.deployment?.agent_version ?? view.factsheet?.agent_version ?? "–");
    if (view.status.last_seen !== undefined) setAttribute(this.seen, "title", format.moment(view.status.last_seen));
  }
}

/** The badge of a robot's health: hidden while it says nothing, with what fails as its title. */
export function showHealth(badge: HTMLElement, view: RobotView): void {
  const health = condition(view);
  badge.hidden = health === undefined;
  setText(badge, health?.word ?? "");
  setAttribute(badge, "data-health", health?.level ?? "");
  setAttribute(badge, "title", (view.health?.failing ?? []).map(({ name, reason }) => `${name}: ${reason}`).join("\n"));
}

/** How alarming a value is; only ever shown beside the figure itself. */
export function level(metric: string, value: number | undefined): "ok" | "high" | "critical" {
  const limits: Record<string, readonly [number, number]> = {
    cpu_percent: [80, 95],
    memory_percent: [80, 92],
    disk_percent: [80, 92],
    temperature_c: [70, 80],
  };
  const [high, critical] = limits[metric] ?? [Infinity, Infinity];
  if (value === undefined || value < high) return "ok";
  return value < critical ? "high" : "critical";
}

export class FleetView implements View {
  readonly title = "Fleet";
  readonly element: HTMLElement;
  private selection: Selection;
  private readonly rows = new Map<string, Row>();
  private readonly spare: Row[] = [];
  private readonly body = h("div", { role: "rowgroup", class: "body" });
  private readonly empty = h("p", { class: "empty", role: "status" });
  private readonly table = h("div", { role: "table", class: "table", "aria-label": "Robots" });
  private readonly totals = new Map<string, HTMLElement>();
  private robots = h("span");
  private readonly filters = new Map<Selection["status"], HTMLButtonElement>();
  private readonly heads = new Map<SortKey, HTMLElement>();
  private readonly narrow = matchMedia(NARROW);
  private readonly sort = h("select", { "aria-label": "Sort by", class: "sort" });
  private readonly onScroll = (): void => this.context.schedule();
  /** What fires is of now only. */
  private readonly alerts: AlertsPanel | undefined;
  private loaded = false;

  constructor(
    private readonly context: Context,
    selection: Selection,
    private readonly remember: (selection: Selection) => void,
  ) {
    this.selection = selection;
    this.alerts = context.position === undefined ? new AlertsPanel(context) : undefined;
    const search = h("input", { type: "search", placeholder: "Filter by name, type, address…", "aria-label": "Filter robots", value: selection.text, autocomplete: "off", spellcheck: "false" });
    search.addEventListener("input", () => this.choose({ text: search.value }));
    this.table.append(this.header(), this.body);
    this.element = h(
      "div",
      { class: "fleet" },
      h("h1", { class: "hidden" }, "Fleet"),
      h("div", { class: "tools" }, h("div", { class: "totals", role: "group", "aria-label": "Show" }, ...this.buttons()), search, this.sorting()),
      ...(this.alerts === undefined ? [] : [this.alerts.element]),
      this.table,
      this.empty,
    );
    addEventListener("scroll", this.onScroll, { passive: true });
    addEventListener("resize", this.onScroll, { passive: true });
  }

  refetch(): void {
    this.loaded = true;
    this.alerts?.refresh();
  }

  welcome(): void {
    this.alerts?.welcome();
  }

  message(live: Live): void {
    if (live.type.startsWith("alert.")) this.alerts?.refresh();
  }

  close(): void {
    this.alerts?.close();
    removeEventListener("scroll", this.onScroll);
    removeEventListener("resize", this.onScroll);
  }

  draw(): void {
    this.alerts?.draw();
    const { fleet } = this.context;
    const totals = fleet.totals();
    for (const [name, element] of this.totals) setText(element, String(totals[name as keyof typeof totals]));
    setText(this.robots, totals.all === 1 ? " robot" : " robots");
    const chosen = select(fleet.all(), this.selection);
    const height = this.narrow.matches ? ROW_PX.narrow : ROW_PX.wide;
    this.body.style.height = `${chosen.length * height}px`;
    setAttribute(this.table, "aria-rowcount", String(chosen.length + 1));
    const top = this.body.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / height) - OVERSCAN);
    const last = Math.min(chosen.length, Math.ceil((innerHeight - top) / height) + OVERSCAN);
    this.reuse(chosen.slice(first, last), first, height);
    this.empty.hidden = chosen.length > 0;
    setText(this.empty, this.emptyText(totals.all));
  }

  private emptyText(all: number): string {
    if (all > 0) return "No robot fits this filter.";
    if (this.context.position !== undefined) return "There were no robots then.";
    if (this.loaded) return "No robots yet. Make a token with “lekiwi token create” and enrol the first one.";
    return "Asking the relay…";
  }

  private reuse(shown: readonly Robot[], first: number, height: number): void {
    const wanted = new Set(shown.map((robot) => robot.view.id));
    for (const [id, row] of this.rows) {
      if (wanted.has(id)) continue;
      this.rows.delete(id);
      row.element.remove();
      this.spare.push(row);
    }
    shown.forEach((robot, offset) => {
      const { id } = robot.view;
      let row = this.rows.get(id);
      if (row === undefined) {
        row = this.spare.pop() ?? new Row();
        this.rows.set(id, row);
      }
      // Robots keep the order of the list in the document too: that is the order for keys and screen readers.
      const there = this.body.children[offset];
      if (there !== row.element) this.body.insertBefore(row.element, there ?? null);
      row.draw(this.context, robot, first + offset, (first + offset) * height);
      this.context.history.want(id);
    });
  }

  private choose(change: Partial<Selection>): void {
    this.selection = { ...this.selection, ...change };
    this.remember(this.selection);
    this.mark();
    this.context.schedule();
  }

  private buttons(): HTMLElement[] {
    const kinds: readonly [Selection["status"], string, string][] = [
      ["all", "all", "robots"],
      ["online", "online", "online"],
      ["stale", "stale", "stale"],
      ["offline", "offline", "offline"],
    ];
    return kinds.map(([status, total, word]) => {
      const figure = h("strong", { "data-total": total }, "0");
      const said = h("span", {}, ` ${word}`);
      if (total === "all") this.robots = said;
      const button = h("button", { type: "button", class: "total", "data-filter": status }, figure, said);
      button.addEventListener("click", () => this.choose({ status: this.selection.status === status ? "all" : status }));
      this.totals.set(total, figure);
      this.filters.set(status, button);
      button.setAttribute("aria-pressed", String(this.selection.status === status));
      return button;
    });
  }

  private header(): HTMLElement {
    const heads = COLUMNS.map((column) => {
      const head = h("div", { role: "columnheader", class: column.class });
      const { key } = column;
      if (key === undefined) {
        head.append(column.title);
        return head;
      }
      const button = h("button", { type: "button", class: "head" }, column.title);
      button.addEventListener("click", () => this.choose({ sort: key, descending: this.selection.sort === key && !this.selection.descending }));
      head.append(button);
      this.heads.set(key, head);
      return head;
    });
    return h("div", { role: "rowgroup", class: "headgroup" }, h("div", { role: "row", class: "row headrow", "aria-rowindex": 1 }, ...heads));
  }

  private sorting(): HTMLElement {
    for (const { key, title } of COLUMNS) {
      if (key === undefined) continue;
      this.sort.append(h("option", { value: key }, `Sort by ${title.toLowerCase()}`));
    }
    this.sort.addEventListener("change", () => this.choose({ sort: this.sort.value as SortKey, descending: false }));
    queueMicrotask(() => this.mark());
    return this.sort;
  }

  private mark(): void {
    const { sort, descending, status } = this.selection;
    this.sort.value = sort;
    for (const [key, head] of this.heads) {
      setAttribute(head, "aria-sort", key === sort ? (descending ? "descending" : "ascending") : "none");
    }
    for (const [key, button] of this.filters) setAttribute(button, "aria-pressed", String(key === status));
  }
}
