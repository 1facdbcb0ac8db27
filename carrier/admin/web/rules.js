// Who gets what: the rules of each listener in the order in which they are asked, with shares, rates, health, and whose they are.

import { draw, fill, h, icon, ICONS, spark, text } from "./dom.js";
import { add, check, remove, renew } from "./bridges.js";
import { age, ago, colour, given, number, rate, since } from "./format.js";
import { mayNot, on, state, tell } from "./state.js";

const HISTORY = 60; // looks
const RECENT = 10; // looks that shares and rates are of
const MOST = 200; // rules of which cards are made; the others are found by their names

const past = new Map(); // key of a rule -> {hits, rates}
const cards = new Map(); // key of a rule -> its card
let list;
let search;
let adding;
let lastLook = 0;

export function build(section) {
  search = h("input", { type: "search", "aria-label": "Find a rule", placeholder: "find a rule, a user, a condition", hidden: true, autocomplete: "off" });
  search.addEventListener("input", () => state.status && render(state.status));
  adding = h("button", { type: "button", class: "primary", on: { click: () => add() } }, icon(...ICONS.plus), "Bridge");
  list = h("div", { class: "rules" }, h("p", { class: "empty" }, "Asking the proxy …"));
  fill(section, h("header", { class: "bar" }, h("h2", { id: "h-rules" }, "Who gets what"), adding), search, list);
  on("status", (status) => {
    measure(status);
    render(status);
  });
}

const key = (listener, rule) => `${listener.name}\n${rule.rulelist}\n${rule.rule}`;

/** Rates of all rules, from what they have done since the last look. */
function measure(status) {
  const now = performance.now();
  const seconds = (now - lastLook) / 1000;
  const present = new Set();
  for (const listener of status.listeners) {
    for (const rule of listener.rules) {
      const id = key(listener, rule);
      present.add(id);
      const known = past.get(id);
      if (known && lastLook && seconds > 0.2) {
        known.rates.push(Math.max(0, rule.hits - known.hits) / seconds);
        if (known.rates.length > HISTORY) known.rates.shift();
        known.hits = rule.hits;
      } else if (!known) past.set(id, { hits: rule.hits, rates: [] });
    }
  }
  for (const id of past.keys()) if (!present.has(id)) past.delete(id);
  if (seconds > 0.2) lastLook = now;
}

function render(status) {
  const why = mayNot(state.role.startsWith("user=") ? state.role.slice(5) : undefined);
  adding.disabled = Boolean(why) || !status.listeners.length;
  adding.title = why || "Send some of a port's requests to your own endpoint";
  const total = status.listeners.reduce((sum, listener) => sum + listener.rules.length, 0);
  search.hidden = total <= 12;
  const wanted = search.hidden ? "" : search.value.trim().toLowerCase();
  const clusters = new Map(status.clusters.map((cluster) => [cluster.name, cluster]));
  const bridges = bridgesOf(status);
  const used = new Set();
  const nodes = [];
  let room = MOST;
  let hidden = 0;
  for (const listener of status.listeners) {
    const rules = [];
    const all = listener.rules.reduce((sum, rule) => sum + now(listener, rule), 0);
    const ever = listener.rules.reduce((sum, rule) => sum + rule.hits, 0);
    let lastList = listener.rules[0]?.rulelist;
    listener.rules.forEach((rule, index) => {
      if (wanted && !`${rule.rule} ${rule.user} ${rule.when} ${rule.to}`.toLowerCase().includes(wanted)) return;
      if (room <= 0) {
        hidden += 1;
        return;
      }
      room -= 1;
      if (rule.rulelist !== lastList) rules.push(h("li", { class: "dim jump" }, `rule list ${given(rule.rulelist, "of a jump")}`));
      lastList = rule.rulelist;
      const id = key(listener, rule);
      used.add(id);
      let card = cards.get(id);
      if (!card) cards.set(id, (card = make(listener, rule, id)));
      update(card, { listener, rule, index, all, ever, cluster: clusters.get(rule.to), fallback: rule.fallback, bridge: bridges.get(rule.rule), id });
      rules.push(card.node);
    });
    if (rules.length || !wanted) nodes.push(group(listener, rules));
  }
  for (const id of cards.keys()) if (!used.has(id)) cards.delete(id);
  const inForce = new Set(status.listeners.flatMap((listener) => listener.rules.map((rule) => rule.rule)));
  const lone = status.bridges.filter((bridge) => !bridge.rules.some((rule) => inForce.has(rule)));
  if (!nodes.length) nodes.push(h("p", { class: "empty" }, wanted ? "No rule has that in it." : "Nothing is listened at: the configuration has no listener."));
  if (hidden) nodes.push(h("p", { class: "dim" }, `${number(hidden)} more rules: find them by name above.`));
  for (const bridge of lone) if (!wanted) nodes.push(h("p", { class: "dim" }, `bridge ${bridge.name} of ${bridge.user}: its rule or listener is gone`));
  if (!same(list, nodes)) fill(list, nodes);
}

/** Are these the children already? Then the focus, and what a reader of screens is at, stay. */
const same = (parent, nodes) => parent.children.length === nodes.length && nodes.every((node, i) => node === parent.children[i]);

/** Rule -> the bridge that it is of. */
function bridgesOf(status) {
  const found = new Map();
  for (const bridge of status.bridges) for (const rule of bridge.rules) found.set(rule, bridge);
  return found;
}

/** How much a rule takes: of the last looks, so that a share does not jump. */
const now = (listener, rule) => mean(past.get(key(listener, rule))?.rates ?? []);

function mean(rates) {
  const last = rates.slice(-RECENT);
  return last.length ? last.reduce((sum, one) => sum + one, 0) / last.length : 0;
}

const groups = new Map();

function group(listener, rules) {
  let made = groups.get(listener.name);
  if (!made) {
    const title = h("h3", {}, h("span", {}, listener.name), h("span", { class: "dim where" }));
    made = { node: h("div", { class: "listener" }, title, h("ol", {})), where: title.lastChild };
    groups.set(listener.name, made);
  }
  text(made.where, `${listener.protocol} ${listener.address}${listener.state === "listening" ? "" : ` · ${listener.state}`}`);
  const ol = made.node.lastChild;
  if (!same(ol, rules)) fill(ol, rules.length ? rules : h("li", { class: "empty" }, "No rules: every session is refused."));
  return made.node;
}

/** A card: what never changes is made, what does is left for `update`. */
function make(listener, rule) {
  const part = {
    n: h("span", { class: "n" }),
    share: h("span", { class: "share" }),
    when: h("code", { class: "when" }, rule.when),
    to: h("p", { class: "to" }),
    note: h("p", { class: "bad note" }),
    told: h("p", { class: "dim told" }),
    line: spark([]),
    acts: h("div", { class: "row acts" }),
    meter: h("span", { class: "meter" }, h("span", {})),
  };
  const title = h("span", { class: "name" }, part.n, h("span", { class: "label" }, rule.user || given(rule.rule, rule.when === "anything" ? "everybody else" : "a rule")));
  part.label = title.lastChild;
  const see = h("button", { type: "button", class: "link" }, title);
  see.title = "Show only what this rule takes";
  see.addEventListener("click", () => tell("filter", `rule:${rule.rule}`));
  const node = h("li", { class: `card ${colour(rule.user)}` }, h("div", { class: "row between" }, see, part.share), part.meter, part.when, part.to, part.note, part.line, part.told, part.acts);
  return { node, part, bridge: undefined };
}

function update({ node, part, ...card }, { rule, listener, index, all, ever, cluster, bridge, id }) {
  const rates = past.get(id)?.rates ?? [];
  const here = mean(rates);
  const share = all > 0 ? here / all : ever > 0 ? rule.hits / ever : 0;
  node.classList.toggle("never", Boolean(rule.note));
  text(part.n, index + 1);
  text(part.share, all > 0 || ever > 0 ? `${Math.round(share * 100)} %` : "–");
  part.meter.firstChild.style.width = `${(share * 100).toFixed(1)}%`;
  text(part.when, rule.when === "anything" ? "whatever no rule above takes" : rule.when);
  fill(part.to, where(rule, cluster));
  const wrong = rule.note || rule.error || (bridge?.healthy === false ? bridge.health : "");
  text(part.note, wrong);
  part.note.hidden = !wrong;
  draw(part.line, rates, HISTORY);
  const last = rule.last_hit ? `last ${ago(rule.last_hit)}` : "never hit";
  const expires = bridge?.expires ? ` · ends in ${age(-since(bridge.expires), true)}` : "";
  text(part.told, `${rate(here)}/s · ${number(rule.hits)} in all · ${last}${expires}`);
  acts(part, bridge, listener);
}

/** Where a rule leads to, with the health of its endpoints, and who serves instead. */
function where(rule, cluster) {
  const found = [h("span", { "aria-label": "leads to" }, "→")];
  const endpoints = cluster?.endpoints ?? [];
  for (const endpoint of endpoints.slice(0, 3)) {
    const seen = !endpoint.up ? "down" : endpoint.reason || endpoint.drained ? "shaky" : endpoint.tried ? "up" : "";
    const why = endpoint.drained ? "drained" : endpoint.up ? (endpoint.reason ? "failed" : "") : "down";
    found.push(h("span", { class: "endpoint", title: endpoint.reason || (endpoint.tried ? "up" : "not tried yet") }, h("span", { class: `dot ${seen}` }), endpoint.address, why && h("span", { class: endpoint.up ? "warn" : "bad" }, ` ${why}`)));
  }
  if (endpoints.length > 3) found.push(h("span", { class: "dim" }, `and ${endpoints.length - 3} more`));
  if (!endpoints.length && rule.to) found.push(h("span", {}, given(rule.to, cluster?.protocol ?? "")));
  if (rule.fallback) found.push(h("span", { class: "dim" }, `else ${given(rule.fallback, "the shadow")}`));
  return found;
}

function acts(part, bridge, listener) {
  const wanted = bridge ? `${bridge.name} ${mayNot(bridge.user)}` : "";
  if (part.acts.dataset.of === wanted) return;
  part.acts.dataset.of = wanted;
  part.acts.hidden = !bridge;
  if (!bridge) return;
  const why = mayNot(bridge.user);
  const button = (label, does, off, kind = "") => h("button", { type: "button", class: `small ${kind}`, disabled: Boolean(off), title: off, "aria-label": `${label} bridge ${bridge.name}`, on: { click: does } }, label);
  fill(
    part.acts,
    button("Check", () => check(bridge.name), mayNot(bridge.user)),
    bridge.expires && button("Renew", () => renew(bridge.name), why),
    button("Remove", () => remove(bridge.name, listener.name), why, "danger"),
  );
}
