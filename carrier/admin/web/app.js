// The page: its parts put together, the look at the status that all of them live from, views and themes.

import { get, Refused } from "./api.js";
import * as certificates from "./certificates.js";
import * as changes from "./changes.js";
import { $, fill, h, icon, ICONS, text } from "./dom.js";
import { duration, number, rate } from "./format.js";
import * as requests from "./requests.js";
import * as rules from "./rules.js";
import * as sessions from "./sessions.js";
import { kept, on, state, tell, users } from "./state.js";
import * as token from "./token.js";
import * as why from "./why.js";

const VIEWS = ["rules", "requests", "sessions", "configuration", "certificates"];
const EVERY = 1000; // milliseconds between two looks, or ten times what one took
const SELDOM = 10_000;
const WINDOW = 300; // seconds
const THEMES = ["system", "light", "dark"];

let timer;
let stream = "";
let past = []; // {at, total, failed} of the last five minutes

function start() {
  themes();
  state.me = kept.get("me");
  for (const [name, part] of Object.entries({ rules, sessions, configuration: changes, certificates })) part.build($(`v-${name}`));
  requests.build($("v-requests"));
  why.build($("why"));
  token.build();
  chooser();
  addEventListener("hashchange", view);
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(`#v-${document.body.dataset.view} :is([tabindex="0"], button, a, input)`)?.focus();
  });
  on("token", look);
  on("look", look);
  on("stream", (reason) => {
    stream = reason;
    trouble();
  });
  on("filter", () => !matchMedia("(min-width: 900px)").matches && (location.hash = "#requests"));
  document.addEventListener("visibilitychange", () => document.hidden || look());
  view();
  look();
  performance.mark("carrier-interactive");
}

// ---- the status

async function look() {
  clearTimeout(timer);
  const began = performance.now();
  let wait = EVERY;
  try {
    const status = await get("status");
    wait = Math.min(SELDOM, Math.max(EVERY, 10 * (performance.now() - began)));
    state.status = status;
    if (state.down) tell("back");
    state.down = "";
    state.role = status.caller?.role ?? "";
    if (state.role.startsWith("user=")) state.me = state.role.slice(5);
    figures(status);
    tell("status", status);
    options();
  } catch (error) {
    state.down = error instanceof Refused ? error.message : "the proxy does not answer; asking again";
    state.refused = error instanceof Refused;
    wait = 2000;
    $("f-state").replaceChildren(h("span", { class: "dot down" }), error instanceof Refused ? "refused" : "away");
  }
  trouble();
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, wait);
}

function figures(status) {
  const ready = status.state === "ready" && !status.overloaded;
  const words = status.overloaded ? `overloaded: ${status.overloaded}` : status.state;
  const node = $("f-state");
  if (node.textContent !== words) fill(node, h("span", { class: `dot ${ready ? "up" : "shaky"}` }), words);
  const at = performance.now() / 1000;
  const sum = (field) => status.listeners.reduce((total, listener) => total + listener[field], 0);
  const last = past.at(-1);
  const now = { at, total: sum("total"), failed: sum("failed") };
  past = [...past.filter((one) => one.at > at - WINDOW && one.total <= now.total), now];
  if (last && at - last.at > 0.2) text($("f-rate"), rate(Math.max(0, now.total - last.total) / (at - last.at)));
  text($("f-sessions"), number(status.sessions));
  const failed = Math.max(0, now.failed - past[0].failed);
  text($("f-failed"), number(failed));
  $("f-failed").className = failed ? "warn" : "";
  text($("f-revision"), status.revision);
  const took = requests.durations().sort((a, b) => a - b);
  text($("f-p99"), took.length ? duration(took[Math.floor((took.length - 1) * 0.99)]) : "–");
  text($("where"), status.file ? status.file.split("/").at(-1) : location.host);
  document.title = status.file ? `${status.file.split("/").at(-1)} · Carrier2` : "Carrier2";
}

/** What is wrong, said once, above everything. */
function trouble() {
  const said = state.down || (stream ? `Live requests stand still: ${stream}` : "");
  const node = $("trouble");
  node.hidden = !said;
  text(node, said);
}

// ---- who looks

function chooser() {
  $("me").addEventListener("change", (event) => {
    state.me = event.target.value;
    kept.set("me", state.me);
    tell("me");
  });
  on("chosen", (name) => {
    state.me = name;
    options();
    tell("me");
  });
}

function options() {
  const select = $("me");
  const names = users();
  if (state.me && !names.includes(state.me)) names.push(state.me);
  const wanted = names.join("\n");
  select.disabled = state.role.startsWith("user=");
  select.title = select.disabled ? "Your token is bound to this user" : "Whose bridges are yours: for \u201COnly mine\u201D";
  if (select.dataset.names !== wanted) {
    select.dataset.names = wanted;
    fill(select, h("option", { value: "" }, "nobody"), names.map((name) => h("option", { value: name }, name)));
  }
  if (select.value !== state.me) {
    select.value = state.me;
    tell("me");
  }
}

// ---- views and themes

function view() {
  const wanted = location.hash.slice(1);
  const name = VIEWS.includes(wanted) ? wanted : "requests";
  document.body.dataset.view = name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  tell("view", name);
}

function themes() {
  const button = $("theme");
  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    fill(button, icon(...ICONS[theme]));
    button.setAttribute("aria-label", `Theme: ${theme === "system" ? "as the system" : theme}`);
    button.title = button.getAttribute("aria-label");
  };
  let theme = THEMES.includes(kept.get("theme")) ? kept.get("theme") : "system";
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    kept.set("theme", theme === "system" ? "" : theme);
    show(theme);
  });
  show(theme);
}

start();
