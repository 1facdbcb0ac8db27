// Elements made of text: whatever comes from requests is never read as HTML. The page's policy forbids innerHTML besides.

const SVG = "http://www.w3.org/2000/svg";

/** An element. props: attributes; `on`: listeners by event; null and false leave an attribute out. children: nodes, texts, lists of them. */
export function h(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "on") for (const [event, does] of Object.entries(value)) made.addEventListener(event, does);
    else if (value === true) made.setAttribute(name, "");
    else if (value != null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return made;
}

/** Replace what is in a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** Set a node's text, if it is another one: a node that stays as it is costs no layout, and a reader of screens nothing to say. */
export function text(node, value) {
  const wanted = String(value);
  if (node.textContent !== wanted) node.textContent = wanted;
}

export const $ = (id) => document.getElementById(id);

/** An icon of lines: paths on a grid of 24. */
export function icon(...paths) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "i");
  for (const d of paths) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

export const ICONS = {
  light: ["M12 7a5 5 0 1 0 0 10 5 5 0 0 0 0-10zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M5 19l1.4-1.4M17.6 6.4 19 5"],
  dark: ["M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z"],
  system: ["M4 5h16v11H4zM9 20h6M12 16v4"],
  key: ["M14.5 9.5a4 4 0 1 1-8 0 4 4 0 0 1 8 0zM13.5 12.5 21 20M17 16l2-2"],
  close: ["M6 6l12 12M18 6 6 18"],
  plus: ["M12 5v14M5 12h14"],
};

/** A line over time that fills its box. values: the newest last. */
export function spark(values, size = 60) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  const area = document.createElementNS(SVG, "path");
  const line = document.createElementNS(SVG, "polyline");
  area.setAttribute("class", "area");
  svg.append(area, line);
  draw(svg, values, size);
  return svg;
}

/** Draw a spark's line anew. */
export function draw(svg, values, size = 60) {
  const most = Math.max(1, ...values);
  const first = size - values.length;
  const points = values.map((value, i) => `${(((first + i) / (size - 1)) * 100).toFixed(1)},${(22.5 - (value / most) * 20).toFixed(1)}`);
  const [area, line] = svg.childNodes;
  line.setAttribute("points", points.join(" "));
  area.setAttribute("d", points.length ? `M${points[0].split(",")[0]},24 L${points.join(" L")} L100,24 Z` : "");
}

/** Tell something once, also to readers of screens. bad: it failed. */
export function say(message, bad = false) {
  const said = $("said");
  fill(said, h("p", { class: bad ? "bad" : "" }, message));
  clearTimeout(say.timer);
  say.timer = setTimeout(() => said.replaceChildren(), bad ? 8000 : 4000);
}

/** Copy to the clipboard; where the browser refuses that, say so and show it for copying by hand. */
export async function copy(value, what) {
  try {
    await navigator.clipboard.writeText(value);
    say(`${what} copied`);
  } catch {
    const area = h("textarea", { readonly: true, rows: 6, "aria-label": what }, value);
    const box = h("dialog", { class: "box", "aria-label": what }, h("form", { method: "dialog" }, area, h("div", { class: "row end" }, h("button", { class: "primary" }, "Done"))));
    document.body.append(box);
    box.addEventListener("close", () => box.remove());
    box.showModal();
    area.select();
  }
}

/** Ask before something is done that cannot be taken back. Resolves to true or false. */
export function confirmed(question, verb, detail = "") {
  return new Promise((resolve) => {
    const yes = h("button", { class: "danger", value: "yes" }, verb);
    const box = h(
      "dialog",
      { class: "box small", "aria-labelledby": "asked" },
      h("form", { method: "dialog" }, h("h2", { id: "asked" }, question), detail && h("p", { class: "dim" }, detail), h("div", { class: "row end" }, h("button", { value: "no" }, "Cancel"), yes)),
    );
    box.addEventListener("close", () => {
      box.remove();
      resolve(box.returnValue === "yes");
    });
    document.body.append(box);
    box.showModal();
  });
}
