// Live requests: the last events, filtered, the newest first.

import { Refused, watch } from "./api.js";
import { $, fill, h, say, text } from "./dom.js";
import * as filters from "./filter.js";
import { clock, colour, duration, given, number, statusClass } from "./format.js";
import { Grid } from "./grid.js";
import { kept, on, state, tell, users } from "./state.js";

const KEPT = 10_000; // events
const SLACK = 1000; // and so many more until the oldest go: arrays are cut seldom
const SAMPLE = 1000; // requests that p99 is of
const SHOWN = new Set(["request", "session", "refused"]);

const all = []; // the oldest first
const fresh = []; // came since the last frame
let shown = []; // of them those that pass the filter
let filter = filters.parse("");
let paused = false;
let lost = 0;
let held = 0; // came while the list stands still
let lastId = "";
let stop = null; // ends the stream that is read
let tries = 0;
let grid;
let parts;

export const durations = () => all.slice(-SAMPLE).filter((event) => event.event === "request").map((event) => event.duration_us);

export function build(section) {
  grid = new Grid({
    label: "Live requests, the newest first",
    empty: "Nothing has come yet.",
    open: (event) => tell("why", event),
    columns: [
      { name: "time", label: "Time", show: (cell, e) => text(cell, clock(e.time)) },
      { name: "who", label: "Who", show: who },
      { name: "what", label: "Request", show: what },
      { name: "status", label: "Status", show: status },
      { name: "took", label: "Took", show: (cell, e) => text(cell, duration(e.duration_us)) },
      { name: "to", label: "Endpoint", show: to },
    ],
  });
  const input = h("input", { type: "search", id: "filter", placeholder: "user:john  path:/api  status:5xx  is:error", "aria-label": "Filter requests", "aria-describedby": "filter-help", spellcheck: "false", autocomplete: "off", autocapitalize: "off" });
  parts = {
    input,
    mine: h("button", { type: "button", "aria-pressed": "false" }, "Only mine"),
    errors: h("button", { type: "button", "aria-pressed": "false" }, "Errors"),
    pause: h("button", { type: "button", "aria-pressed": "false" }, "Pause"),
    count: h("p", { class: "dim count" }),
    clear: h("button", { type: "button", on: { click: () => (parts.input.value ? setFilter("") : forget()) } }, "Clear"),
    newer: h("button", { type: "button", class: "newer", hidden: true }, "Newer"),
  };
  input.addEventListener("input", () => typed());
  parts.mine.addEventListener("click", () => toggle("user", state.me));
  parts.errors.addEventListener("click", () => toggle("is", "error"));
  parts.pause.addEventListener("click", () => stand(!paused));
  parts.newer.addEventListener("click", () => {
    stand(false);
    grid.toTop();
  });
  fill(
    section,
    h("header", { class: "bar" }, h("h2", { id: "h-requests" }, "Live requests"), h("div", { class: "row" }, parts.mine, parts.errors, parts.pause)),
    h("div", { class: "row filter" }, input, parts.clear),
    h("p", { id: "filter-help", class: "dim small" }, "Keys: user, rule, listener, status, path, protocol, method, client, is:error; other words stand anywhere. Arrow keys and Enter open the reason of a request."),
    h("div", { class: "held" }, parts.newer, grid.box),
    parts.count,
  );
  grid.node.addEventListener("scroll", scrolled, { passive: true });
  on("status", buttons);
  on("me", buttons);
  on("filter", setFilter);
  on("token", () => open());
  on("back", () => open());
  document.addEventListener("visibilitychange", () => (document.hidden ? stop?.abort() : open()));
  buttons();
  open();
}

function who(cell, e) {
  const user = e.user ?? "";
  cell.className = `cell who ${colour(user)}`;
  text(cell, user || (e.event === "refused" ? "refused" : given(e.rule ?? "", e.cluster ?? "")));
}

function what(cell, e) {
  const said = e.method ? `${e.method} ${e.path}` : e.event === "refused" ? (e.request ?? "a request that is none") : `${e.protocol} ${e.client}`;
  text(cell, said);
  if (cell.title !== said) cell.title = said;
}

function status(cell, e) {
  const code = Number(e.status) || 0;
  const call = e.grpc?.status ?? "OK"; // a call of gRPC fails with status 200
  cell.className = `cell status ${filters.failed(e) ? "s5" : call === "OK" ? statusClass(code) : "s4"}`;
  text(cell, code || (e.error ?? "ended"));
}

function to(cell, e) {
  const call = e.grpc && e.grpc.status !== "OK" ? e.grpc.status : "";
  const where = e.endpoint || e.cluster || (e.error ?? "");
  const said = e.fallback ? `${where}, as ${e.fallback}` : call ? `${where}, ${call}` : where;
  cell.className = e.fallback || e.error || call ? "cell to warn" : "cell to";
  text(cell, said);
  if (cell.title !== said) cell.title = said;
}

// ---- filters

function toggle(key, value) {
  if (!value) return;
  const token = `${key}:${value}`;
  const words = parts.input.value.split(/\s+/).filter(Boolean);
  setFilter((words.includes(token) ? words.filter((word) => word !== token) : [...words.filter((word) => !word.startsWith(`${key}:`)), token]).join(" "));
}

export function setFilter(value) {
  parts.input.value = value;
  typed(0);
}

/** Begin with an empty list: what comes next is what is looked for. */
function forget() {
  all.length = 0;
  typed(0);
}

let waiting;

function typed(delay = 250) {
  const before = JSON.stringify(filters.query(filter));
  filter = filters.parse(parts.input.value);
  shown = all.filter((event) => filters.takes(filter, event));
  stand(false);
  lost = 0;
  buttons();
  grid.toTop();
  grid.show(shown, true);
  tellCount();
  if (JSON.stringify(filters.query(filter)) === before) return;
  clearTimeout(waiting);
  waiting = setTimeout(open, delay);
}

function buttons() {
  const mine = parts.mine;
  const who = state.me;
  mine.disabled = !who;
  mine.title = who ? `Only requests of ${who}'s bridges` : users().length ? "Choose above who you are" : "Nobody has a bridge";
  mine.setAttribute("aria-pressed", String(Boolean(who) && filter.keys.user === who));
  parts.clear.title = parts.input.value ? "Show all requests again" : "Forget the requests that are listed";
  parts.errors.setAttribute("aria-pressed", String(/^error/.test(filter.keys.is ?? "")));
  grid.none.textContent = parts.input.value.trim() ? "Nothing that passes the filter has come yet." : "Nothing has come yet. Requests stand here as they end.";
}

// ---- what is shown

/** Stand still: what comes is kept, and the list stays as it is. */
function stand(still) {
  paused = still;
  parts.pause.setAttribute("aria-pressed", String(still));
  if (!still) {
    held = 0;
    grid.show(shown, true);
  } else grid.show([...shown], true);
  parts.newer.hidden = true;
}

let scrolling = false;

function scrolled() {
  if (paused) return;
  if (!grid.top && !scrolling) {
    scrolling = true; // a reader has gone down: nothing moves under his eyes
    grid.show([...shown], true);
  } else if (grid.top && scrolling) {
    scrolling = false;
    held = 0;
    parts.newer.hidden = true;
    grid.show(shown, true);
  }
}

function take(kind, event, id) {
  if (id) lastId = id;
  if (kind === "lost") {
    lost += event.events;
    later();
  } else if (SHOWN.has(kind)) {
    event.id_of_event = id;
    fresh.push(event);
    later();
  } else tell("happened", event);
}

let frame;

const later = () => (frame ??= requestAnimationFrame(flush));

function flush() {
  frame = undefined;
  const came = fresh.splice(0);
  const pass = came.filter((event) => filters.takes(filter, event));
  for (const event of came) all.push(event);
  for (const event of pass) shown.push(event);
  if (all.length > KEPT + SLACK) {
    all.splice(0, all.length - KEPT);
    if (shown.length > KEPT) shown.splice(0, shown.length - KEPT);
    else if (shown.length === 0 || shown[0] !== all[0]) shown = shown.filter((event) => event.time >= all[0].time);
  }
  if (paused || scrolling) {
    held += pass.length;
    parts.newer.hidden = held === 0;
    text(parts.newer, `${number(held)} newer`);
  } else {
    grid.show(shown, true);
    if (grid.chosen === null) grid.at = -1;
  }
  tellCount();
}

function tellCount() {
  const some = parts.input.value.trim() ? `${number(shown.length)} of ${number(all.length)} kept` : `${number(all.length)} kept, ${number(KEPT)} at most`;
  text(parts.count, lost ? `${some} · ${number(lost)} more came faster than they can be told: a filter loses fewer` : some);
}

// ---- the stream

async function open() {
  stop?.abort();
  if (document.hidden) return;
  const mine = (stop = new AbortController());
  try {
    const ours = (...told) => mine.signal.aborted || take(...told); // what the last stream still had comes again by this one
    await watch(filters.query(filter), lastId || "0", mine.signal, ours, () => {
      tries = 0;
      tell("stream", "");
    });
    again(mine, "the stream of events has ended");
  } catch (error) {
    if (mine.signal.aborted) return;
    if (error instanceof Refused && error.status < 500 && error.status !== 429) {
      tell("stream", error.message);
      if (error.status === 400) say(error.message, true);
      return; // a token, or another filter, begins anew
    }
    again(mine, error.message);
  }
}

function again(mine, why) {
  if (mine.signal.aborted) return;
  tell("stream", why);
  tries += 1;
  setTimeout(() => mine === stop && open(), Math.min(8000, 500 * 2 ** tries));
}

on("caller", () => $("filter") && buttons());
export const myself = () => kept.get("me");
