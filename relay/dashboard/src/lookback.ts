/** Where a person picks a time, and what says on every page that it is the past. */

import { h, setText } from "./dom";
import * as format from "./format";
import type { Past } from "./past";

/** The banner's words. */
export function words(past: Pick<Past, "at" | "position" | "trouble">): string {
  const then = format.moment(past.at);
  if (past.trouble !== "") return `The relay cannot show ${then}: ${past.trouble}.`;
  if (past.position === undefined) return `Asking the relay how it was at ${then}…`;
  return `This is the past: as of ${then}.`;
}

/** A time as `datetime-local` has it, in this browser's time zone. */
export function local(at: number): string {
  return format.moment(at).replace(" ", "T");
}

export class LookBack {
  private readonly input = h("input", { type: "datetime-local", step: 1, required: true, name: "at", "aria-label": "Show the fleet as of" });
  readonly form = h("form", { class: "when" }, this.input, h("button", { type: "submit", class: "quiet" }, "Look back"));
  private readonly said = h("p", { role: "status" });
  private readonly more = h(
    "p",
    {},
    "Registration, configuration, presence and alerts are as the log has them, charts and the fleet's figures as measured; what robots said besides is of the last picture that was kept before. Nothing can be decided here.",
  );
  private readonly live = h("a", { class: "quiet", "data-action": "live" }, "Back to live");
  readonly banner = h("section", { class: "past", "aria-label": "The past", hidden: true }, h("div", {}, this.said, this.more), this.live);

  constructor(pick: (at: number) => void) {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      // Without a zone it is this browser's time.
      const at = new Date(this.input.value).getTime();
      if (!Number.isNaN(at)) pick(at);
    });
  }

  /** `now` is the page of now. */
  draw(past: Past | undefined, now: string): void {
    this.banner.hidden = past === undefined;
    this.live.setAttribute("href", now);
    if (past === undefined) {
      this.input.value = "";
      return;
    }
    this.input.value = local(past.at);
    this.banner.dataset["state"] = past.trouble !== "" ? "trouble" : past.position === undefined ? "asking" : "shown";
    this.more.hidden = past.position === undefined;
    setText(this.said, words(past));
  }
}
