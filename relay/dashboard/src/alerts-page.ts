/** Alerts: what fires, and what became of all that did. Of the past, what had become of it by then. */

import { AlertHistory } from "./alert-history";
import { AlertsPanel } from "./alerts";
import type { Live } from "./api";
import type { Context, View } from "./context";
import { h } from "./dom";

export class AlertsPage implements View {
  readonly title = "Alerts";
  readonly element: HTMLElement;
  private readonly history: AlertHistory;
  /** What fires is of now only. */
  private readonly firing: AlertsPanel | undefined;

  constructor(context: Context) {
    this.history = new AlertHistory(context);
    this.firing = context.position === undefined ? new AlertsPanel(context, true) : undefined;
    const firing = this.firing === undefined ? [] : [this.firing.element];
    this.element = h("article", { class: "alerts-page" }, h("h1", {}, "Alerts"), ...firing, h("div", { class: "section-head" }, h("h2", {}, "History")), this.history.element);
    this.refetch();
  }

  refetch(): void {
    this.firing?.refresh();
    void this.history.newest();
  }

  welcome(): void {
    this.firing?.welcome();
  }

  message(live: Live): void {
    if (!live.type.startsWith("alert.")) return;
    this.firing?.refresh();
    this.history.refresh();
  }

  close(): void {
    this.firing?.close();
    this.history.close();
  }

  draw(): void {
    this.firing?.draw();
  }
}
