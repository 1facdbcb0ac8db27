// Open sessions: connections, streams, long requests; each can be closed.

import { call, get, name } from "./api.js";
import { confirmed, fill, h, say, text } from "./dom.js";
import { age, bytes, colour, given, since } from "./format.js";
import { Grid } from "./grid.js";
import { mayNot, on, state, tell } from "./state.js";

const EVERY = 2000; // milliseconds, and ten times what it took

let grid;
let count;
let open = new Map(); // name -> what is shown of a session
let seen = false;
let timer;

export function build(section) {
  grid = new Grid({
    label: "Open sessions, the oldest first",
    empty: "Nothing is open. Requests that are answered at once are seen among the live requests.",
    open: (session) => tell("session", session),
    columns: [
      { name: "protocol", label: "Protocol", show: (cell, s) => text(cell, s.protocol) },
      { name: "client", label: "Client", show: (cell, s) => text(cell, s.client) },
      { name: "who", label: "Who", show: who },
      { name: "to", label: "Endpoint", show: to },
      { name: "bytes", label: "In / out", show: (cell, s) => text(cell, `${bytes(s.in)} / ${bytes(s.out)}`) },
      { name: "age", label: "Age", show: (cell, s) => text(cell, age(since(s.since), true)) },
      { name: "act", label: "", show: act },
    ],
  });
  grid.node.querySelector(".grid-head .act").append(h("span", { class: "hidden-text" }, "Close"));
  count = h("p", { class: "dim count" });
  fill(section, h("header", { class: "bar" }, h("h2", { id: "h-sessions" }, "Open sessions"), count), grid.box);
  on("view", (view) => {
    seen = view === "sessions";
    if (seen) look();
  });
  on("token", () => seen && look());
}

function who(cell, session) {
  cell.className = `cell who ${colour(session.user)}`;
  text(cell, session.user || given(session.rule, session.cluster));
}

function to(cell, session) {
  text(cell, session.to);
  cell.title = session.to;
}

function act(cell, session) {
  const why = mayNot();
  let button = cell.firstChild;
  if (!button) {
    button = h("button", { type: "button" }, "Close");
    button.addEventListener("click", () => button.session && end(button.session));
    cell.append(button);
  }
  button.session = session;
  button.disabled = Boolean(why);
  button.title = why;
  button.setAttribute("aria-label", `Close ${session.name}`);
}

/** End a session, after asking. Resolves to whether it was. */
export async function end(session) {
  if (!(await confirmed(`Close ${session.name}?`, "Close the session", `${session.protocol} of ${session.client}. Both ends are told in order; nothing is retried.`))) return false;
  try {
    await call("DELETE", `sessions/${name(session.name)}`);
    say("The session is closed");
    await look();
    return true;
  } catch (error) {
    say(error.message, true);
    return false;
  }
}

async function look() {
  clearTimeout(timer);
  const began = performance.now();
  try {
    if (!document.hidden) take(await get("sessions"));
  } catch (error) {
    text(count, error.message);
  }
  clearTimeout(timer);
  if (seen) timer = setTimeout(look, Math.max(EVERY, 10 * (performance.now() - began)));
}

function take(list) {
  const users = new Map();
  for (const listener of state.status?.listeners ?? []) for (const rule of listener.rules) users.set(rule.rule, rule.user);
  const found = new Map();
  for (const session of list) {
    if (session.status === "DESTROYED") continue;
    const row = open.get(session.name) ?? { name: session.name };
    found.set(session.name, Object.assign(row, shown(session, users)));
  }
  open = found;
  const rows = [...found.values()].sort((a, b) => (a.since < b.since ? -1 : 1));
  text(count, rows.length ? `${rows.length} open` : "");
  grid.show(rows);
  grid.again();
}

function shown(session, users) {
  const { metadata, source, destination, counters } = session;
  const host = metadata.IP?.src_addr ?? metadata.UNIX?.filename ?? "";
  const port = (metadata.TCP ?? metadata.UDP ?? {}).src_port;
  const address = destination.endpoint?.spec?.address;
  return {
    protocol: metadata.HTTP?.headers?.upgrade ? "WebSocket" : (source.listener?.protocol ?? ""),
    client: port === undefined ? host : host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`,
    rule: session.rule ?? "",
    user: users.get(session.rule) ?? "",
    cluster: destination.origin ?? "",
    to: !destination.origin ? session.status.toLowerCase() : address === "<VIRTUAL>" ? destination.origin : `${given(destination.origin, "")} ${address ?? ""}`.trim(),
    in: counters.bytes_in,
    out: counters.bytes_out,
    since: session.events[0]?.timestamp,
    listener: source.origin,
    why: session.why,
    events: session.events,
    fallback: session.fallback,
    whole: session,
  };
}
