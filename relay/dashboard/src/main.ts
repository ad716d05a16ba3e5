/** Puts the page together: routes by hash, one live link, one draw per animation frame. */

import "./style.css";
import type { Context, View } from "./context";
import { setAttribute, setText } from "./dom";
import { FleetView } from "./fleet";
import { History } from "./history";
import { LiveLink } from "./live";
import type { LinkState } from "./live";
import { Fleet } from "./model";
import { RobotPage } from "./robot";
import type { Selection } from "./selection";

const LINK_WORDS: Record<LinkState, string> = { connecting: "connecting…", live: "live", reconnecting: "reconnecting…" };

function byId(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`index.html has no #${id}`);
  return element;
}

const target = byId("view");
const indicator = byId("link");
const fleet = new Fleet();
let offsetMs = 0;
let drawing = false;
let view: View | undefined;
let loaded = false;
let selection: Selection = { text: "", status: "all", sort: "id", descending: false };

const now = (): number => Date.now() + offsetMs;

function schedule(): void {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    view?.draw();
  });
}

const context: Context = { fleet, history: new History(fleet, now, schedule), now, schedule };

function route(): void {
  view?.close?.();
  const match = /^#\/robots\/([^/]+)$/.exec(location.hash);
  const first = view === undefined;
  view = match?.[1] === undefined
    ? new FleetView(context, selection, (chosen) => (selection = chosen))
    : new RobotPage(context, decodeURIComponent(match[1]));
  if (loaded && view instanceof FleetView) view.refetch();
  document.title = `${view.title} · Lekiwi Heartbeat`;
  target.replaceChildren(view.element);
  scrollTo(0, 0);
  if (!first) target.focus({ preventScroll: true });
  view.draw();
}

const link = new LiveLink(fleet, {
  changed: schedule,
  link(state) {
    setText(indicator, LINK_WORDS[state]);
    setAttribute(indicator, "data-link", state);
  },
  message: (live) => view?.message?.(live),
  snapshot(at) {
    offsetMs = Date.parse(at) - Date.now();
    loaded = true;
    context.history.reset();
    view?.refetch?.();
  },
});

addEventListener("hashchange", route);
addEventListener("pagehide", () => link.stop());
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
setInterval(schedule, 1_000);
route();
link.start();
