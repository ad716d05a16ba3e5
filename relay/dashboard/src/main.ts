/** Puts the page together: routes by hash, one live link, one draw per animation frame. */

import "./style.css";
import { AlertsPage } from "./alerts-page";
import * as api from "./api";
import type { Context, View } from "./context";
import { h, setAttribute, setText } from "./dom";
import { FleetView } from "./fleet";
import * as format from "./format";
import { History } from "./history";
import { LiveLink } from "./live";
import type { LinkState } from "./live";
import { LookBack } from "./lookback";
import { Fleet } from "./model";
import { Past } from "./past";
import { href, place } from "./place";
import type { Place } from "./place";
import { may } from "./rights";
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
const pages: readonly (readonly [HTMLElement, Place["page"]])[] = [
  [byId("to-fleet"), "fleet"],
  [byId("to-alerts"), "alerts"],
];
const fleet = new Fleet();
let offsetMs = 0;
let drawing = false;
let view: View | undefined;
let past: Past | undefined;
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

let me: api.Me | undefined;
/** The shown view again, by what is known of who asks. */
function welcome(known: api.Me): void {
  me = known;
  setText(byId("who"), known.name);
  view?.welcome?.();
  schedule();
}

const live: Context = { fleet, history: new History(fleet, now, schedule), now, schedule, may: (permission, robot) => may(me, permission, robot), href };

function contextOf({ at, fleet: then, position }: Past): Context {
  const now = (): number => at;
  const history = new History(then, now, schedule, true);
  return { fleet: then, history, now, schedule, may: () => false, href: (to) => href({ ...to, at }), ...(position === undefined ? {} : { position }) };
}

/** The past is asked for once, whichever pages of it are looked at. */
function follow(at: number | undefined): void {
  if (past?.at === at) return;
  past = at === undefined ? undefined : new Past(at);
  const asked = past;
  void asked?.load().then(() => {
    if (asked === past) route();
  });
}

function viewOf(to: Place, context: Context): View {
  if (to.page === "robot") return new RobotPage(context, to.robot ?? "");
  if (to.page === "alerts") return new AlertsPage(context);
  return new FleetView(context, selection, (chosen) => (selection = chosen));
}

function route(): void {
  const to = place(location.hash);
  const { at: _, ...here } = to;
  const first = view === undefined;
  view?.close?.();
  follow(to.at);
  lookBack.draw(past, href(here));
  document.body.classList.toggle("looking-back", past !== undefined);
  const isShown = past === undefined || past.position !== undefined;
  view = isShown ? viewOf(to, past === undefined ? live : contextOf(past)) : nothing(past?.trouble === "" ? "Asking the relay…" : "There is nothing to show.");
  if (loaded && past === undefined && view instanceof FleetView) view.refetch();
  for (const [link, page] of pages) {
    link.setAttribute("href", href({ ...to, page }));
    if (page === to.page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const then = past === undefined ? "" : ` · as of ${format.moment(past.at)}`;
  document.title = `${view.title}${then} · Lekiwi Heartbeat`;
  target.replaceChildren(view.element);
  scrollTo(0, 0);
  if (!first) target.focus({ preventScroll: true });
  view.draw();
}

/** In the place of a view that has nothing to show. */
function nothing(words: string): View {
  return { title: "The past", element: h("p", { class: "empty" }, words), draw: () => undefined };
}

const lookBack = new LookBack((at) => {
  const to = href({ ...place(location.hash), at });
  if (location.hash !== to) {
    location.hash = to;
    return;
  }
  // Again: the relay may not have been reached.
  past = undefined;
  route();
});
byId("when").append(lookBack.form);
target.before(lookBack.banner);

const link = new LiveLink(fleet, {
  changed: schedule,
  link(state) {
    setText(indicator, LINK_WORDS[state]);
    setAttribute(indicator, "data-link", state);
  },
  message(message) {
    if (past === undefined) view?.message?.(message);
  },
  snapshot(at) {
    offsetMs = Date.parse(at) - Date.now();
    loaded = true;
    void api.me().then(welcome).catch(() => undefined);
    live.history.reset();
    if (past === undefined) view?.refetch?.();
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
