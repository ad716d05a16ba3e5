/** Figures for people. Pure. */

const PLAIN = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

/** `12.3 %`, `48.1 °C`, `1.2 MB/s`; a dash when there is no value. The unit follows the metric's name. */
export function metric(name: string, value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value)) return "–";
  const family = name.split(".", 1)[0] ?? name;
  if (family !== name) return metric(family, value);
  if (name.endsWith("_dbm")) return `${Math.round(value)} dBm`;
  if (name.endsWith("_v")) return `${PLAIN.format(value)} V`;
  if (name.endsWith("_percent")) return `${PLAIN.format(value)} %`;
  if (name.endsWith("_c")) return `${PLAIN.format(value)} °C`;
  if (name.endsWith("_bytes_per_s")) return `${bytes(value)}/s`;
  if (name.endsWith("_bytes")) return bytes(value);
  if (name.endsWith("_s")) return duration(value);
  return String(Math.round(value * 1000) / 1000);
}

export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let rest = Math.abs(value);
  while (rest >= 1000 && unit < units.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(rest) : PLAIN.format(rest)} ${units[unit]}`;
}

/** `12 s`, `3 min`, `5 h 12 min`, `3 d 4 h`. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** `3 s ago`; `never` without a time. */
export function ago(at: string | undefined, nowMs: number): string {
  if (at === undefined) return "never";
  const ms = nowMs - Date.parse(at);
  if (!Number.isFinite(ms)) return "never";
  return ms < 1000 ? "now" : `${duration(ms / 1000)} ago`;
}

/** A metric's name without its unit, for headings. */
export function metricTitle(name: string): string {
  const titles: Record<string, string> = {
    cpu_percent: "CPU",
    memory_percent: "Memory",
    disk_percent: "Disk",
    temperature_c: "Temperature",
    net_rx_bytes_per_s: "Network in",
    net_tx_bytes_per_s: "Network out",
    uptime_s: "Uptime",
  };
  return titles[name] ?? name;
}

/** Local date and time, to the second. */
export function moment(at: string | number): string {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return String(at);
  const two = (n: number): string => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
