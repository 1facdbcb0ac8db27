// An explanation of the API for people: rules in order with every condition met or not, what was seen, and what came near.

import { h } from "./dom.js";
import { given, number } from "./format.js";

const NEAREST = 3; // rules that do not match and are shown one by one
const NEAR = /differs only|without|trailing slash|there is .+ but|several values|came twice|holds a list|normal form/;

/** The whole answer. found: of POST /explain or GET /events/ID. */
export function explained(found, brief = false) {
  return [outcome(found, brief), misses(found), ...found.steps.map((step, i) => rules(step, i, found)), found.assumed?.length ? h("p", { class: "dim small" }, `Assumed: ${found.assumed.join("; ")}.`) : null];
}

const label = (report, found) => given(report.rule, `rule ${report.index + 1} of ${found.listener}`);

function outcome(found, brief) {
  const lines = brief ? [] : [h("p", { class: "lead" }, h("strong", {}, found.rule ? given(found.rule, "an unnamed rule") : "No rule"), " takes it.")];
  const row = (term, ...said) => h("div", {}, h("dt", {}, term), h("dd", {}, said));
  const facts = [];
  if (found.failure) facts.push(row("Answered", h("span", { class: "bad" }, `${found.failure.status}: ${found.failure.detail}`)));
  if (found.destination) facts.push(row("Goes to", choice(found.destination)));
  if (found.fallback) facts.push(row("Fallback", choice(found.fallback), found.fallback_when ? `; ${found.fallback_when}` : ""));
  if (found.retry) facts.push(row("Retries", found.retry));
  if (found.through?.length) facts.push(row("Through", found.through.join(", ")));
  if (found.rewrites?.length) facts.push(row("Rewrites", found.rewrites.map(([path, value]) => `${path} = ${JSON.stringify(value)}`).join(", ")));
  lines.push(h("dl", { class: "facts" }, facts));
  return lines;
}

function choice(to) {
  const name = given(to.cluster, to.protocol);
  return [name, to.address ? [", ", h("code", {}, to.address)] : "", to.why ? h("span", { class: "dim" }, ` (${to.why})`) : "", to.down?.length ? h("span", { class: "bad" }, ` down: ${to.down.join(", ")}`) : ""];
}

/** How far a rule is from taking it. */
function distance(report) {
  return report.conditions.reduce((sum, one) => sum + (one.held ? 0 : NEAR.test(one.near ?? "") ? 0.3 : one.seen == null ? 2 : 1), report.conditions.some((one) => one.held) ? 0 : 0.5);
}

const missed = (conditions) => conditions.flatMap((one) => (one.held ? [] : one.parts?.length ? missed(one.parts) : [one]));

/** What came near: rules of which one thing is missing, and what that is. */
function misses(found) {
  const near = found.steps
    .flatMap((step) => step.rules)
    .filter((report) => !report.matched && !report.note)
    .map((report) => ({ report, conditions: missed(report.conditions).filter((one) => NEAR.test(one.near ?? "")) }))
    .filter(({ report, conditions }) => conditions.length && conditions.length === missed(report.conditions).length)
    .slice(0, NEAREST);
  if (!near.length) return null;
  return h(
    "div",
    { class: "told near" },
    h("strong", {}, near.length > 1 ? "Close misses" : "A close miss"),
    near.map(({ report, conditions }) => h("p", {}, h("b", {}, label(report, found)), ": ", conditions.map((one) => [h("code", {}, one.text), ` – ${one.near}`, one.seen != null ? [", seen ", h("code", {}, one.seen)] : ""]))),
  );
}

function rules(step, depth, found) {
  const losers = step.rules.filter((report) => !report.matched && !report.note);
  const close = losers.length > NEAREST + 1 ? new Set([...losers].sort((a, b) => distance(a) - distance(b)).slice(0, NEAREST)) : new Set(losers);
  const open = step.rules.filter((report) => !losers.includes(report) || close.has(report));
  const rest = losers.filter((report) => !close.has(report));
  let decided = false;
  const item = (report) => {
    const node = rule(report, found, decided);
    decided ||= report.chosen;
    return node;
  };
  return h(
    "div",
    { class: "step" },
    h("h3", {}, depth ? `then rule list ${step.rulelist}` : "Rules, in order"),
    h("ol", { class: "why-rules" }, open.slice(0, 100).map(item)),
    rest.length ? h("details", {}, h("summary", {}, `${number(rest.length)} more rules match no better`), h("ol", { class: "why-rules" }, rest.slice(0, 100).map(item))) : null,
  );
}

function rule(report, found, decided) {
  const some = report.conditions.some((one) => one.held);
  const verdict = report.chosen ? "takes it" : report.matched ? (decided ? "would match, but an earlier rule takes it" : "matches, but another is more specific") : "does not match";
  const mark = report.chosen ? "✓" : report.matched ? "·" : some ? "½" : "✗";
  const all = report.conditions.length === 0 || report.conditions.every((one) => one.text === "anything");
  return h(
    "li",
    { class: report.chosen ? "chosen" : "" },
    h("span", { class: `mark ${report.chosen ? "good" : "dim"}`, "aria-hidden": "true" }, mark),
    h("div", {}, h("b", {}, label(report, found)), h("span", { class: "dim" }, ` ${all && report.chosen ? "takes everything" : verdict}`), report.note ? h("p", { class: "bad" }, report.note) : null, all ? null : h("ul", {}, report.conditions.map(condition))),
  );
}

function condition(one) {
  const seen = one.held || one.parts?.length ? "" : one.seen == null ? (one.near ? "" : "nothing there") : ["seen ", h("code", {}, one.seen === "" ? "(empty)" : one.seen)];
  return h(
    "li",
    { class: one.held ? "held-one" : "missed" },
    h("span", { class: one.held ? "good" : "bad", "aria-hidden": "true" }, one.held ? "✓ " : "✗ "),
    h("span", { class: "hidden-text" }, one.held ? "met: " : "not met: "),
    h("code", {}, one.text),
    seen ? h("span", { class: "dim" }, " ", seen) : null,
    one.near && !one.held ? h("span", { class: NEAR.test(one.near) ? "warn" : "dim" }, ` ${one.near}`) : null,
    one.parts?.length ? h("ul", {}, one.parts.map(condition)) : null,
  );
}
