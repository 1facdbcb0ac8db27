// How numbers, moments and names are written.

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const UNITS = ["B", "kB", "MB", "GB", "TB"];

export const number = (value) => whole.format(value);

/** A rate a second: exact where it is small. */
export const rate = (value) => (value >= 10 || value === 0 ? whole.format(value) : value.toFixed(1));

export function bytes(value) {
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** Microseconds, as milliseconds or seconds. */
export function duration(us) {
  if (us == null) return "–";
  const ms = us / 1000;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 10_000) return `${Math.round(ms)} ms`;
  return age(ms / 1000);
}

/** Seconds in words of one or two units; about: of one. */
export function age(seconds, about = false) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 && s < 600 && !about ? ` ${s % 60} s` : ""}`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h${Math.floor((s % 3600) / 60) && !about ? ` ${Math.floor((s % 3600) / 60)} min` : ""}`;
  if (s < 1000 * 86_400) return `${Math.floor(s / 86_400)} days`;
  return `${whole.format(Math.floor(s / 31_557_600))} years`;
}

let ahead = 0; // milliseconds that the proxy's clock is before the one here

/** What the proxy's clock says; what it told of the past is counted from there, whatever the clock here says. */
export const now = () => Date.now() + ahead;

/** The Date of an answer, which is of whole seconds: clocks that agree so far are one. */
export function setClock(date) {
  const found = Date.parse(date ?? "") + 500 - Date.now();
  if (!Number.isNaN(found)) ahead = Math.abs(found) < 2500 ? 0 : found;
}

export const since = (iso) => (now() - Date.parse(iso)) / 1000;

export const ago = (iso) => {
  const seconds = since(iso);
  return seconds < 1 ? "now" : `${age(seconds)} ago`;
};

const two = (n) => String(n).padStart(2, "0");

/** The time of day, here. */
export function clock(iso, fraction = true) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return "";
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}${fraction ? `.${String(at.getMilliseconds()).padStart(3, "0")}` : ""}`;
}

export function day(iso) {
  const at = new Date(iso);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

const IMPLICIT = /(^|-)(RuleList|Rule|Route|Cluster|EndPoint)-?\d+$/;

/** A name that nobody gave is not shown; what stands for it is. */
export const given = (name, instead) => (IMPLICIT.test(name) ? instead : name);

const colours = new Map();

/** The colour of a user: one of eight, in the order in which they are met; nobody's is grey. */
export function colour(user) {
  if (!user) return "nobody";
  if (!colours.has(user)) colours.set(user, `c${colours.size % 8}`);
  return colours.get(user);
}

export const statusClass = (status) => (status >= 500 ? "s5" : status >= 400 ? "s4" : status > 0 ? "s2" : "s0");

const quoted = (value) => `'${value.replaceAll("'", "'\\''")}'`;

/** A request as a line for curl. fields: [name, value] pairs; those that are hidden from us stand in a comment. */
export function curl(method, url, fields) {
  const hidden = fields.filter(([, value]) => value === "(redacted)").map(([field]) => field);
  const parts = ["curl -i"];
  if (method && method !== "GET") parts.push(`-X ${quoted(method)}`);
  for (const [field, value] of fields) {
    if (value !== "(redacted)" && !/^(host|content-length|connection|transfer-encoding|accept-encoding)$/i.test(field)) parts.push(`-H ${quoted(`${field}: ${value}`)}`);
  }
  parts.push(quoted(url));
  return parts.join(" ") + (hidden.length ? `  # not shown: ${hidden.join(", ")}` : "");
}
