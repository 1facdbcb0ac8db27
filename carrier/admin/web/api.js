// Calls of the REST API. The token goes into a header, never into an address, and is forgotten with the tab.

import { setClock } from "./format.js";
import { tell } from "./state.js";

const BASE = new URL("api/v1/", document.baseURI);
const PATIENCE = 10_000; // milliseconds that an answer may take
const SILENCE = 40_000; // and that a stream may say nothing: a comment comes every 15 s
const LONGEST = 4 << 20; // characters of an event that has not ended

let token = stored();

function stored() {
  try {
    return sessionStorage.getItem("carrier.token") ?? "";
  } catch {
    return "";
  }
}

export const hasToken = () => token !== "";

/** Use this token from now on; "" for none. */
export function useToken(value) {
  token = value.trim();
  try {
    if (token) sessionStorage.setItem("carrier.token", token);
    else sessionStorage.removeItem("carrier.token");
  } catch {
    // this page alone knows it
  }
  tell("token");
}

/** What the API refused. problems: its list, where it gave one. */
export class Refused extends Error {
  constructor(status, content, message) {
    super(typeof content === "string" ? content : Array.isArray(content) && content[0]?.message ? content.map(sentence).join("; ") : message);
    this.status = status;
    this.problems = Array.isArray(content) ? content : [];
  }
}

/** A problem of the API as one sentence. */
export function sentence(problem) {
  const seen = problem.seen && !problem.message.includes(problem.seen) ? `, saw ${problem.seen}` : "";
  const allowed = problem.allowed ? ` (allowed: ${problem.allowed})` : "";
  const hint = problem.hint ? ` – ${problem.hint}` : "";
  return `${problem.message}${seen}${allowed}${hint}`;
}

function request(method, path, { query, headers, body, signal } = {}) {
  const url = new URL(`./${path}`, BASE); // "bridges:validate" alone would be an address of its own
  for (const [name, value] of Object.entries(query ?? {})) if (value) url.searchParams.set(name, value);
  const fields = { accept: "application/json", ...headers };
  if (token) fields.authorization = `Bearer ${token}`;
  if (body !== undefined) fields["content-type"] = "application/json";
  return fetch(url, {
    method,
    headers: fields,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "omit",
    referrerPolicy: "no-referrer",
  });
}

async function refusal(answer) {
  let found = {};
  try {
    found = await answer.json();
  } catch {
    // no JSON: somebody between us and the API has answered
  }
  if (answer.status === 401) tell("unauthorized", found.content ?? "the API needs a token");
  return new Refused(answer.status, found.content ?? "", found.message ?? `${answer.status} ${answer.statusText}`);
}

/** One call; resolves to what was answered, with `warning` of its header. Raises Refused, or TypeError when nobody answers. */
export async function call(method, path, more) {
  const patience = new Patience(PATIENCE);
  try {
    const answer = await request(method, path, { ...more, signal: patience.signal });
    setClock(answer.headers.get("date"));
    if (!answer.ok) throw await refusal(answer);
    const type = answer.headers.get("content-type") ?? "";
    const found = type.includes("json") ? await answer.json() : await answer.text();
    return more?.whole ? { found, warning: answer.headers.get("carrier-warning") ?? "", status: answer.status } : found;
  } finally {
    patience.end();
  }
}

/** Gives up what nothing is heard of for so long: a connection that was cut on the way, a process that stands still, are no errors of fetch. */
class Patience {
  #control = new AbortController();
  #timer;

  constructor(most, until) {
    this.most = most;
    until?.addEventListener("abort", () => this.#control.abort(until.reason), { once: true });
    this.heard();
  }

  get signal() {
    return this.#control.signal;
  }

  heard() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#control.abort(new Error("the proxy is silent")), this.most);
  }

  end() {
    clearTimeout(this.#timer);
  }
}

export const get = (path, more) => call("GET", path, more);
export const name = (value) => encodeURIComponent(value);

/** Events as they happen: `take(kind, data, id)` for each, until the stream ends or `signal` aborts. opened: called when it has begun. */
export async function watch(query, last, signal, take, opened) {
  const headers = { accept: "text/event-stream" };
  if (last) headers["last-event-id"] = last;
  const patience = new Patience(SILENCE, signal);
  try {
    const answer = await request("GET", "events", { query, headers, signal: patience.signal });
    if (!answer.ok) throw await refusal(answer);
    opened();
    await follow(answer.body.pipeThrough(new TextDecoderStream()).getReader(), take, patience);
  } finally {
    patience.end();
  }
}

async function follow(reader, take, patience) {
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    patience.heard();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    if (rest.length > LONGEST) throw new Error("an event has no end");
    for (const block of blocks) read(block, take);
  }
}

function read(block, take) {
  let id = "";
  let kind = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("data: ")) data = line.slice(6);
    else if (line.startsWith("id: ")) id = line.slice(4);
    else if (line.startsWith("event: ")) kind = line.slice(7);
  }
  if (data) take(kind, JSON.parse(data), id);
}
