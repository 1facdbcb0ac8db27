// The configuration: what is in force, how it came to be, and back to what it was.

import { call, get } from "./api.js";
import { confirmed, copy, fill, h, say } from "./dom.js";
import { ago, day, number } from "./format.js";
import { mayNot, on, state, tell } from "./state.js";

const LONGEST = 400_000; // characters of a configuration that are shown
const LINES = 2_500_000; // pairs of lines that are compared at most

let trail;
let text;
let head;
let acts;
let known = -1;
let seen = false;
let chosen = null;

export function build(section) {
  trail = h("ol", { class: "trail" });
  text = h("pre", { class: "document", tabindex: "0", "aria-label": "The configuration" });
  head = h("h3", {}, "In force");
  acts = h("div", { class: "row" });
  fill(
    section,
    h("header", { class: "bar" }, h("h2", { id: "h-configuration" }, "Configuration")),
    h("div", { class: "changes" }, h("div", { class: "pane" }, h("h3", {}, "What changed, the latest first"), trail), h("div", { class: "pane" }, h("div", { class: "row between" }, head, acts), text)),
  );
  on("view", (view) => {
    seen = view === "configuration";
    if (seen) look();
  });
  on("status", (status) => seen && status.revision !== known && look());
  on("happened", (event) => seen && event.event === "configuration" && look());
  on("token", () => seen && look());
}

const pretty = (found) => JSON.stringify(found, null, 2);

async function look() {
  try {
    const [audit, now] = await Promise.all([get("audit"), get("config", { query: { document: "true" } })]);
    known = audit.revision;
    show(audit, now);
  } catch (error) {
    fill(trail, h("li", { class: "bad" }, error.message));
  }
}

function show(audit, now) {
  const kept = new Set(audit.kept);
  const first = new Set(); // the latest entry of each revision opens it
  fill(
    trail,
    audit.entries.length ? null : h("li", { class: "empty" }, "Nothing has changed since the start."),
    audit.entries.map((entry) => {
      const opens = !entry.refused && kept.has(entry.revision) && !first.has(entry.revision);
      if (!entry.refused) first.add(entry.revision);
      return h(
        "li",
        { class: entry.refused ? "refused" : "" },
        h("div", { class: "row between" }, h("b", {}, entry.call ?? entry.what), h("span", { class: "dim", title: day(entry.time) }, ago(entry.time))),
        entry.names ? h("p", { class: "names" }, entry.names.split(" ").map((one) => h("code", { class: one[0] === "+" ? "good" : one[0] === "-" ? "bad" : "warn" }, one))) : null,
        entry.refused ? h("p", { class: "bad" }, entry.reason ?? entry.what) : null,
        h("p", { class: "dim small" }, [entry.peer ? `by ${entry.peer}` : "", entry.bridge ? `bridge ${entry.bridge}` : "", entry.why ?? "", entry.file ?? ""].filter(Boolean).join(" · ")),
        h("div", { class: "row" }, h("span", { class: "rev" }, `revision ${entry.revision}`), opens ? h("button", { type: "button", class: "small", "aria-label": `Look at revision ${entry.revision}`, on: { click: () => revision(entry.revision, now) } }, entry.revision === audit.revision ? "Look" : "Compare") : null),
      );
    }),
  );
  if (chosen === null || chosen === audit.revision) present(audit.revision, now);
}

function present(revision, now) {
  chosen = null;
  head.textContent = `In force: revision ${revision}`;
  const whole = pretty(now);
  fill(acts, h("button", { type: "button", class: "small", on: { click: () => copy(whole, "The configuration is") } }, "Copy"));
  text.textContent = whole.length > LONGEST ? `${whole.slice(0, LONGEST)}\n… ${number(whole.length - LONGEST)} more characters: carrier dump shows all` : whole;
}

async function revision(number, now) {
  if (number === known) return present(number, now);
  try {
    const then = await get(`revisions/${number}`);
    chosen = number;
    head.textContent = `Revision ${number} beside ${known}`;
    const why = mayNot();
    fill(
      acts,
      h("button", { type: "button", class: "small", on: { click: () => present(known, now) } }, "What is in force"),
      h("button", { type: "button", class: "small danger", disabled: Boolean(why), title: why || "Put this revision in force; user bridges stay", on: { click: () => back(number, then) } }, "Put it back"),
    );
    fill(text, compared(pretty(then), pretty(now)));
  } catch (error) {
    say(error.message, true);
  }
  return undefined;
}

async function back(number, then) {
  if (!(await confirmed(`Put revision ${number} back?`, "Put it in force", "The whole configuration becomes what it was then. User bridges stay, as far as they fit."))) return;
  try {
    await call("POST", "config", { body: then, headers: { "if-match": `"${known}"` } });
    chosen = null;
    say(`What revision ${number} was is in force`);
    tell("look");
    await look();
  } catch (error) {
    say(error.message, true);
  }
}

/** Lines of both, those that went and those that came marked. */
function compared(before, after) {
  const a = before.split("\n");
  const b = after.split("\n");
  if (before === after) return [h("span", { class: "dim" }, "The same as what is in force; user bridges are no part of it."), "\n\n", before.slice(0, LONGEST)];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const middle = difference(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const same = (lines) => lines.map((line) => `  ${line}\n`).join("");
  return [
    same(a.slice(Math.max(0, start - 20), start)),
    middle.map(([sign, line]) => (sign === " " ? `  ${line}\n` : h("span", { class: sign === "+" ? "came" : "went" }, `${sign} ${line}\n`))),
    same(a.slice(a.length - end, a.length - end + 20)),
  ];
}

/** The longest common subsequence of lines; of very long ones: all of the old, then all of the new. */
function difference(a, b) {
  if (a.length * b.length > LINES) return [...a.map((line) => ["-", line]), ...b.map((line) => ["+", line])];
  const width = b.length + 1;
  const long = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) long[i * width + j] = a[i] === b[j] ? long[(i + 1) * width + j + 1] + 1 : Math.max(long[(i + 1) * width + j], long[i * width + j + 1]);
  }
  const found = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      found.push([" ", a[i]]);
      i += 1;
      j += 1;
    } else if (j >= b.length || (i < a.length && long[(i + 1) * width + j] >= long[i * width + j + 1])) {
      found.push(["-", a[i]]);
      i += 1;
    } else {
      found.push(["+", b[j]]);
      j += 1;
    }
  }
  return found;
}

export const revisionNow = () => state.status?.revision;
