// Certificates in force: whose they are, and until when they are good.

import { fill, h } from "./dom.js";
import { age, day, now, since } from "./format.js";
import { on } from "./state.js";

const SOON = 30 * 86_400; // seconds

export function build(section) {
  const body = h("div", { class: "certificates" }, h("p", { class: "empty" }, "Asking the proxy …"));
  fill(section, h("header", { class: "bar" }, h("h2", { id: "h-certificates" }, "Certificates")), body);
  let before = "";
  on("status", (status) => {
    const rows = rowsOf(status);
    const shown = JSON.stringify(rows) + Math.floor(now() / 60_000);
    if (shown === before) return;
    before = shown;
    fill(body, rows.length ? table(rows) : h("p", { class: "empty" }, "No listener and no cluster has a certificate of its own, and neither has the API."));
  });
}

function rowsOf(status) {
  const found = [];
  const take = (kind, name, tls) => {
    if (!tls) return;
    for (const one of tls.certificates) found.push({ kind, name, ...one, trouble: tls.trouble });
    if (!tls.certificates.length && tls.trouble) found.push({ kind, name, names: [], file: "", expires: null, trouble: tls.trouble });
  };
  for (const listener of status.listeners) take("listener", listener.name, listener.tls);
  for (const cluster of status.clusters) take("cluster", cluster.name, cluster.tls);
  take("the API", "", status.tls);
  return found;
}

function table(rows) {
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ["Of", "Names", "Good until", "File"].map((label) => h("th", { scope: "col" }, label)))),
    h("tbody", {}, rows.map(row)),
  );
}

function row(one) {
  const left = one.expires === null ? Infinity : -since(one.expires);
  const kind = left < 0 || one.trouble ? "bad" : left < SOON ? "warn" : "good";
  const said = one.expires === null ? "–" : left < 0 ? `expired ${age(-left)} ago` : `${age(left)} left`;
  return h(
    "tr",
    {},
    h("td", {}, h("span", { class: "dim" }, one.kind), " ", h("b", {}, one.name)),
    h("td", {}, one.names.length ? one.names.join(", ") : h("span", { class: "dim" }, "every name")),
    h("td", {}, h("span", { class: kind }, said), one.expires ? h("p", { class: "dim small" }, day(one.expires)) : null, one.trouble ? h("p", { class: "bad" }, one.trouble) : null),
    h("td", {}, h("code", {}, one.file)),
  );
}
