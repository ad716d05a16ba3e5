/** What became of alerts, from the log: of all, or of one robot. Newest first; earlier pages when somebody asks. */

import * as api from "./api";
import type { AlertEntry } from "./api";
import type { Context } from "./context";
import { h, setText } from "./dom";
import * as format from "./format";

const PAGE = 50;
/** Pages in which the relay found nothing that are passed over before it is asked of the person. */
const MOST_EMPTY = 5;
/** Changes that come together are asked for once. */
const PAUSE_MS = 500;

const WORDS: Record<string, string> = {
  "alert.firing": "fires",
  "alert.acknowledged": "is looked after",
  "alert.resolved": "is over",
  "alert.silenced": "silenced",
  "alert.unsilenced": "silence ended",
  "alert.notified": "told",
  "alert.undelivered": "not told",
};

function patterns(name: string, all: readonly string[] = []): string {
  return all.length === 0 ? "" : `${name} ${all.join(", ")}`;
}

/** What an entry says: what happened, to what, and by whom or why. */
export function words(entry: AlertEntry): readonly [what: string, about: string, detail: string] {
  const what = WORDS[entry.type] ?? entry.type;
  const join = (...parts: readonly (string | undefined)[]): string => parts.filter(Boolean).join(": ");
  if (entry.silence !== undefined) {
    const { rules, robots, severity } = entry.silence.matchers;
    const about = [patterns("rules", rules), patterns("robots", robots), severity === undefined ? "" : `${severity} and below`];
    return [what, about.filter(Boolean).join("; "), join(`${entry.by ?? "somebody"}, until ${format.moment(entry.silence.until)}`, entry.silence.comment)];
  }
  if (entry.receiver !== undefined) {
    const ids = [...(entry.firing ?? []), ...(entry.resolved ?? [])];
    const count = ids.length + (entry.omitted ?? 0);
    const about = count === 1 ? (ids[0] ?? "") : `${count} alerts`;
    const over = entry.firing === undefined ? "that it is over" : "";
    return [what, about, join(entry.receiver, entry.reason ?? over)];
  }
  const detail = join(entry.by, entry.comment ?? entry.reason ?? entry.summary);
  return [what, entry.alert ?? "", detail];
}

function item(entry: AlertEntry, context: Context): HTMLElement {
  const [what, about, detail] = words(entry);
  const { robot_id: robot } = entry;
  const named = robot === undefined ? about : h("a", { href: context.href({ page: "robot", robot }) }, about);
  return h(
    "li",
    { "data-alert-entry": entry.type, "data-severity": entry.severity },
    h("time", { datetime: entry.at, class: "mono soft" }, format.moment(entry.at)),
    h("span", { class: "event-type" }, what),
    h("span", { class: "mono event-about" }, named),
    h("span", { class: "soft event-data" }, detail),
  );
}

export class AlertHistory {
  private readonly list = h("ol", { class: "events alert-history", "aria-label": "What became of alerts, newest first" });
  private readonly earlier = h("button", { type: "button", class: "quiet", hidden: true }, "Show earlier");
  private readonly said = h("p", { class: "soft", role: "status" });
  readonly element = h("section", { class: "card" }, this.list, this.said, this.earlier);
  private entries: readonly AlertEntry[] = [];
  private next: number | undefined;
  private readonly abort = new AbortController();
  private timer: number | undefined;

  constructor(
    private readonly context: Context,
    private readonly robot?: string,
  ) {
    this.earlier.addEventListener("click", () => void this.more());
    setText(this.said, "Asking the relay…");
  }

  /** Something changed, or may have. */
  refresh(): void {
    this.timer ??= window.setTimeout(() => {
      this.timer = undefined;
      void this.newest();
    }, PAUSE_MS);
  }

  /** Asks for the newest; what was shown of before stays where nothing is missing between. */
  async newest(): Promise<void> {
    const { position } = this.context;
    await this.ask(position === undefined ? undefined : position + 1, (entries, next) => {
      const last = next ?? 0;
      const joins = (this.entries[0]?.position ?? 0) >= last;
      this.next = joins && this.entries.length > 0 ? this.next : next;
      const oldest = entries.at(-1)?.position ?? Infinity;
      this.entries = joins ? [...entries, ...this.entries.filter((known) => known.position < oldest)] : entries;
    });
  }

  close(): void {
    window.clearTimeout(this.timer);
    this.abort.abort();
  }

  private async more(): Promise<void> {
    this.earlier.disabled = true;
    await this.ask(this.next, (entries, next) => {
      this.entries = [...this.entries, ...entries];
      this.next = next;
    });
    this.earlier.disabled = false;
  }

  private async ask(before: number | undefined, take: (entries: readonly AlertEntry[], next: number | undefined) => void): Promise<void> {
    const { signal } = this.abort;
    try {
      let page = await api.alertHistory(this.robot, before, PAGE, signal);
      for (let empty = 0; page.entries.length === 0 && page.next_before !== undefined && empty < MOST_EMPTY; empty += 1) {
        page = await api.alertHistory(this.robot, page.next_before, PAGE, signal);
      }
      take(page.entries, page.next_before);
      this.show();
    } catch (cause) {
      if (!signal.aborted) setText(this.said, cause instanceof Error ? cause.message : String(cause));
    }
  }

  private show(): void {
    this.list.replaceChildren(...this.entries.map((entry) => item(entry, this.context)));
    this.earlier.hidden = this.next === undefined;
    setText(this.said, this.entries.length > 0 ? "" : this.next === undefined ? "There were no alerts." : "No alerts in what was looked through.");
  }
}
