/** Where a person is: which page, and of which time. It is all in the address, so that it can be sent to others. Pure. */

export interface Place {
  readonly page: "fleet" | "alerts" | "robot";
  /** Of which robot the page is. */
  readonly robot?: string;
  /** As of this time, ms since 1970; absent where it is the live page. */
  readonly at?: number;
}

/** What the address says behind its `#`; the fleet where it is of no page. */
export function place(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#/, "").split("?", 2);
  const said = Date.parse(new URLSearchParams(query).get("at") ?? "");
  const time = Number.isNaN(said) ? {} : { at: said };
  const robot = /^\/robots\/([^/]+)$/.exec(path)?.[1];
  if (robot !== undefined) return { page: "robot", robot: decode(robot), ...time };
  return { page: path === "/alerts" ? "alerts" : "fleet", ...time };
}

/** The address of a place. */
export function href({ page, robot, at }: Place): string {
  const path = page === "robot" ? `/robots/${encodeURIComponent(robot ?? "")}` : page === "alerts" ? "/alerts" : "/";
  return `#${path}${at === undefined ? "" : `?at=${new Date(at).toISOString()}`}`;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
