// A table of any length of which only what is seen is in the document: rows of one height, used again while it scrolls.

import { h } from "./dom.js";

const SPARE = 6; // rows beyond both edges
const REST = 400; // milliseconds without a change

let count = 0;

/**
 * columns: [{name, label, show(cell, row)}]; label: of the table; open(row): Enter or a click; empty: what is said when there is nothing.
 * `show(rows, reversed)` gives it its rows: an array that may change later; reversed: the last is shown first.
 */
export class Grid {
  constructor({ label, columns, open, empty, height = 30 }) {
    this.columns = columns;
    this.open = open;
    this.height = height;
    this.rows = [];
    this.length = 0;
    this.reversed = false;
    this.chosen = null;
    this.at = -1;
    this.pool = [];
    this.id = `grid-${(count += 1)}`;
    const head = h("div", { role: "row", class: "grid-head" }, columns.map((column) => h("div", { role: "columnheader", class: `cell ${column.name}` }, column.label)));
    this.pad = h("div", { class: "grid-pad", role: "rowgroup" });
    this.none = h("p", { class: "empty" }, empty);
    this.node = h("div", { role: "grid", class: "grid", "aria-label": label, tabindex: "0", "aria-rowcount": "1" }, h("div", { role: "rowgroup", class: "grid-top" }, head), this.pad);
    this.box = h("div", { class: "grid-box" }, this.node, this.none);
    this.node.addEventListener("scroll", () => this.later(), { passive: true });
    this.node.addEventListener("keydown", (event) => this.key(event));
    this.pad.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.later()).observe(this.node);
  }

  /** The row that stands at a place. */
  row(place) {
    return this.rows[this.reversed ? this.length - 1 - place : place];
  }

  show(rows, reversed = false) {
    this.rows = rows;
    this.length = rows.length;
    this.reversed = reversed;
    this.later();
  }

  /** The rows say something else than before. */
  again() {
    for (const slot of this.pool) slot.row = undefined;
    this.later();
  }

  get top() {
    return this.node.scrollTop < this.height;
  }

  /** Pixels in which rows are seen: below the heading, which is as high as they are and stays. */
  get room() {
    return this.node.clientHeight - this.height;
  }

  toTop() {
    this.node.scrollTop = 0;
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  draw() {
    const { height, room } = this;
    const at = this.node.scrollTop;
    if (room <= 0) return;
    this.none.hidden = this.length > 0;
    this.node.setAttribute("aria-rowcount", this.length + 1);
    const wanted = `${this.length * height}px`;
    if (this.pad.style.height !== wanted) this.pad.style.height = wanted;
    const first = Math.max(0, Math.floor(at / height) - SPARE);
    const last = Math.min(this.length, Math.ceil((at + room) / height) + SPARE);
    if (this.chosen !== null) this.at = this.find(this.chosen, first, last);
    while (this.pool.length < last - first) this.pool.push(this.make());
    for (const slot of this.pool) slot.used = false;
    for (let place = first; place < last; place += 1) this.put(this.slot(place), place);
    for (const slot of this.pool) if (slot.node.hidden === slot.used) this.hide(slot);
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.rest(), REST);
    const active = this.pool.find((slot) => slot.place === this.at && !slot.node.hidden);
    if (active) this.node.setAttribute("aria-activedescendant", active.node.id);
    else this.node.removeAttribute("aria-activedescendant");
  }

  /** What shows the row at a place. Rows keep theirs when others come before them: they move, and are not written again. */
  slot(place) {
    const number = this.reversed ? this.length - 1 - place : place;
    return this.pool[number % this.pool.length];
  }

  hide(slot) {
    slot.node.hidden = !slot.used;
    if (!slot.used) slot.row = undefined;
  }

  /** Nothing has moved for a while: rows stand in the document as they are seen, for those who read it in its order. */
  rest() {
    const rows = this.pool.filter((slot) => slot.used).sort((a, b) => a.place - b.place);
    const nodes = this.pad.children;
    if (rows.every((slot, i) => nodes[i] === slot.node) || this.pad.contains(document.activeElement)) return;
    this.pad.prepend(...rows.map((slot) => slot.node));
  }

  find(row, first, last) {
    for (let place = first; place < last; place += 1) if (this.row(place) === row) return place;
    return -1;
  }

  make() {
    const cells = this.columns.map((column) => h("div", { role: "gridcell", class: `cell ${column.name}` }));
    const node = h("div", { role: "row", class: "grid-row", id: `${this.id}-${this.pool.length}` }, cells);
    this.pad.append(node);
    return { node, cells, place: -1, row: undefined, used: false };
  }

  put(slot, place) {
    slot.used = true;
    if (slot.place !== place) {
      slot.place = place;
      slot.node.style.transform = `translateY(${place * this.height}px)`;
      slot.node.setAttribute("aria-rowindex", place + 2);
    }
    const row = this.row(place);
    const chosen = row === this.chosen ? "true" : "false";
    if (slot.node.getAttribute("aria-selected") !== chosen) slot.node.setAttribute("aria-selected", chosen);
    if (slot.row === row) return;
    slot.row = row;
    this.columns.forEach((column, i) => column.show(slot.cells[i], row));
  }

  click(event) {
    if (event.target.closest("button")) return;
    const node = event.target.closest(".grid-row");
    const slot = this.pool.find((one) => one.node === node);
    if (slot?.row !== undefined) this.choose(slot.place, true);
  }

  choose(place, opens) {
    this.at = place;
    this.chosen = this.row(place) ?? null;
    const top = place * this.height;
    if (top < this.node.scrollTop) this.node.scrollTop = top;
    else if (top + this.height > this.node.scrollTop + this.room) this.node.scrollTop = top + this.height - this.room;
    this.draw();
    if (opens && this.chosen) this.open(this.chosen);
  }

  key(event) {
    if (event.target !== this.node || !this.length) return;
    const page = Math.max(1, Math.floor(this.room / this.height) - 1);
    if (this.chosen !== null && this.at < 0) this.at = this.find(this.chosen, 0, this.length);
    const to = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + page, PageUp: this.at - page, Home: 0, End: this.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.choose(Math.min(this.length - 1, Math.max(0, to)), false);
    } else if ((event.key === "Enter" || event.key === " ") && this.at >= 0) {
      event.preventDefault();
      this.choose(this.at, true);
    }
  }
}
