// Bridges: made, tried, renewed and removed; what the API refuses is shown where it was typed.

import { call, name as coded, Refused, sentence } from "./api.js";
import { confirmed, fill, h, icon, ICONS, say } from "./dom.js";
import { kept, mayNot, state, tell } from "./state.js";

const KINDS = {
  header: { label: "header", named: "x-user", value: "john", make: (n, v) => ({ matchHeader: { name: n, value: v } }) },
  cookie: { label: "cookie", named: "user", value: "john", make: (n, v) => ({ matchCookie: { name: n, value: v } }) },
  path: { label: "path begins with", value: "/cart", make: (_, v) => ({ matchPath: { path: v, type: "prefix" } }) },
  query: { label: "query", named: "user", value: "john", make: (n, v) => ({ matchQuery: { name: n, value: v } }) },
  baggage: { label: "baggage", named: "user", value: "john", make: (n, v) => ({ matchBaggage: { name: n, value: v } }) },
  source: { label: "client's address", value: "10.0.0.0/8", make: (_, v) => ({ matchSource: { cidr: v } }) },
};
const LIVES = { "": "for ever", "1h": "an hour", "8h": "8 hours", "24h": "a day", "7d": "a week" };

let fields = 0;

/** A labelled field. path: where the API says that something is wrong with it. */
function field(label, control, path, help = "") {
  const id = `field-${(fields += 1)}`;
  control.id = id;
  const wrong = h("p", { class: "bad wrong", id: `${id}-wrong` });
  control.setAttribute("aria-describedby", `${id}-wrong`);
  const node = h("div", { class: "field" }, h("label", { for: id }, label), control, help && h("p", { class: "dim small" }, help), wrong);
  return { node, control, wrong, path };
}

function condition() {
  const kind = h("select", { "aria-label": "Kind of condition" }, Object.entries(KINDS).map(([value, { label }]) => h("option", { value }, label)));
  const named = h("input", { "aria-label": "Name", autocomplete: "off", spellcheck: "false" });
  const value = h("input", { "aria-label": "Value", autocomplete: "off", spellcheck: "false" });
  const gone = h("button", { type: "button", class: "icon", "aria-label": "Remove this condition" }, icon(...ICONS.close));
  const node = h("div", { class: "condition" }, kind, named, value, gone);
  const look = () => {
    const found = KINDS[kind.value];
    named.hidden = !found.named;
    named.placeholder = found.named ?? "";
    value.placeholder = found.value;
  };
  kind.addEventListener("change", look);
  look();
  return { node, gone, named, value, read: () => (value.value || named.value ? KINDS[kind.value].make(named.value.trim(), value.value) : null) };
}

/** The dialog that makes a bridge. */
export function add() {
  const mine = state.role.startsWith("user=") ? state.role.slice(5) : state.me;
  const listeners = state.status?.listeners ?? [];
  const text = (more) => h("input", { autocomplete: "off", spellcheck: "false", ...more });
  const name = field("Name", text({ required: true, placeholder: mine || "john" }), "$.name", "How it is called; also how it is removed.");
  const user = field("User", text({ required: true, value: mine, readonly: state.role.startsWith("user="), placeholder: "john" }), "$.user");
  const listener = field("Port that is bridged", h("select", {}, listeners.map((one) => h("option", { value: one.name }, `${one.name} · ${one.protocol} ${one.address}`))), "$.listener");
  const endpoint = field("Where its requests go", text({ required: true, placeholder: "10.0.0.9:8000" }), "$.endpoint", "Host and port of your container.");
  const expires = field("It lives", h("select", {}, Object.entries(LIVES).map(([value, label]) => h("option", { value, selected: value === "8h" }, label))), "$.expires");
  const fallback = field("When your endpoint is away", h("select", {}, h("option", { value: "shadow" }, "the shadow answers"), h("option", { value: "error" }, "an error is answered")), "$.fallback");
  const conditions = [];
  const rows = h("div", { class: "conditions" });
  const more = () => {
    const one = condition();
    conditions.push(one);
    rows.append(one.node);
    one.gone.addEventListener("click", () => {
      if (conditions.length === 1) return;
      conditions.splice(conditions.indexOf(one), 1);
      one.node.remove();
    });
    return one;
  };
  more();
  const wrongMatch = h("p", { class: "bad wrong" });
  const answer = h("div", { class: "answer", role: "alert" });
  const all = [name, user, listener, endpoint, expires, fallback, { path: "$.match", wrong: wrongMatch }];
  const form = h(
    "form",
    { method: "dialog", novalidate: true },
    h("h2", { id: "h-add" }, "Add a bridge"),
    h("div", { class: "two" }, name.node, user.node),
    listener.node,
    h("fieldset", {}, h("legend", {}, "Which requests are yours (all must hold)"), rows, h("button", { type: "button", class: "small", on: { click: () => more().value.focus() } }, icon(...ICONS.plus), "Condition"), wrongMatch),
    endpoint.node,
    h("div", { class: "two" }, expires.node, fallback.node),
    answer,
    h("div", { class: "row end" }, h("button", { type: "button", class: "cancel" }, "Cancel"), h("button", { type: "button", class: "ask" }, "Would it be taken?"), h("button", { type: "submit", class: "primary" }, "Add the bridge")),
  );
  const box = h("dialog", { class: "box", "aria-labelledby": "h-add" }, form);
  const body = () => {
    const match = conditions.map((one) => one.read()).filter(Boolean);
    const found = { listener: listener.control.value, user: user.control.value.trim(), endpoint: endpoint.control.value.trim(), fallback: fallback.control.value };
    if (match.length) found.match = match;
    else if (!/^(HTTP|auto)$/.test(listeners.find((one) => one.name === found.listener)?.protocol ?? "")) found.type = "stream";
    if (expires.control.value) found.expires = expires.control.value;
    return found;
  };
  const shown = (problems, head, kind) => {
    for (const one of all) one.wrong.textContent = "";
    const others = [];
    for (const problem of problems) {
      const at = all.find((one) => (problem.path ?? "").startsWith(one.path));
      if (at) at.wrong.textContent = sentence(problem);
      else others.push(problem);
    }
    for (const one of all) one.control?.setAttribute("aria-invalid", String(Boolean(one.wrong.textContent)));
    fill(answer, h("div", { class: `told ${kind}` }, h("strong", {}, head), others.map((problem) => h("p", {}, typeof problem === "string" ? problem : sentence(problem)))));
  };
  const refused = (error) => {
    if (!(error instanceof Refused)) return shown([error.message], "The proxy does not answer", "bad");
    const head = error.status === 409 ? "Refused: there is a conflict" : error.status === 403 ? "Not allowed" : "Refused";
    return shown(error.problems.length ? error.problems : [error.message], head, "bad");
  };
  const typedName = () => {
    if (name.control.value.trim()) return name.control.value.trim();
    shown([{ path: "$.name", message: "a bridge needs a name" }], "Something is missing", "bad");
    name.control.focus();
    return "";
  };
  form.querySelector(".cancel").addEventListener("click", () => box.close());
  form.querySelector(".ask").addEventListener("click", async () => {
    const called = typedName();
    if (!called) return;
    try {
      const found = await call("POST", "bridges:validate", { body: { name: called, ...body() } });
      if (found.valid) shown(found.warnings, "It would be taken", "good");
      else shown(found.reasons, "It would be refused", "bad");
    } catch (error) {
      refused(error);
    }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const called = typedName();
    if (!called) return;
    try {
      const { warning } = await call("PUT", `bridges/${coded(called)}`, { body: body(), headers: { "if-none-match": "*" }, whole: true });
      box.close();
      say(`Bridge ${called} is in force${warning ? `: ${warning}` : ""}`);
      if (!state.me) {
        kept.set("me", user.control.value.trim());
        tell("chosen", user.control.value.trim());
      }
      tell("look");
    } catch (error) {
      refused(error);
    }
  });
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  name.control.focus();
}

/** Ask a bridge's endpoint whether it is there. */
export async function check(name) {
  try {
    const { endpoints } = await call("POST", `bridges/${coded(name)}/probe`);
    for (const found of endpoints) say(found.reachable ? `${found.address} is reachable, ${found.milliseconds} ms` : `${found.address} is not reachable: ${found.reason}`, !found.reachable);
  } catch (error) {
    say(error.message, true);
  }
}

export async function renew(name) {
  try {
    await call("POST", `bridges/${coded(name)}`, { body: { expires: "8h" } });
    say(`Bridge ${name} lives for another 8 hours`);
    tell("look");
  } catch (error) {
    say(error.message, true);
  }
}

export async function remove(name) {
  const why = mayNot(state.status?.bridges.find((bridge) => bridge.name === name)?.user);
  if (why) return say(why, true);
  if (!(await confirmed(`Remove bridge ${name}?`, "Remove the bridge", "Its requests go to whoever serves everybody else. What runs through it goes on to its end."))) return undefined;
  try {
    await call("DELETE", `bridges/${coded(name)}`);
    say(`Bridge ${name} is gone`);
    tell("look");
  } catch (error) {
    say(error.message, true);
  }
  return undefined;
}
