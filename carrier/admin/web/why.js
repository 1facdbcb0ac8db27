// Why did this request go there? One that came, from its event; or one that is typed.

import { call, get, name } from "./api.js";
import { $, copy, fill, h, icon, ICONS, say } from "./dom.js";
import { explained } from "./explained.js";
import { age, bytes, clock, colour, curl, duration, given, since, statusClass } from "./format.js";
import { end } from "./sessions.js";
import { mayNot, on, state } from "./state.js";

let head;
let about;
let form;
let typed; // the fields of the form
let result;
let returns; // what had the focus before the panel was opened
let asked = 0;

export function build(aside) {
  head = h("h2", { id: "h-why", tabindex: "-1" }, "Why?");
  const close = h("button", { type: "button", class: "icon close", "aria-label": "Close", on: { click: () => shut() } }, icon(...ICONS.close));
  about = h("div", { class: "about" }, h("p", { class: "empty" }, "Choose a request or a session to see which rule took it, and why no other did. Or type one below."));
  fill(aside, h("header", { class: "bar" }, head, close), about, tryIt());
  addEventListener("keydown", (event) => event.key === "Escape" && document.body.dataset.why && !document.querySelector("dialog[open]") && shut());
  $("open-why").addEventListener("click", () => open());
  on("why", request);
  on("session", session);
  on("status", listeners);
}

function open() {
  returns = document.activeElement;
  document.body.dataset.why = "open";
  if (getComputedStyle($("why")).position === "fixed") head.focus();
}

function shut() {
  delete document.body.dataset.why;
  returns?.focus?.();
}

// ---- a request that came

async function request(event) {
  open();
  asked += 1;
  const mine = asked;
  const where = h("div", {}, h("p", { class: "dim" }, "Asking …"));
  fill(about, title(event), facts(event), timings(event), actions(event), h("h3", {}, "The reason"), h("p", {}, event.why ?? ""), where);
  if (event.event === "refused" || !event.listener) return fill(where);
  try {
    const { explanation, note, headers } = await explain(event);
    if (mine !== asked) return undefined;
    event.headers_seen = headers;
    fill(where, note ? h("p", { class: "dim small" }, note) : null, explained(explanation, explanation.rule === event.rule));
  } catch (error) {
    if (mine === asked) fill(where, h("p", { class: "dim" }, error.message));
  }
  return undefined;
}

/** The explanation of an event: of the request as it came while the proxy remembers it, else of what is told of it. */
async function explain(event) {
  if (event.id_of_event) {
    try {
      const found = await get(`events/${name(event.id_of_event)}`);
      if (found.event?.time === event.time) {
        const then = found.explanation.rule === event.rule ? "" : "The rules have changed since: now another rule would take it.";
        return { explanation: found.explanation, note: then, headers: found.headers };
      }
    } catch (error) {
      if (error.status !== 404 && error.status !== 501) throw error;
    }
  }
  const body = { listener: event.listener };
  if (event.method) Object.assign(body, { method: event.method, path: event.path, headers: fieldsOf(event) });
  if (event.client) body.source = event.client;
  const explanation = await call("POST", "explain", { body });
  return { explanation, note: "The proxy does not remember this request any more: this is by what its line tells, without its other headers.", headers: undefined };
}

const fieldsOf = (event) => event.headers_seen ?? [...(event.host ? [["host", event.host]] : []), ...Object.entries(event.headers ?? {})];

function title(event) {
  head.textContent = event.event === "refused" ? "Why was this refused?" : "Why did this go there?";
  const status = Number(event.status) || 0;
  const chip = event.user || (event.rule ? given(event.rule, event.cluster ?? "") : "refused");
  return h(
    "div",
    { class: "subject" },
    h("code", { class: "line" }, event.method ? `${event.method} ${event.path}` : (event.request ?? `${event.protocol} ${event.client}`)),
    h("div", { class: "row" }, status ? h("span", { class: `status ${statusClass(status)}` }, status) : null, h("span", { class: `chip ${colour(event.user)}` }, chip), h("span", { class: "dim" }, clock(event.time))),
  );
}

function facts(event) {
  const row = (term, value, kind = "") => (value == null || value === "" ? null : h("div", {}, h("dt", {}, term), h("dd", { class: kind }, value)));
  return h(
    "dl",
    { class: "facts" },
    row("Endpoint", event.endpoint),
    row("Cluster", event.cluster && given(event.cluster, "")),
    row("Fallback", event.fallback && `the shadow, because ${event.fallback}`, "warn"),
    row("Failed", event.error, "bad"),
    row("Retries", event.retries, "warn"),
    row("Client", event.client),
    row("Listener", event.listener && `${event.listener} (${event.protocol}${event.version ? ` ${event.version}` : ""})`),
    row("gRPC", event.grpc && `${event.grpc.service}/${event.grpc.method}: ${event.grpc.status}`),
    row("In / out", event.bytes_in == null ? "" : `${bytes(event.bytes_in)} / ${bytes(event.bytes_out)}`),
    row("Request id", event.id && h("code", {}, event.id)),
    row("Trace", event.trace_id && h("code", {}, event.trace_id)),
  );
}

const NAMES = { upstream_us: "the endpoint", first_byte_us: "to the first byte", duration_us: "in all" };

/** Every time that the event tells, as bars of one scale. */
function timings(event) {
  const found = Object.entries(event).filter(([key, value]) => key.endsWith("_us") && typeof value === "number");
  if (!found.length) return null;
  const most = Math.max(...found.map(([, value]) => value), 1);
  return h(
    "ul",
    { class: "timings", "aria-label": "Times" },
    found
      .sort(([a], [b]) => (a === "duration_us") - (b === "duration_us"))
      .map(([key, value]) => {
        const bar = h("span", { class: "bar-fill" });
        bar.style.width = `${Math.max(1, (value / most) * 100)}%`;
        return h("li", {}, h("span", { class: "dim" }, NAMES[key] ?? key.slice(0, -3).replaceAll("_", " ")), h("span", { class: "bar-box", "aria-hidden": "true" }, bar), h("span", {}, duration(value)));
      }),
  );
}

function actions(event) {
  if (!event.method) return null;
  return h(
    "div",
    { class: "row" },
    h("button", { type: "button", on: { click: () => copy(curl(event.method, urlOf(event.listener, event.path, event.host), fieldsOf(event)), "The curl line is") } }, "Copy as curl"),
    h("button", { type: "button", on: { click: () => again(event) } }, "Try a change"),
  );
}

/** An address of the listener that a browser of this machine could use. */
function urlOf(listener, path, host) {
  if (/^https?:/i.test(path ?? "")) return path;
  const found = state.status?.listeners.find((one) => one.name === listener);
  const secure = found?.tls ? "https" : "http";
  const address = (found?.address ?? "localhost").replace(/^(0\.0\.0\.0|\[::\]|\*)?:/, "127.0.0.1:");
  return `${secure}://${host && host.includes(":") ? host : address}${path ?? "/"}`;
}

// ---- a session that is open

function session(found) {
  open();
  asked += 1;
  head.textContent = "Why does this go there?";
  const why = mayNot();
  const closing = h("button", { type: "button", class: "danger", disabled: Boolean(why), title: why, on: { click: () => end(found) } }, "Close the session");
  const row = (term, value) => (value ? h("div", {}, h("dt", {}, term), h("dd", {}, value)) : null);
  fill(
    about,
    h("div", { class: "subject" }, h("code", { class: "line" }, found.name), h("div", { class: "row" }, h("span", { class: `chip ${colour(found.user)}` }, found.user || given(found.rule, found.cluster)), h("span", { class: "dim" }, `open for ${age(since(found.since))}`))),
    h("dl", { class: "facts" }, row("Endpoint", found.to), row("Client", found.client), row("Listener", `${found.listener} (${found.protocol})`), row("In / out", `${bytes(found.in)} / ${bytes(found.out)}`), row("Fallback", found.fallback)),
    h("div", { class: "row" }, closing),
    h("h3", {}, "The reason"),
    h("p", {}, found.why),
    h("h3", {}, "What happened"),
    h("ol", { class: "happened" }, found.events.map((event) => h("li", {}, h("span", { class: "dim" }, clock(event.timestamp)), h("b", {}, event.event.toLowerCase()), h("span", {}, [event.message, event.content].filter(Boolean).join(": "))))),
  );
}

// ---- one that is typed

function tryIt() {
  const part = {
    listener: h("select", { id: "try-listener" }),
    method: h("input", { id: "try-method", value: "GET", list: "methods", autocomplete: "off", spellcheck: "false" }),
    path: h("input", { id: "try-path", value: "/", autocomplete: "off", spellcheck: "false" }),
    headers: h("textarea", { id: "try-headers", rows: "3", placeholder: "x-user: john", spellcheck: "false" }),
    source: h("input", { id: "try-source", placeholder: "10.0.0.7:4000", autocomplete: "off" }),
    sni: h("input", { id: "try-sni", placeholder: "shop.example", autocomplete: "off" }),
  };
  const field = (label, control, kind = "") => h("div", { class: `field ${kind}` }, h("label", { for: control.id }, label), control);
  result = h("div", { class: "result", role: "status" });
  form = h(
    "form",
    { class: "try" },
    h("h2", {}, "Try a request"),
    field("Listener", part.listener),
    h("div", { class: "two small-first" }, field("Method", part.method), field("Path or URL", part.path)),
    h("datalist", { id: "methods" }, ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"].map((value) => h("option", { value }))),
    field("Headers, one a line", part.headers),
    h("details", {}, h("summary", {}, "Where it comes from"), h("div", { class: "two" }, field("Client's address", part.source), field("Server name of TLS", part.sni))),
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Explain"), h("button", { type: "button", on: { click: () => copy(curl(part.method.value, urlOf(part.listener.value, part.path.value), typedHeaders()), "The curl line is") } }, "Copy as curl")),
    result,
  );
  typed = part;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  return form;
}

function typedHeaders() {
  return typed.headers.value
    .split("\n")
    .filter((line) => line.trim())
    .map((line) => {
      const at = line.indexOf(":");
      return at < 0 ? [line.trim(), ""] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    });
}

async function ask() {
  const { listener, method, path, source, sni } = typed;
  const body = { listener: listener.value };
  if (message(listener.value)) Object.assign(body, { method: method.value.trim() || "GET", path: path.value || "/", headers: typedHeaders() });
  if (source.value.trim()) body.source = source.value.trim();
  if (sni.value.trim()) body.sni = sni.value.trim();
  try {
    const found = await call("POST", "explain", { body });
    fill(result, h("div", { class: "would" }, "It would go to ", h("span", { class: "chip" }, found.destination ? given(found.destination.cluster, found.destination.protocol) : "nobody")), explained(found));
  } catch (error) {
    fill(result, h("div", { class: "told bad" }, h("strong", {}, "This is no request that it takes"), (error.problems?.length ? error.problems.map((one) => `${one.path}: ${one.message}`) : [error.message]).map((said) => h("p", {}, said))));
  }
}

/** Does this listener carry requests? */
const message = (name) => /^(HTTP|WebSocket|auto)$/.test(state.status?.listeners.find((one) => one.name === name)?.protocol ?? "HTTP");

function listeners(status) {
  const select = typed.listener;
  const names = status.listeners.map((one) => one.name);
  if ([...select.options].map((option) => option.value).join("\n") === names.join("\n")) return;
  const before = select.value;
  fill(select, status.listeners.map((one) => h("option", { value: one.name, selected: one.name === before }, `${one.name} · ${one.protocol} ${one.address}`)));
}

/** Put a request that came into the form, to be changed. */
function again(event) {
  const { listener, method, path, headers, source } = typed;
  listener.value = event.listener;
  method.value = event.method;
  path.value = event.path;
  source.value = event.client ?? "";
  headers.value = fieldsOf(event).filter(([, value]) => value !== "(redacted)").map(([field, value]) => `${field}: ${value}`).join("\n");
  form.scrollIntoView({ block: "start" });
  headers.focus();
  say("Change it, then explain it");
}
