// What a person types to see only some requests: `user:john path:/api status:5xx is:error cart`.

const OF_SERVER = ["user", "rule", "listener", "status", "path", "protocol"];
const ALIASES = { who: "user", code: "status" };
const KEYS = new Set([...OF_SERVER, "method", "client", "is"]);

/** What was typed: values by key, and words that may stand anywhere. Unknown keys are words: addresses have colons. */
export function parse(typed) {
  const found = { keys: {}, words: [] };
  for (const token of typed.trim().split(/\s+/).filter(Boolean)) {
    const at = token.indexOf(":");
    const key = ALIASES[token.slice(0, at)] ?? token.slice(0, at);
    if (at > 0 && KEYS.has(key) && token.length > at + 1) found.keys[key] = token.slice(at + 1);
    else if (!(at > 0 && KEYS.has(key))) found.words.push(token.toLowerCase());
  }
  return found;
}

/** The part of it that the API filters by, so that what is wanted is not lost among what is not. */
export function query(filter) {
  const found = {};
  for (const key of OF_SERVER) {
    const value = filter.keys[key];
    if (value && (key !== "status" || /^(\d{3}|\dxx|\d)$/i.test(value))) found[key] = value;
  }
  if (/^errors?$/.test(filter.keys.is ?? "")) found.errors = "true";
  return found;
}

// As in carrier/wire/grpc.py: what 500 and above are of HTTP.
const GRPC_FAILURES = new Set(["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]);

export const failed = (event) => Boolean(event.error || event.reason) || Number(event.status) >= 500 || GRPC_FAILURES.has(event.grpc?.status);

/** Does an event pass? */
export function takes(filter, event) {
  const { keys, words } = filter;
  for (const key in keys) {
    const want = keys[key];
    if (key === "is") {
      if (/^errors?$/.test(want) && !failed(event)) return false;
    } else if (key === "status") {
      const status = String(event.status ?? "");
      if (!status.startsWith(want.toLowerCase().replace(/x+$/, ""))) return false;
    } else if (key === "path") {
      if (!String(event.path ?? "").startsWith(want)) return false;
    } else if (key === "client") {
      if (!String(event.client ?? "").includes(want)) return false;
    } else if (key === "method") {
      if (String(event.method ?? "").toLowerCase() !== want.toLowerCase()) return false;
    } else if ((event[key] ?? "") !== want) return false;
  }
  return words.every((word) => `${event.path ?? ""} ${event.host ?? ""} ${event.rule ?? ""} ${event.user ?? ""} ${event.endpoint ?? ""} ${event.why ?? ""}`.toLowerCase().includes(word));
}
