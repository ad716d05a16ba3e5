/** What fires, above the fleet and on the page of alerts. Asked for again whenever an event says that it changed. */

import * as api from "./api";
import type { Alert, AlertList } from "./api";
import type { Context } from "./context";
import { h, setAttribute, setText } from "./dom";
import * as format from "./format";

/** Alerts that are listed; the title has the number of all. */
const SHOWN = 20;
/** Changes that come together are asked for once. */
const PAUSE_MS = 500;

/** How many fire, in words. */
export function title(firing: number): string {
  if (firing === 0) return "Nothing fires";
  return firing === 1 ? "1 alert" : `${firing} alerts`;
}

/** Who looks after an alert, or what keeps it quiet; nothing while nobody does. */
export function remark(alert: Alert): string {
  const by = alert.acknowledged;
  if (by !== undefined) return by.comment ? `${by.by}: ${by.comment}` : `${by.by} looks after it`;
  return alert.silenced_by === undefined ? "" : "silenced";
}

export class AlertsPanel {
  private readonly title = h("h2", {});
  private readonly list = h("ul", {});
  private readonly error = h("p", { class: "soft", role: "status" });
  readonly element = h("section", { class: "alerts", "aria-label": "Alerts", hidden: true }, this.title, this.list, this.error);
  private known: AlertList = { alerts: [], firing: 0, now: "" };
  private times: { element: HTMLElement; since: string }[] = [];
  private timer: number | undefined;
  private closed = false;

  constructor(
    private readonly context: Context,
    /** Whether it is there while nothing fires. */
    private readonly always = false,
  ) {}

  /** Something changed, or may have. */
  refresh(): void {
    this.timer ??= window.setTimeout(() => {
      this.timer = undefined;
      void this.ask();
    }, PAUSE_MS);
  }

  /** Who is logged in may do something else. */
  welcome(): void {
    this.list.replaceChildren(...this.known.alerts.map((alert) => this.row(alert)));
  }

  close(): void {
    this.closed = true;
    window.clearTimeout(this.timer);
  }

  draw(): void {
    for (const { element, since } of this.times) setText(element, format.ago(since, this.context.now()));
  }

  private async ask(): Promise<void> {
    try {
      this.known = await api.alerts(SHOWN);
      setText(this.error, "");
    } catch (error) {
      setText(this.error, error instanceof Error ? error.message : String(error));
    }
    if (this.closed) return;
    this.element.hidden = this.known.firing === 0 && !this.always;
    setText(this.title, title(this.known.firing));
    this.times = [];
    this.list.replaceChildren(...this.known.alerts.map((alert) => this.row(alert)));
    this.draw();
  }

  private row(alert: Alert): HTMLElement {
    const since = h("span", { class: "soft", title: format.moment(alert.since) });
    this.times.push({ element: since, since: alert.since });
    const robot = h("a", { class: "name", href: `#/robots/${encodeURIComponent(alert.robot_id)}` }, alert.robot_id);
    const row = h("li", { "data-alert": alert.id, "data-severity": alert.severity }, h("span", { class: "badge" }, alert.severity), robot, h("span", { title: alert.reason }, alert.summary), since);
    const said = remark(alert);
    if (said !== "") row.append(h("span", { class: "soft" }, said));
    if (alert.acknowledged === undefined && this.context.may("acknowledge", alert.robot_id)) row.append(this.button(alert));
    return row;
  }

  private button(alert: Alert): HTMLElement {
    const button = h("button", { type: "button", class: "quiet" }, "I look after it");
    setAttribute(button, "aria-label", `I look after ${alert.id}`);
    button.addEventListener("click", () => {
      button.disabled = true;
      api
        .acknowledge(alert.id)
        .then(() => this.refresh())
        .catch((error: unknown) => {
          button.disabled = false;
          setText(this.error, error instanceof Error ? error.message : String(error));
        });
    });
    return button;
  }
}
